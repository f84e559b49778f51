"""Symmetries of graph tasks against enumerations, and loops written from the definitions."""

from __future__ import annotations

import itertools
import math

import networkx as nx
import numpy as np
import pytest
from helpers.graph_tasks import KNOWN, WEIGHTED, graph_task, symmetry
from hypothesis import given
from hypothesis import strategies as st

import geomdiag as gd
from geomdiag.analyzers import ANALYZERS
from geomdiag.tasks import Composition, Equivalence
from geomdiag.tasks.graphs.automorphisms import automorphism_generators, pair_orbits
from geomdiag.tasks.graphs.distances import geodesic_triples


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    joint = len(set(zip(one.tolist(), other.tolist(), strict=True)))
    return joint == len(np.unique(one)) == len(np.unique(other))


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
    monkeypatch.setattr("geomdiag.tasks.graph.automorphism_generators", lambda classes: None)
    task = graph_task(nx.cycle_graph(5))
    assert [one.name for one in task.symmetries] == ["reversal", "triangle"]
    assert "not found within" in task.left_out["automorphism"]


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


@pytest.mark.parametrize(
    ("sizes", "name"),
    [([7, 7], "lattice-7x7"), ([4, 3, 2], "lattice-4x3x2"), ([7, 7, 7], "lattice-7x7x7")],
)
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

    monkeypatch.setattr("geomdiag.tasks.graph.geodesic_triples", few)
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
