"""Graph tasks: names, sizes, bases, weights and distortions against known answers."""

from __future__ import annotations

import itertools
import math
import pickle

import networkx as nx
import numpy as np
import pytest
import xarray as xr
from helpers.graph_tasks import KNOWN, WEIGHTED, graph_task
from hypothesis import given
from hypothesis import strategies as st

import geomdiag as gd
from geomdiag.analyzers import ANALYZERS
from geomdiag.errors import TaskError
from geomdiag.metrics.distortion import compare_distances, distortions, target_metric
from geomdiag.models import Matrix
from geomdiag.tasks.graph import GraphTask
from geomdiag.tasks.graphs.sources import MAX_NODES

# --- named graphs ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KNOWN)
def test_named_graphs_are_what_they_are_called(name: str) -> None:
    task, expected = graph_task(name), KNOWN[name]
    made = nx.Graph(task.edges.tolist())
    assert task.tokens == len(expected) == len(made)
    assert len(task.edges) == expected.number_of_edges()
    assert nx.is_isomorphic(made, expected)
    assert task.classes == nx.diameter(expected) + 1
    lengths = nx.floyd_warshall_numpy(made, nodelist=range(task.tokens))
    np.testing.assert_array_equal(task.metric, lengths)
    np.testing.assert_array_equal(task.answers, lengths.ravel().astype(int))


def test_nodes_are_numbered_as_said() -> None:
    lattice = graph_task("lattice-3x4")
    u, v = np.divmod(np.arange(12), 4)
    taxicab = np.abs(u[:, None] - u) + np.abs(v[:, None] - v)
    np.testing.assert_array_equal(lattice.metric, taxicab)
    cylinder = graph_task("cylinder-3x4")  # open along the first size, periodic along the second
    around = np.abs(v[:, None] - v)
    np.testing.assert_array_equal(
        cylinder.metric, np.abs(u[:, None] - u) + np.minimum(around, 4 - around)
    )
    tree = graph_task("tree-3x2")
    assert tree.edges[:4].tolist() == [[0, 1], [0, 2], [0, 3], [1, 4]]


def test_names_are_canonical() -> None:
    assert gd.task("graph:Lattice-07x7").name == "graph:lattice-7x7"
    assert gd.task("graph:path-64").parameters == {"graph": "path-64"}
    one, other = gd.task("graph:path-6"), gd.task("graph:path-06")
    assert one == other
    assert hash(one) == hash(other)
    assert one != gd.task("graph:path-7")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "lattise-7x7",
            r"unknown graph 'lattise-7x7'. Did you mean 'lattice-7x7'\? Known: path-64",
        ),
        ("ring", "unknown graph 'ring'"),
        ("lattice", "does not say its size as in 'lattice-7x7'"),
        ("lattice-7xseven", "does not say its size"),
        ("lattice-7", "two sizes or more"),
        ("path-7x7", "needs 1 size, found 2"),
        ("path-1", "no size may be below 2, found 1"),
        ("cycle-2", "no size may be below 3"),
        ("cylinder-7x2", "the length around must be at least 3, found 2"),
        ("torus-2x7", "no size may be below 3"),
        ("tree-1x5", "a branching of 1 gives a path"),
        ("tree-9x999999999", f"more than {MAX_NODES}"),
        ("hypercube-999999999", f"more than {MAX_NODES}"),
        ("hypercube-11", f"more than {MAX_NODES}"),
        ("path-2001", "has 2001 nodes, more than the 2000"),
        ("lattice-7x7,digest=abc", "known by its name; leave out its digest"),
        ("given-0123456789abcdef0123", "cannot be made from its name"),
        ("64", "expected the name of a graph, a file or a NetworkX graph, found 64"),
    ],
)
def test_wrong_names_are_told(name: str, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        gd.task(f"graph:{name}")


def test_a_missing_graph_is_told() -> None:
    with pytest.raises(TaskError, match=r"'graph' .* Write for example 'graph:lattice-7x7'"):
        gd.task("graph")


# --- basis -------------------------------------------------------------------------------------


def test_eigenspaces_of_a_path_are_cosines() -> None:
    n = 8
    basis = graph_task(f"path-{n}").basis
    waves = np.cos(np.pi * np.outer(np.arange(n) + 0.5, np.arange(n)) / n)
    waves /= np.linalg.norm(waves, axis=0)
    assert basis.block.tolist() == list(range(n))
    np.testing.assert_allclose(np.abs((waves * basis.vectors).sum(axis=0)), 1, rtol=1e-12)
    values = 2 - 2 * np.cos(np.pi * np.arange(n) / n)
    assert [float(label[2:]) for label in basis.labels] == pytest.approx(values, abs=0.05)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("hypercube-4", [1, 4, 6, 4, 1]),  # binomial
        ("cycle-8", [1, 2, 2, 2, 1]),
        ("cycle-7", [1, 2, 2, 2]),
        ("torus-3x3", [1, 4, 4]),
    ],
)
def test_degenerate_eigenvalues_are_one_block(name: str, sizes: list[int]) -> None:
    assert np.bincount(graph_task(name).basis.block).tolist() == sizes


@pytest.mark.parametrize("n", [3, 4, 9, 64])
def test_characters_of_a_cycle_are_its_eigenspaces(n: int) -> None:
    characters = graph_task(f"cycle-{n}").basis
    eigenspaces = graph_task(nx.cycle_graph(n)).basis
    assert characters.period == n
    assert characters.labels[:2] == ("k=0", "k=1")
    assert len(characters.labels) == len(eigenspaces.labels)
    for block in range(len(characters.labels)):
        one, other = (b.vectors[:, b.block == block] for b in (characters, eigenspaces))
        np.testing.assert_allclose(one @ one.T, other @ other.T, atol=1e-10)


def test_a_cycle_can_be_walked_in_other_steps() -> None:
    task = graph_task("cycle-12")
    np.testing.assert_array_equal(task.metric_for(1), task.metric)
    fives = task.metric_for(5)
    assert fives is not None
    assert fives[0, 5] == 1
    assert [task.metric_for(block) for block in (0, 2, 3, 4, 6, 7, -1)] == [None] * 7
    assert graph_task("path-12").metric_for(1) is None


def test_labels_have_as_many_digits_as_tell_them_apart() -> None:
    assert graph_task("path-5").basis.labels == ("λ=0", "λ=0.38", "λ=1.4", "λ=2.6", "λ=3.6")
    labels = graph_task("path-64").basis.labels
    assert len(set(labels)) == 64


def test_long_edges_couple_weakly() -> None:
    """1/length, as for springs: two nearby nodes move together in the slowest mode."""
    graph = nx.Graph()
    graph.add_weighted_edges_from([(0, 1, 0.01), (1, 2, 1.0)])
    slowest = graph_task(graph).basis.vectors[:, 1]
    assert slowest[0] * slowest[1] > 0 > slowest[1] * slowest[2]
    assert slowest[0] == pytest.approx(slowest[1], rel=0.02)


def test_a_barely_connected_graph_has_exact_constants() -> None:
    graph = nx.Graph()
    graph.add_weighted_edges_from([(0, 1, 1e-9), (1, 2, 1e9), (2, 3, 1e-9)])
    vectors = graph_task(graph).basis.vectors
    np.testing.assert_array_equal(vectors[:, 0], 0.5)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(4), atol=1e-12)


# --- weights -----------------------------------------------------------------------------------


def test_weighted_classes_are_the_distinct_distances() -> None:
    task = graph_task(WEIGHTED)
    # 0.1 + 0.2 and 0.3 are one class, though not the same number.
    expected = nx.floyd_warshall_numpy(WEIGHTED, nodelist=range(5), weight="weight")
    np.testing.assert_allclose(task.metric, expected, rtol=1e-12)
    assert task.distances.values == pytest.approx([0, 0.1, 0.2, 0.3, 1.0, 1.2, 1.3, 1.5, 1.6])
    np.testing.assert_allclose(task.distances.values[task.answers], expected.ravel(), rtol=1e-9)
    sums = task.distances.sums
    assert sums is not None
    for i, j in itertools.product(range(task.classes), repeat=2):
        total = task.distances.values[i] + task.distances.values[j]
        near = np.flatnonzero(np.abs(task.distances.values - total) < 1e-9)
        assert sums[i, j] == (near[0] if len(near) else -1)


def test_equal_weights_are_an_unweighted_graph_in_another_unit() -> None:
    graph = nx.cycle_graph(6)
    nx.set_edge_attributes(graph, 2.5, "weight")
    task = graph_task(graph)
    assert task.distances.sums is None
    np.testing.assert_array_equal(task.answers, graph_task("cycle-6").answers)
    np.testing.assert_array_equal(task.metric, 2.5 * graph_task("cycle-6").metric)
    nx.set_edge_attributes(graph, 1, "weight")
    assert graph_task(graph) == graph_task(nx.cycle_graph(6))


# --- sizes of a checkpoint ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vocabulary", "classes", "first"),
    [
        (49, 13, "lattice-7x7"),
        (50, 13, "lattice-7x7"),
        (51, 13, "lattice-7x7"),
        (343, 19, "lattice-7x7x7"),
        (49, 10, "cylinder-7x7"),
        (49, 7, "torus-7x7"),
        (128, 8, "hypercube-7"),
        (65, 64, "path-64"),
        (64, 33, "cycle-64"),
        (63, 11, "tree-2x5"),
    ],
)
def test_sizes_tell_the_graph(vocabulary: int, classes: int, first: str) -> None:
    found = GraphTask.fitting(vocabulary, classes)
    assert found[0] == f"graph:{first}"
    for spec in found:
        task = gd.task(spec)
        assert task.classes == classes
        assert 0 <= vocabulary - task.tokens <= 2


def test_graphs_that_fill_the_vocabulary_go_first() -> None:
    assert GraphTask.fitting(65, 33)[:2] == ("graph:cycle-65", "graph:cycle-64")


def test_a_read_out_of_the_vocabulary_leaves_the_graph_open() -> None:
    found = GraphTask.fitting(49, 49)
    assert {"graph:path-49", "graph:cycle-49", "graph:lattice-7x7", "graph:torus-7x7"} <= set(found)
    assert "graph:lattice-6x8" not in found
    assert set(GraphTask.fitting(49, None)) >= {"graph:lattice-7x7"}
    assert GraphTask.fitting(None, 13) == ()
    assert GraphTask.fitting(49, 12345) == ()
    assert GraphTask.fitting(10**6, 13) == ()
    assert not any("tree-" in name for name in GraphTask.fitting(30, 3))  # a star always fits


@given(st.integers(2, 130), st.integers(2, 130))
def test_whatever_fits_can_be_made(vocabulary: int, classes: int) -> None:
    for spec in GraphTask.fitting(vocabulary, classes):
        task = gd.task(spec)
        assert task.name == spec
        assert task.classes == classes or (vocabulary == classes and task.classes < classes)
        assert 0 <= vocabulary - task.tokens <= 2


# --- pickling ----------------------------------------------------------------------------------


def test_graphs_handed_over_travel() -> None:
    for graph in (nx.petersen_graph(), WEIGHTED):
        task = graph_task(graph)
        assert task.symmetries
        shipped = pickle.dumps(task)
        again = pickle.loads(shipped)
        assert len(shipped) < 1000
        assert again == task
        assert again.name.startswith("graph:given-")
        np.testing.assert_array_equal(again.metric, task.metric)
        with pytest.raises(TaskError, match="cannot be made from its name"):
            gd.task(task.name)
    assert graph_task(nx.petersen_graph(), digest=graph_task(nx.petersen_graph())._digest)
    with pytest.raises(TaskError, match="has the digest"):
        graph_task(nx.petersen_graph(), digest="0")


# --- distortion --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["path-9", "lattice-5x5", "lattice-4x4x4"])
def test_a_lattice_embedded_as_itself(name: str) -> None:
    """Its geodesic distance is the taxicab one: what the drawing has along its own edges."""
    task = graph_task(name)
    sizes = [int(size) for size in name.partition("-")[2].split("x")]
    points = np.indices(sizes).reshape(len(sizes), -1).T.astype(float)
    found = distortions(points, task.metric)
    assert found["stress_intrinsic"] == pytest.approx(0, abs=1e-7)
    for measure in ("worst_case", "spearman", "neighbour_recall"):
        assert found[f"{measure}_intrinsic"] == pytest.approx(1)
    assert found["neighbour_recall"] == pytest.approx(1)
    # Straight lines: along an axis they are the distance, along a diagonal √dim shorter.
    assert found["worst_case"] == pytest.approx(math.sqrt(len(sizes)))
    assert (found["stress"] < 1e-7) == (len(sizes) == 1)


@pytest.mark.parametrize("n", [8, 64])
def test_a_cycle_drawn_as_a_circle(n: int) -> None:
    angle = 2 * np.pi * np.arange(n) / n
    found = distortions(
        np.stack([np.cos(angle), np.sin(angle)], axis=1), graph_task(f"cycle-{n}").metric
    )
    assert found["worst_case_intrinsic"] == pytest.approx(1)
    assert found["worst_case"] == pytest.approx(n / 2 * math.sin(np.pi / n))


@pytest.mark.parametrize("graph", ["lattice-3x4", WEIGHTED])
def test_answers_have_a_distortion_of_their_own(graph: object) -> None:
    task = graph_task(graph)
    n = task.tokens
    points = Matrix(np.random.default_rng(0).normal(size=(n, 4)))

    def predicted(logits: np.ndarray | None) -> xr.Dataset:
        snapshot = gd.Snapshot(task, matrices={"embedding": points}, logits=logits)
        return ANALYZERS["distortion"].compute(snapshot, task)

    right = predicted(60.0 * np.eye(task.classes)[task.answers])["predicted_distortion"]
    plain = ["spearman", "stress", "worst_case", "mean", "neighbour_recall"]
    np.testing.assert_allclose(right.sel(measure=plain), [1, 0, 1, 0, 1], atol=1e-7)
    assert int(right.notnull().sum()) == len(plain)
    # Answers that are unsure and differ by direction: the mean of both expectations.
    p = np.random.default_rng(1).dirichlet(np.ones(task.classes), size=n * n)
    expected = np.zeros((n, n))
    for row, (u, v) in enumerate(task.inputs):
        if u != v:
            expected[u, v] += 0.5 * p[row] @ task.distances.values
            expected[v, u] += 0.5 * p[row] @ task.distances.values
    by_hand = compare_distances(expected, target_metric(task.metric, task.degrees))
    found = predicted(np.log(p))["predicted_distortion"]
    for name, value in by_hand.items():
        assert float(found.sel(measure=name)) == pytest.approx(value, rel=1e-9)
    assert predicted(np.full((n * n, task.classes), np.nan))["predicted_distortion"].isnull().all()
    assert "predicted_distortion" not in predicted(None)


def test_a_weighted_cycle_drawn_as_a_circle() -> None:
    """Nearest neighbours are as many as a node has edges, whatever their lengths."""
    graph = nx.Graph()
    steps = [1.0, 1.2, 0.9, 1.1, 1.05, 0.95, 1.15, 1.3]
    graph.add_weighted_edges_from((i, (i + 1) % 8, step) for i, step in enumerate(steps))
    graph.add_edge(0, 4, weight=50.0)  # on no shortest path
    task = graph_task(graph)
    np.testing.assert_array_equal(task.degrees, [2] * 8)
    angle = 2 * np.pi * np.concatenate([[0.0], np.cumsum(steps[:-1])]) / sum(steps)
    points = Matrix(np.stack([np.cos(angle), np.sin(angle)], axis=1))
    snapshot = gd.Snapshot(task, matrices={"embedding": points})
    found = ANALYZERS["distortion"].compute(snapshot, task)["distortion"].sel(matrix="embedding")
    assert float(found.sel(measure="worst_case_intrinsic")) < 1.02
    assert float(found.sel(measure="components_intrinsic")) == 1
    assert float(found.sel(measure="neighbour_recall")) == 1
    assert graph_task("lattice-3x4").degrees is None


def test_random_embeddings_sit_at_chance() -> None:
    """Under exchangeable rows: no rank correlation; recall degree/(n - 1), token by token."""
    task = graph_task("lattice-5x5")
    degree = (task.metric == 1).sum(axis=1)
    draws = 200
    rng = np.random.default_rng(0)
    found = [distortions(rng.normal(size=(25, 6)), task.metric) for _ in range(draws)]
    for measure, chance in (("spearman", 0.0), ("neighbour_recall", degree.mean() / 24)):
        values = np.array([one[measure] for one in found])
        assert abs(values.mean() - chance) < 4 * values.std(ddof=1) / math.sqrt(draws)
