"""Graphs from files: every format gives the same graph back, and every fault is named."""

from __future__ import annotations

import pickle
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from scipy import sparse

import geomdiag as gd
from geomdiag.errors import TaskError
from geomdiag.tasks.graphs.files import read_graph

GRAPH = nx.relabel_nodes(nx.petersen_graph(), {i: 9 - i for i in range(10)})
RNG = np.random.default_rng(0)
WEIGHTED = GRAPH.copy()
for _u, _v in WEIGHTED.edges:
    WEIGHTED.edges[_u, _v]["weight"] = float(RNG.integers(1, 4)) / 2


def write_sparse(graph: nx.Graph, path: Path) -> None:
    sparse.save_npz(path, sparse.csr_array(nx.to_scipy_sparse_array(graph, nodelist=range(10))))


def write_dense(graph: nx.Graph, path: Path) -> None:
    np.savez(path, adjacency=nx.to_numpy_array(graph, nodelist=range(10)), other=np.zeros(3))


def write_delimited(graph: nx.Graph, path: Path) -> None:
    separator = {".csv": ",", ".tsv": "\t", ".txt": "   "}[path.suffix]
    weighted = any("weight" in data for *_, data in graph.edges(data=True))
    rows = ["source" + separator + "target" + (separator + "weight" if weighted else "")]
    for u, v, data in graph.edges(data=True):
        rows.append(separator.join(map(str, [u, v] + ([data["weight"]] if weighted else []))))
    path.write_text("# a comment\n" + "\n".join(rows) + "\n\n")


WRITERS = {
    "g.graphml": nx.write_graphml,
    "g.gml": nx.write_gml,
    "g.edgelist": nx.write_edgelist,
    "h.edgelist": lambda g, path: nx.write_edgelist(
        g, path, data=["weight"] if g is WEIGHTED else False
    ),
    "g.txt": write_delimited,
    "g.csv": write_delimited,
    "g.tsv": write_delimited,
    "sparse.npz": write_sparse,
    "dense.npz": write_dense,
}


@pytest.mark.parametrize("graph", [GRAPH, WEIGHTED], ids=["plain", "weighted"])
@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_graph_back(name: str, graph: nx.Graph, tmp_path: Path) -> None:
    path = tmp_path / name
    WRITERS[name](graph, path)
    task = gd.task(f"graph:{path}")
    # Labels 0 ... 9 are the tokens, whatever order the file has them in.
    expected = nx.floyd_warshall_numpy(graph, nodelist=range(10))
    np.testing.assert_allclose(task.metric, expected, rtol=1e-12)
    assert task.parameters["digest"] == gd.task("graph", graph=graph)._digest  # type: ignore[attr-defined]
    again = gd.task(task.name)
    assert again == task
    assert again.parameters == task.parameters
    path.unlink()
    shipped = pickle.loads(pickle.dumps(task))  # the file need not be where the task goes
    assert shipped == task
    np.testing.assert_array_equal(shipped.metric, task.metric)


def test_a_file_that_has_changed_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "g.txt"
    path.write_text("0 1\n1 2\n")
    name = gd.task(f"graph:{path}").name
    path.write_text("0 1\n1 2\n2 0\n")
    with pytest.raises(TaskError, match="does not hold the graph that was meant"):
        gd.task(name)
    assert gd.task(f"graph:{path}").classes == 2


def test_nodes_follow_numbers_or_else_the_file(tmp_path: Path) -> None:
    path = tmp_path / "g.txt"
    path.write_text("10 2\n2 1\n")
    assert read_graph(path).edges.tolist() == [[0, 1], [1, 2]]  # 1, 2, 10
    path.write_text("10 b\nb 1\n")
    assert read_graph(path).edges.tolist() == [[0, 1], [1, 2]]  # 10, b, 1
    path.write_text("1 b\n10 1\n")
    assert read_graph(path).edges.tolist() == [[0, 1], [0, 2]]  # 1, b, 10
    named = nx.Graph([("c", "a"), ("a", "b")])
    nx.write_gml(named, tmp_path / "g.gml")
    assert read_graph(tmp_path / "g.gml").edges.tolist() == [[0, 1], [1, 2]]


def test_a_first_edge_is_no_header(tmp_path: Path) -> None:
    path = tmp_path / "g.csv"
    path.write_text("u,v\nv,w\n")
    assert len(read_graph(path).edges) == 2
    path.write_text("source,a\na,target\n")
    assert len(read_graph(path).edges) == 2
    path.write_text("source,target,3\ntarget,a,1\n")
    assert len(read_graph(path).edges) == 2
    path.write_text("Source,Target,Length\n0,1,2\n1,2,3\n")
    assert len(read_graph(path).edges) == 2


def test_gml_without_labels(tmp_path: Path) -> None:
    path = tmp_path / "g.gml"
    path.write_text(
        "graph [ node [ id 2 ] node [ id 0 ] node [ id 1 ] "
        "edge [ source 2 target 0 ] edge [ source 0 target 1 ] ]"
    )
    assert read_graph(path).edges.tolist() == [[0, 1], [0, 2]]


def test_loops_go_and_of_parallel_edges_the_shortest_stays(tmp_path: Path) -> None:
    path = tmp_path / "g.txt"
    path.write_text("0 1 3\n1 0 2\n1 1 7\n1 2 5\n")
    found = read_graph(path)
    assert found.edges.tolist() == [[0, 1], [1, 2]]
    assert found.weights is not None
    assert found.weights.tolist() == [2, 5]
    many = nx.MultiGraph([(0, 1), (0, 1), (1, 2)])
    assert gd.task("graph", graph=many) == gd.task("graph", graph=nx.path_graph(3))


TEXT = {
    "not-connected.txt": (
        "0 1\n2 3\n",
        r"not connected: it falls into 2 parts, the largest with 2",
    ),
    "one.txt": ("0 0\n", "has 1 node; expected two or more"),
    "empty.txt": ("", "lists no edge"),
    "header.csv": ("source,target\n", "lists no edge"),
    "negative.txt": (
        "0 1 1\n1 2 -1\n",
        r"tokens 1 and 2 has the length -1; lengths must be positive",
    ),
    "zero.txt": ("0 1 0\n", "length 0"),
    "nan.txt": ("0 1 nan\n", "length nan"),
    "infinite.txt": ("0 1 inf\n", "length inf"),
    "words.txt": ("0 1 long\n", "a weight that is no number"),
    "ragged.txt": ("0 1\n# a comment\n1 2 3\n", r"line 3: found 3 columns"),
    "wide.csv": ("0,1,2,3\n", r"line 1: found 4 columns"),
    "half.edgelist": ("0 1 {}\n1\n", r"line 2: found 1 columns"),
    "commas.txt": ("0,1\n", r"line 1: found 1 columns .* by white space"),
    "broken.graphml": ("<graphml>", r"cannot be read as \.graphml: "),
    "broken.gml": ("graph [ node", r"cannot be read as \.gml: "),
    "directed.gml": (
        "graph [ directed 1 node [ id 0 label 0 ] node [ id 1 label 1 ] "
        "edge [ source 0 target 1 ] ]",
        "is directed",
    ),
    "broken.npz": ("no archive", r"cannot be read as \.npz: "),
}


@pytest.mark.parametrize("name", TEXT)
def test_faults_of_files_are_named(name: str, tmp_path: Path) -> None:
    text, message = TEXT[name]
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(TaskError, match=message) as caught:
        gd.task("graph", graph=str(path))
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.triu(np.ones((3, 3)))}, "not symmetric: the graph is directed"),
        ({"a": np.ones((3, 2))}, r"shape \(3, 2\)"),
        ({"a": np.ones(3)}, r"shape \(1, 3\)"),
        ({"a": np.full((2, 2), "x")}, "type <U1"),
        ({"a": np.ones((2, 2)), "b": np.ones((2, 2))}, "holds 2 arrays"),
        ({"a": np.array([[0, np.nan], [np.nan, 0]])}, "length nan"),
        ({"a": np.array([[0.0, -2.0], [-2.0, 0.0]])}, "length -2"),
        ({"a": np.zeros((3, 3))}, "not connected"),
        ({"a": np.zeros((0, 0))}, "has 0 nodes"),
        ({"a": np.array([None])}, r"cannot be read as \.npz"),
    ],
)
def test_faults_of_matrices_are_named(
    arrays: dict[str, np.ndarray], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    with pytest.raises(TaskError, match=message):
        gd.task("graph", graph=str(path))


def test_large_graphs_are_refused_before_they_take_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    sparse.save_npz(path, sparse.csr_array((10**6, 10**6)))
    with pytest.raises(TaskError, match=r"1000000 nodes, more than the 2000"):
        gd.task("graph", graph=str(path))
    with pytest.raises(TaskError, match=r"2001 nodes, more than the 2000"):
        gd.task("graph", graph=nx.path_graph(2001))


def test_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"does not exist; looked in"):
        gd.task(f"graph:{tmp_path / 'nothing.graphml'}")
    (tmp_path / "folder.gml").mkdir()
    with pytest.raises(TaskError, match="is a folder"):
        gd.task(f"graph:{tmp_path / 'folder.gml'}")
    with pytest.raises(TaskError, match="Rename the file"):
        gd.task("graph", graph="a,b.gml")


def test_faults_of_graphs_handed_over_are_named() -> None:
    for graph, message in [
        (nx.DiGraph([(0, 1)]), "is directed; .*to_undirected"),
        (nx.Graph(), "has 0 nodes"),
        (nx.Graph([(0, 1), (2, 3)]), "not connected"),
        (nx.Graph([(0, 1, {"weight": 1}), (1, 2)]), "1 of 2 edges have no weight"),
        (nx.Graph([(0, 1, {"weight": "far"})]), "a weight that is no number"),
    ]:
        with pytest.raises(TaskError, match=message):
            gd.task("graph", graph=graph)
    for graph in (7.5, None, np.eye(3)):
        with pytest.raises(TaskError, match="expected the name of a graph"):
            gd.task("graph", graph=graph)


def test_too_many_distinct_distances_are_told_at_once() -> None:
    graph = nx.complete_graph(100)
    rng = np.random.default_rng(0)
    for u, v in graph.edges:
        graph.edges[u, v]["weight"] = 1.0 + rng.random()
    with pytest.raises(TaskError, match=r"4951 distinct distances, more than the 2000 .* Round"):
        gd.task("graph", graph=graph)
