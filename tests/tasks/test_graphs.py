"""Graph tasks against NetworkX, enumerations, and loops written from the definitions."""

from __future__ import annotations

import itertools
import math
import pickle

import networkx as nx
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import geomdiag as gd
from geomdiag.analyzers import ANALYZERS
from geomdiag.errors import TaskError
from geomdiag.metrics.distortion import compare_distances, distortions
from geomdiag.models import Matrix
from geomdiag.tasks import Composition, Equivalence
from geomdiag.tasks.automorphisms import automorphism_generators, pair_orbits
from geomdiag.tasks.graph_distances import geodesic_triples
from geomdiag.tasks.graph_sources import MAX_NODES
from geomdiag.tasks.graphs import GraphTask

KNOWN = {
    "path-64": nx.path_graph(64),
    "cycle-64": nx.cycle_graph(64),
    "lattice-7x7": nx.grid_graph([7, 7]),
    "lattice-2x3x4": nx.grid_graph([2, 3, 4]),
    "cylinder-3x7": nx.cartesian_product(nx.path_graph(3), nx.cycle_graph(7)),
    "torus-3x5": nx.grid_graph([3, 5], periodic=True),
    "torus-4x4x3": nx.grid_graph([4, 4, 3], periodic=True),
    "hypercube-7": nx.hypercube_graph(7),
    "tree-2x5": nx.balanced_tree(2, 5),
    "tree-3x2": nx.balanced_tree(3, 2),
}


def graph_task(graph: object, **more: object) -> GraphTask:
    made = gd.task("graph", graph=graph, **more)
    assert isinstance(made, GraphTask)
    return made


def symmetry(task: GraphTask, name: str) -> Equivalence | Composition:
    return next(one for one in task.symmetries if one.name == name)


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    joint = len(set(zip(one.tolist(), other.tolist(), strict=True)))
    return joint == len(np.unique(one)) == len(np.unique(other))


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


# --- symmetries --------------------------------------------------------------------------------


def enumerated_orbits(distance: np.ndarray) -> np.ndarray:
    """Orbits of pairs under all permutations that keep the distances, by trying them all."""
    n = len(distance)
    generators = [
        np.array(image)
        for image in itertools.permutations(range(n))
        if (distance[np.ix_(image, image)] == distance).all()
    ]
    orbit = np.arange(n * n)
    for image in generators:  # they are the whole group: the least image names the orbit
        orbit = np.minimum(orbit, (image[:, None] * n + image).ravel())
    return orbit


ATLAS = [g for g in nx.graph_atlas_g() if 2 <= len(g) <= 6 and nx.is_connected(g)]


def test_automorphisms_of_every_small_graph() -> None:
    assert len(ATLAS) == 1 + 2 + 6 + 21 + 112
    for graph in ATLAS:
        task = graph_task(graph)
        expected = enumerated_orbits(task.distances.classes)
        found = [one for one in task.symmetries if one.name == "automorphism"]
        if len(np.unique(expected)) == task.tokens**2:
            assert not found
            assert "no automorphism but the identity" in task.left_out["automorphism"]
            continue
        assert isinstance(found[0], Equivalence)
        assert found[0].orbits is not None
        assert same_partition(found[0].orbits, expected)
        assert not task.left_out


@pytest.mark.parametrize(
    "name",
    [*KNOWN, "lattice-3x3x3", "lattice-2x2x5", "cylinder-2x4", "cylinder-5x4", "torus-4x5"],
)
def test_automorphisms_of_named_graphs_are_those_a_search_finds(name: str) -> None:
    task = graph_task(name)
    closed = symmetry(task, "automorphism")
    assert isinstance(closed, Equivalence)
    assert closed.orbits is not None
    searched = automorphism_generators(task.distances.classes)
    assert searched is not None
    assert same_partition(closed.orbits, pair_orbits(searched, task.tokens))


@given(st.integers(0, 2**32 - 1), st.integers(3, 6), st.integers(1, 2))
def test_automorphisms_with_weights_keep_distances(seed: int, nodes: int, lengths: int) -> None:
    rng = np.random.default_rng(seed)
    graph = nx.Graph()
    for v in range(1, nodes):
        graph.add_edge(v, int(rng.integers(v)), weight=float(rng.integers(1, lengths + 1)))
    for u, v in itertools.combinations(range(nodes), 2):
        if rng.random() < 0.4:
            graph.add_edge(u, v, weight=float(rng.integers(1, lengths + 1)))
    task = graph_task(graph)
    generators = automorphism_generators(task.distances.classes)
    assert generators is not None
    expected = enumerated_orbits(task.distances.classes)
    assert same_partition(pair_orbits(generators, task.tokens), expected)


@pytest.mark.parametrize(
    ("graph", "orbits"),
    [
        (nx.petersen_graph(), 3),  # distance-transitive: an orbit for each distance
        (nx.paley_graph(29).to_undirected(), 3),
        (nx.complete_graph(40), 2),
        (nx.star_graph(60), 5),  # centre; to a leaf and back; a leaf; two leaves
        (nx.complete_bipartite_graph(7, 7), 3),
        (nx.line_graph(nx.complete_graph(8)), 3),
    ],
)
def test_automorphisms_of_very_symmetric_graphs(graph: nx.Graph, orbits: int) -> None:
    found = symmetry(graph_task(graph), "automorphism")
    assert isinstance(found, Equivalence)
    assert found.orbits is not None
    assert len(np.unique(found.orbits)) == orbits


def test_a_search_beyond_its_bound_gives_up() -> None:
    classes = graph_task("hypercube-5").distances.classes
    assert automorphism_generators(classes, max_visits=1000) is None


def test_what_was_not_found_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geomdiag.tasks.graphs.automorphism_generators", lambda classes: None)
    task = graph_task(nx.cycle_graph(5))
    assert [one.name for one in task.symmetries] == ["reversal", "triangle"]
    assert "not found within" in task.left_out["automorphism"]


WEIGHTED = nx.Graph()
WEIGHTED.add_weighted_edges_from(
    [(0, 1, 0.1), (1, 2, 0.2), (0, 2, 0.3), (2, 3, 1.0), (3, 4, 0.3), (0, 4, 2.5)]
)


@pytest.mark.parametrize(
    "graph", ["path-6", "cycle-7", "lattice-3x4", "torus-3x4", "tree-2x2", WEIGHTED]
)
def test_triangle_is_the_loop_of_the_definition(graph: object) -> None:
    """For b on a shortest a-c path (ends included): P_ab * P_bc against P_ac."""
    task = graph_task(graph)
    n, classes = task.tokens, task.classes
    length, value = task.metric, task.distances.values
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(n * n, classes)) + 2 * np.eye(classes)[task.answers]
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    p = np.exp(log_p)
    symmetric, directed, lost = [], [], []
    for a, b, c in itertools.product(range(n), repeat=3):
        if abs(length[a, b] + length[b, c] - length[a, c]) > 1e-9:
            continue
        composed = np.zeros(classes)
        for i, j, k in itertools.product(range(classes), repeat=3):
            if abs(value[i] + value[j] - value[k]) <= 1e-9:
                composed[k] += p[a * n + b, i] * p[b * n + c, j]
        lost.append(1 - composed.sum())
        composed /= composed.sum()
        whole = p[a * n + c]
        forward = (composed * np.log(composed / whole)).sum()
        symmetric.append(0.5 * (forward + (whole * np.log(whole / composed)).sum()))
        directed.append(forward)
    snapshot = gd.Snapshot(task, logits=logits, train=np.ones(n * n, dtype=bool))
    found = ANALYZERS["symmetry"].compute(snapshot, task).sel(symmetry="triangle")
    assert int(found["symmetry_instances"]) == len(symmetric)
    assert found["symmetry_exact"].values.all()
    for name, values in (
        ("symmetry_violation", symmetric),
        ("symmetry_violation_directed", directed),
        ("symmetry_lost_mass", lost),
    ):
        expected = [np.mean(values), *np.quantile(values, [0.5, 0.95, 1.0])]
        np.testing.assert_allclose(found[name], expected, rtol=1e-9, atol=1e-12)
    by_part = found["symmetry_violation_part"]
    np.testing.assert_allclose(by_part.sel(touches="train"), found["symmetry_violation"])
    assert by_part.sel(touches=["heldout", "mixed"]).isnull().all()


def test_right_answers_have_no_violation() -> None:
    for graph in ("lattice-3x3", WEIGHTED):
        task = graph_task(graph)
        logits = 60.0 * np.eye(task.classes)[task.answers]
        assert float(np.abs(gd.symmetry_violation(logits, task)).max()) < 1e-12


@pytest.mark.parametrize(("sizes", "name"), [([7, 7], "lattice-7x7"), ([4, 3, 2], "lattice-4x3x2")])
def test_triples_of_a_lattice_are_products_of_those_of_its_paths(
    sizes: list[int], name: str
) -> None:
    # On a path of L nodes: |a - c| + 1 nodes between a and c, the ends included.
    count = math.prod(sum(abs(a - c) + 1 for a in range(s) for c in range(s)) for s in sizes)
    found = symmetry(graph_task(name), "triangle")
    assert isinstance(found, Composition)
    assert len(found.whole) == count
    assert found.exact


def test_more_triples_than_the_limit_are_sampled_uniformly() -> None:
    distances = graph_task("lattice-4x4").distances
    every = geodesic_triples(distances)
    assert every.exact
    some = geodesic_triples(distances, limit=every.total - 1, sample=20_000)
    again = geodesic_triples(distances, limit=every.total - 1, sample=20_000)
    assert not some.exact
    assert some.total == every.total
    np.testing.assert_array_equal(some.triples, again.triples)
    place = {tuple(row): i for i, row in enumerate(every.triples.tolist())}
    counts = np.bincount([place[tuple(row)] for row in some.triples.tolist()], minlength=len(place))
    mean = 20_000 / every.total
    # Pearson's statistic has mean total - 1 and variance about twice that.
    statistic = ((counts - mean) ** 2 / mean).sum()
    assert abs(statistic - every.total) < 5 * math.sqrt(2 * every.total)


def test_a_sampled_triangle_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def few(distances: object) -> object:
        return geodesic_triples(distances, limit=100, sample=500)  # type: ignore[arg-type]

    monkeypatch.setattr("geomdiag.tasks.graphs.geodesic_triples", few)
    task = graph_task(nx.cycle_graph(9))
    found = symmetry(task, "triangle")
    assert isinstance(found, Composition)
    assert not found.exact
    assert "uniform sample" in found.definition
    logits = np.random.default_rng(0).normal(size=(81, task.classes))
    snapshot = gd.Snapshot(task, logits=logits)
    row = ANALYZERS["symmetry"].compute(snapshot, task).sel(symmetry="triangle")
    assert not row["symmetry_exact"].values.any()
    assert 0 < float(row["symmetry_standard_error"]) < float(row["symmetry_violation"][0])


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
    by_hand = compare_distances(expected, task.metric)
    found = predicted(np.log(p))["predicted_distortion"]
    for name, value in by_hand.items():
        assert float(found.sel(measure=name)) == pytest.approx(value, rel=1e-9)
    assert predicted(np.full((n * n, task.classes), np.nan))["predicted_distortion"].isnull().all()
    assert "predicted_distortion" not in predicted(None)


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
