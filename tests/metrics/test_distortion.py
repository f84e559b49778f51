"""Distortion of distances: known drawings, brute force, invariances."""

from __future__ import annotations

import itertools
import math

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from geomdiag.metrics.distortion import (
    compare_distances,
    distortion,
    distortions,
    intrinsic_distances,
    target_metric,
)

torch = pytest.importorskip("torch")

PERFECT = {"spearman": 1, "stress": 0, "worst_case": 1, "mean": 0, "neighbour_recall": 1}


def rotation(size: int, rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((size, size)))[0]


def cycle_metric(n: int) -> np.ndarray:
    steps = np.abs(np.arange(n)[:, None] - np.arange(n))
    return np.minimum(steps, n - steps).astype(float)


def line_metric(n: int) -> np.ndarray:
    return np.abs(np.arange(n)[:, None] - np.arange(n)).astype(float)


def circle(n: int) -> np.ndarray:
    angle = 2 * np.pi * np.arange(n) / n
    return (
        np.stack([np.cos(angle), np.sin(angle)], axis=1) @ rotation(5, np.random.default_rng(0))[:2]
    )


def pairwise(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - points[None], axis=2)


@pytest.mark.parametrize("n", [12, 23, 113])
def test_cycle_drawn_as_circle(n: int) -> None:
    found = distortions(3 * circle(n) + 1, cycle_metric(n))
    half = n // 2
    closed = math.sin(math.pi / n) * half / math.sin(math.pi * half / n)
    assert found["worst_case"] == pytest.approx(closed)
    assert found["worst_case"] > 1
    # Chords grow with the arc: the order of distances is right, their size is not.
    assert found["spearman"] == pytest.approx(1)
    assert found["neighbour_recall"] == 1
    assert found["stress"] > 0.05
    assert found["mean"] > 0.05
    for name, value in PERFECT.items():
        assert found[f"{name}_intrinsic"] == pytest.approx(value, abs=1e-12)
    assert found["components_intrinsic"] == 1


@pytest.mark.parametrize("kind", ["euclidean", "intrinsic"])
def test_line_is_perfect(kind: str) -> None:
    points = np.outer(np.arange(9.0), [0.3, -0.4, 1.2]) + 2
    assert distortion(points, line_metric(9), kind=kind) == pytest.approx(PERFECT, abs=1e-12)


def test_cosine() -> None:
    n = 13
    points = circle(n) * np.arange(1, n + 1)[:, None]  # length does not count
    found = distortion(points, cycle_metric(n), kind="cosine")
    expected = compare_distances(1 - np.cos(2 * np.pi * cycle_metric(n) / n), cycle_metric(n))
    assert found == pytest.approx(expected)
    points[3] = 0
    assert all(math.isnan(v) for v in distortion(points, cycle_metric(n), kind="cosine").values())


@pytest.mark.parametrize("seed", range(3))
def test_against_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 10
    points, metric = rng.standard_normal((n, 3)), cycle_metric(n)
    distances = pairwise(points)
    pairs = list(itertools.combinations(range(n), 2))
    d = np.array([distances[i, j] for i, j in pairs])
    g = np.array([metric[i, j] for i, j in pairs])
    found = distortion(points, metric)
    assert found["spearman"] == pytest.approx(stats.spearmanr(d, g).statistic)
    stress = optimize.minimize_scalar(lambda b: ((d - b * g) ** 2).sum() / (d**2).sum())
    assert found["stress"] == pytest.approx(math.sqrt(stress.fun))
    assert found["worst_case"] == pytest.approx((d / g).max() * (g / d).max())
    # The mean is piecewise linear in the scale: its least value lies at one of the kinks.
    mean = min(np.mean(np.abs(s * d - g) / g) for s in g / d)
    assert found["mean"] == pytest.approx(mean)
    recall = np.mean(
        [len({(i - 1) % n, (i + 1) % n} & set(np.argsort(distances[i])[1:3])) / 2 for i in range(n)]
    )
    assert found["neighbour_recall"] == pytest.approx(recall)


@pytest.mark.parametrize("seed", range(3))
def test_intrinsic_paths_against_networkx(seed: int) -> None:
    task = nx.random_labeled_tree(15, seed=seed)
    metric = np.asarray(nx.floyd_warshall_numpy(task))
    distances = pairwise(np.random.default_rng(seed).standard_normal((15, 3)))
    paths, components = intrinsic_distances(distances, metric)
    graph = nx.Graph()
    graph.add_nodes_from(range(15))
    for i in range(15):
        for j in np.argsort(distances[i])[1 : task.degree[i] + 1]:
            graph.add_edge(i, int(j), weight=distances[i, j])
    assert components == nx.number_connected_components(graph)
    # The shortest edges that join the parts: Kruskal's choice from all pairs.
    for i, j in sorted(itertools.combinations(range(15), 2), key=lambda e: distances[e]):
        if not nx.has_path(graph, i, j):
            graph.add_edge(i, j, weight=distances[i, j])
    np.testing.assert_allclose(paths, nx.floyd_warshall_numpy(graph, range(15)), rtol=1e-12)


def test_parts_are_joined_and_counted() -> None:
    # Three far pairs on a line, in a task where every vertex has one neighbour.
    points = np.array([[0.0], [1.0], [10.0], [11.0], [30.0], [31.0]])
    metric = np.full((6, 6), 2.0) - 2 * np.eye(6)
    for i in (0, 2, 4):
        metric[i, i + 1] = metric[i + 1, i] = 1
    paths, components = intrinsic_distances(pairwise(points), metric)
    assert components == 3
    np.testing.assert_allclose(paths, pairwise(points))
    assert distortions(points, metric)["components_intrinsic"] == 3


def test_degree_is_each_vertex_its_own() -> None:
    star = target_metric(np.asarray(nx.floyd_warshall_numpy(nx.star_graph(4))))
    np.testing.assert_array_equal(star.degree, [4, 1, 1, 1, 1])
    # A token at another distance from all the rest (a zero of multiplication) has none,
    # and is left out of the recall.
    metric = np.pad(cycle_metric(6), (0, 1), constant_values=4.0)
    metric[6, 6] = 0
    np.testing.assert_array_equal(target_metric(metric).degree, [2] * 6 + [0])
    points = np.concatenate([circle(6), [[9.0, 0, 0, 0, 0]]])
    found = distortions(points, metric)
    assert found["neighbour_recall"] == 1
    assert found["components_intrinsic"] == 2


def test_edges_of_different_lengths() -> None:
    """As many nearest as a token has edges: a circle of uneven steps is its own cycle."""
    steps = np.array([1.0, 1.2, 0.9, 1.1, 1.05, 0.95, 1.15, 1.3])
    at, around = np.concatenate([[0.0], np.cumsum(steps[:-1])]), steps.sum()
    apart = np.abs(at[:, None] - at)
    metric = np.minimum(apart, around - apart)
    target = target_metric(metric, np.full(8, 2))
    np.testing.assert_array_equal(target.neighbours, cycle_metric(8) == 1)
    assert compare_distances(metric, target) == pytest.approx(PERFECT)
    angle = 2 * np.pi * at / around
    found = distortions(np.stack([np.cos(angle), np.sin(angle)], axis=1), target)
    assert found["components_intrinsic"] == 1
    assert found["neighbour_recall"] == 1
    assert found["worst_case_intrinsic"] < 1.02
    assert found["worst_case"] > 1.4
    for wrong in (np.full(8, 8), np.full(8, -1), np.full(7, 2)):
        with pytest.raises(ValueError, match="degrees"):
            target_metric(metric, wrong)


def test_degrees_given_or_found_are_the_same_where_edges_are_equal() -> None:
    for graph in (nx.star_graph(4), nx.grid_2d_graph(3, 4), nx.path_graph(2)):
        metric = np.asarray(nx.floyd_warshall_numpy(graph))
        found = target_metric(metric)
        given = target_metric(metric, [d for _, d in graph.degree])
        np.testing.assert_array_equal(given.neighbours, found.neighbours)
        np.testing.assert_array_equal(given.degree, found.degree)
    ties = np.array([[0, 2, 2, 3.0], [2, 0, 4, 4], [2, 4, 0, 4], [3, 4, 4, 0]])
    assert target_metric(ties, [1, 1, 1, 1]).neighbours[0].tolist() == [False, True, True, False]
    assert compare_distances(ties, target_metric(ties, [1, 1, 1, 0])) == pytest.approx(PERFECT)


def test_tied_neighbours_share_their_places() -> None:
    # Four corners of a square, one neighbour each in the task, two equally near ones drawn.
    square = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    metric = np.full((4, 4), 3.0) - 3 * np.eye(4)
    metric[0, 1] = metric[1, 0] = metric[2, 3] = metric[3, 2] = 1
    assert distortion(square, metric)["neighbour_recall"] == pytest.approx(0.5)
    # All in one place but one: every token ties.
    points = np.array([[0.0], [0.0], [0.0], [0.0], [1.0]])
    recall = distortion(points, cycle_metric(5))["neighbour_recall"]
    assert recall == pytest.approx(np.mean([2 / 3, 2 / 3, 2 / 3, 1 / 3, 0.5]), abs=0.2)


def test_coinciding_tokens() -> None:
    points = circle(8)
    points[1] = points[0]
    found = distortions(points, cycle_metric(8))
    assert found["worst_case"] == math.inf
    assert found["worst_case_intrinsic"] == math.inf
    assert math.isfinite(found["stress"])
    assert found["mean"] < 1
    collapsed = distortions(np.ones((8, 3)), cycle_metric(8))
    assert math.isnan(collapsed["spearman"])
    assert math.isnan(collapsed["neighbour_recall_intrinsic"])


def test_unconnected_task_leaves_pairs_out() -> None:
    metric = np.full((6, 6), np.inf)
    metric[:3, :3] = metric[3:, 3:] = line_metric(3)
    points = np.array([[0.0], [1], [2], [100], [101], [102]])
    assert distortion(points, metric) == pytest.approx(PERFECT)


def test_predicted_distances() -> None:
    metric = line_metric(6)
    assert compare_distances(2 * metric, metric) == pytest.approx(PERFECT)
    far = metric.copy()
    far[0, 5] = far[5, 0] = np.inf
    found = compare_distances(far, metric)
    assert found["spearman"] == pytest.approx(1)
    assert found["stress"] == found["mean"] == math.inf
    assert found["neighbour_recall"] == 1
    equal = compare_distances(1 - np.eye(6), metric)
    assert math.isnan(equal["spearman"])


@given(seed=st.integers(0, 10_000), exponent=st.integers(-9, 9), n=st.integers(3, 14))
def test_invariances(seed: int, exponent: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    points, metric = rng.standard_normal((n, 4)), cycle_metric(n)
    if seed % 3 == 0:
        points = np.round(points)  # ties, and tokens that coincide
    order = rng.permutation(n)
    scale = 10.0**exponent
    moved = (points @ rotation(4, rng) + rng.integers(-3, 3, 4))[order] * scale
    before = distortions(points, metric)
    after = distortions(moved, 7 * metric[np.ix_(order, order)])
    if not points.any() or math.isinf(before["worst_case"]):
        # Coinciding tokens come apart by a rounding error when they are moved.
        for found in (before, after):
            found.pop("worst_case")
            found.pop("worst_case_intrinsic")
    assert after == pytest.approx(before, rel=1e-7, abs=1e-7, nan_ok=True)


def test_torch_agrees_and_a_target_can_be_kept() -> None:
    points = np.random.default_rng(0).standard_normal((11, 4))
    target = target_metric(torch.tensor(cycle_metric(11)))
    found = distortions(torch.tensor(points), target)
    assert found == distortions(points, cycle_metric(11))


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="4 points against a metric of 5"):
        distortion(np.eye(4), cycle_metric(5))
    with pytest.raises(ValueError, match="NaN"):
        distortion(np.full((5, 2), np.nan), cycle_metric(5))
    with pytest.raises(ValueError, match="kind"):
        distortion(np.eye(5), cycle_metric(5), kind="manhattan")
    with pytest.raises(ValueError, match="negative"):
        compare_distances(-cycle_metric(5), cycle_metric(5))
    with pytest.raises(ValueError, match="same tokens"):
        compare_distances(cycle_metric(4), cycle_metric(5))
    for wrong in (
        np.zeros((3, 2)),
        np.eye(3),
        np.zeros((3, 3)),
        np.triu(cycle_metric(5)),
        np.full((3, 3), np.nan),
    ):
        with pytest.raises(ValueError, match="metric"):
            target_metric(wrong)
