"""Figures of a checkpoint's tokens: where they are, their colour, their edges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from figure_samples import a_circle, a_snapshot
from scipy.spatial.distance import pdist, squareform

import geomdiag as gd
from geomdiag.errors import GeomdiagError, MissingPartError
from geomdiag.models import infer_task, snapshot
from geomdiag.plots import (
    FIGURES,
    edges_of,
    plot_circular_coordinate,
    plot_embedding,
    plot_shepard,
    tokens_of,
)
from geomdiag.plots.embedding import principal_components

SERIES = Path(__file__).resolve().parents[2] / "fixtures" / "series"


def recorded(name: str, spec: str) -> gd.Snapshot:
    """Return the last checkpoint of a recorded run."""
    (series,) = gd.open_runs(SERIES / name).values()
    last = series[-1]
    return snapshot(last, infer_task(spec, last, series.config), config=series.config)


# what is drawn of a checkpoint


def test_the_phase_is_that_of_the_strongest_frequency() -> None:
    tokens = tokens_of(a_snapshot(points=a_circle(k=3)))
    assert tokens.cyclic
    assert tokens.colour_label == "phase at k=3 (rad)"
    expected = 2 * np.pi * 3 * np.arange(11) / 11 % (2 * np.pi)
    np.testing.assert_allclose(np.exp(1j * tokens.colour), np.exp(1j * expected), atol=1e-9)
    # edges join neighbours on that circle: 3 x and 3 x + 1 mod 11 are four apart
    assert {tuple(sorted((a, (a + 4) % 11))) for a in range(11)} == set(map(tuple, tokens.edges))
    angle = tokens.colour[tokens.edges]
    np.testing.assert_allclose(
        np.abs(np.angle(np.exp(1j * np.diff(angle)))), 2 * np.pi / 11, rtol=1e-9
    )


def test_a_token_outside_the_group_has_no_phase_and_no_edge() -> None:
    points = np.random.default_rng(0).normal(size=(7, 5))
    tokens = tokens_of(a_snapshot("modmul:p=7", points))
    assert np.isnan(tokens.colour).tolist() == [True] + [False] * 6
    assert 0 not in tokens.edges
    assert len(tokens.edges) == 6


def test_in_a_product_the_phase_is_that_of_the_strongest_complex_character() -> None:
    task = gd.task("group:Z4xZ3")
    basis = task.basis
    block = basis.labels.index("k=1,1")
    points = basis.vectors[:, basis.block == block]
    real = basis.vectors[:, basis.block == basis.labels.index("k=2,0")]
    assert (points.shape[1], real.shape[1]) == (2, 1)  # a real character has no phase
    points = np.concatenate([points, 5 * real], axis=1)[np.argsort(basis.members)]
    tokens = tokens_of(a_snapshot("group:Z4xZ3", points))
    assert tokens.colour_label == "phase at k=1,1 (rad)"
    assert len(np.unique(np.round(tokens.colour, 6) % (2 * np.pi))) == 12


def test_orders_and_graphs_are_coloured_by_rank_and_distance() -> None:
    grid = np.array([(i, j) for i in range(3) for j in range(3)], dtype=float)
    tokens = tokens_of(a_snapshot("comparison:3x3", grid))
    task = gd.task("comparison:3x3")
    np.testing.assert_array_equal(tokens.colour, next(iter(task.orders.values())))
    assert not tokens.cyclic
    assert len(tokens.edges) == 12
    path = np.arange(5.0)[:, None]
    tokens = tokens_of(a_snapshot("graph:path-5", path))
    assert tokens.colour.tolist() == [0, 1, 2, 3, 4]
    assert tokens.edges.tolist() == [[0, 1], [1, 2], [2, 3], [3, 4]]


def test_edges_are_those_that_no_third_token_lies_between() -> None:
    metric = np.array([[0, 1.5, 4.0], [1.5, 0, 2.5], [4.0, 2.5, 0]])
    assert edges_of(metric).tolist() == [[0, 1], [1, 2]]
    metric[0, 2] = metric[2, 0] = 3.0  # now shorter than around
    assert edges_of(metric).tolist() == [[0, 1], [0, 2], [1, 2]]
    apart = np.array([[0, np.inf], [np.inf, 0]])
    assert edges_of(apart).shape == (0, 2)


def test_a_matrix_that_is_not_there_is_an_error() -> None:
    with pytest.raises(MissingPartError, match="no unembedding; matrices that it has: embedding"):
        tokens_of(a_snapshot(), "unembedding")
    broken = a_circle()
    broken[3, 0] = np.nan
    with pytest.raises(GeomdiagError, match="step 700 holds numbers that are not finite"):
        tokens_of(a_snapshot(points=broken))


# embedding


def test_each_panel_is_a_pair_of_components() -> None:
    rng = np.random.default_rng(1)
    points = rng.normal(size=(20, 12)) * np.arange(12, 0, -1)
    colour = rng.permutation(20).astype(float)
    edges = np.array([[0, 5], [3, 19]])
    axes = plot_embedding(points, colour=colour, edges=edges)
    scores, shares = principal_components(points)
    assert len(axes) == 4
    for place, ax in enumerate(axes):
        pair = scores[:, 2 * place : 2 * place + 2]
        dots = ax.collections[-1]
        np.testing.assert_allclose(dots.get_offsets(), pair)
        np.testing.assert_array_equal(dots.get_array(), colour)
        joined = [line.get_xydata() for line in ax.lines]
        np.testing.assert_allclose(joined, pair[edges])
        assert ax.get_xlabel() == (
            f"PC {2 * place + 1} ({100 * shares[2 * place]:.0f} % of variance)"
        )
        assert ax.get_aspect() == 1.0


def test_components_keep_distances_and_their_sign_is_fixed() -> None:
    points = np.random.default_rng(2).normal(size=(9, 4))
    scores, shares = principal_components(points)
    np.testing.assert_allclose(pdist(scores), pdist(points))
    assert shares.sum() == pytest.approx(1)
    assert (np.diff(shares) <= 0).all()
    np.testing.assert_allclose(principal_components(-points)[0], scores * _flips(-points, scores))
    largest = np.abs(scores).argmax(axis=0)
    assert (scores[largest, np.arange(4)] > 0).all()


def _flips(points: Any, scores: Any) -> Any:
    found = principal_components(points)[0]
    return np.sign((found * scores).sum(axis=0))


@pytest.mark.parametrize("turn", [0.0, 0.2])  # the scale is the whole turn, whatever is there
def test_colours_follow_the_phase(turn: float) -> None:
    tokens = tokens_of(a_snapshot())
    phase = tokens.colour + turn
    axes = plot_embedding(tokens.points, colour=phase, cyclic=True)
    dots = axes[0].collections[-1]
    axes[0].figure.canvas.draw()
    expected = dots.get_cmap()(phase / (2 * np.pi))
    np.testing.assert_allclose(dots.get_facecolors(), expected, atol=1e-6)
    # neighbours on the circle have neighbouring colours
    order = np.argsort(phase)
    steps = np.abs(np.diff(dots.get_facecolors()[order][:, :3], axis=0)).sum(axis=1)
    assert steps.max() < 0.8


@pytest.mark.parametrize(("components", "panels"), [(2, 1), (4, 2), (5, 3), (8, 4), (30, 4)])
def test_eight_components_are_drawn_at_most(components: int, panels: int) -> None:
    points = np.random.default_rng(3).normal(size=(15, 11))
    assert len(plot_embedding(points, components=components)) == panels


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_narrow_embeddings_are_drawn(columns: int) -> None:
    axes = plot_embedding(np.random.default_rng(4).normal(size=(6, columns)))
    assert len(axes) == 1
    assert len(axes[0].collections[-1].get_offsets()) == 6


def test_tokens_in_one_place_are_drawn() -> None:
    (ax,) = plot_embedding(np.ones((5, 3)))
    assert np.allclose(ax.collections[-1].get_offsets(), 0)


def test_tokens_without_a_colour_are_open() -> None:
    colour = np.array([np.nan, *range(10)])
    (ax, *_) = plot_embedding(a_circle(), colour=colour)
    open_ones, full = ax.collections[-2:]
    assert len(open_ones.get_offsets()) == 1
    assert len(full.get_offsets()) == 10


def test_arrays_that_do_not_fit_are_errors() -> None:
    with pytest.raises(GeomdiagError, match=r"colour: found shape \(3,\), expected \(11,\)"):
        plot_embedding(a_circle(), colour=[1, 2, 3])
    with pytest.raises(GeomdiagError, match="edges: found tokens beyond 0 to 10"):
        plot_embedding(a_circle(), edges=[[0, 11]])
    with pytest.raises(GeomdiagError, match="points: found shape"):
        plot_embedding([1.0, 2.0])


def test_a_recorded_grid_is_drawn_as_one() -> None:
    shown = recorded("comparison-5x5-transformer", "comparison:5x5")
    (ax,) = FIGURES["embedding"].draw(shown)
    assert len(ax.lines) == 40  # the edges of a grid of 5 by 5
    lengths = [float(np.linalg.norm(np.diff(line.get_xydata(), axis=0))) for line in ax.lines]
    apart = pdist(ax.collections[-1].get_offsets())
    assert max(lengths) < np.median(apart)


# circular coordinate


def test_angles_agree_up_to_origin_and_direction() -> None:
    phases = 2 * np.pi * np.arange(12) / 12
    for angles in (phases, 2.0 - phases, phases + 5.0):
        ax = plot_circular_coordinate(angles % (2 * np.pi), phases)
        (token,) = (line for line in ax.lines if line.get_label() == "token")
        np.testing.assert_allclose(token.get_ydata(), token.get_xdata(), atol=1e-9)
        assert ax.get_legend().get_title().get_text().startswith("agreement 1.00")


def test_an_angle_that_is_off_is_drawn_off() -> None:
    phases = 2 * np.pi * np.arange(40) / 40
    angles = phases.copy()
    angles[7] += 1.0
    ax = plot_circular_coordinate(angles, phases)
    (token,) = (line for line in ax.lines if line.get_label() == "token")
    error = token.get_ydata() - token.get_xdata()
    assert np.argmax(np.abs(error)) == 7
    assert error[7] == pytest.approx(1.0, abs=0.05)


def test_agreement_is_the_circular_correlation() -> None:
    from geomdiag.metrics.topology import circular_correlation

    rng = np.random.default_rng(5)
    angles, phases = rng.uniform(0, 2 * np.pi, size=(2, 30))
    ax = plot_circular_coordinate(angles, phases)
    expected = float(circular_correlation(angles, phases))
    assert f"agreement {expected:.2f}" in ax.get_legend().get_title().get_text()


def test_a_loop_is_found_in_a_checkpoint() -> None:
    ax = FIGURES["circular-coordinate"].draw(a_snapshot(points=a_circle(noise=0.02)))
    (token,) = (line for line in ax.lines if line.get_label() == "token")
    assert np.abs(token.get_ydata() - token.get_xdata()).max() < 0.3
    assert ax.get_xlabel() == "phase at k=3 (rad) of the token"


def test_no_loop_and_no_phase_are_errors() -> None:
    with pytest.raises(GeomdiagError, match="no loop at this step"):
        plot_circular_coordinate([np.nan] * 4, range(4))
    with pytest.raises(GeomdiagError, match=r"shape \(3,\) and phases of shape \(4,\)"):
        plot_circular_coordinate([0.0] * 3, range(4))
    with pytest.raises(GeomdiagError, match="comparison:3x3 form no abelian group"):
        FIGURES["circular-coordinate"].draw(a_snapshot("comparison:3x3", np.eye(9)))


# Shepard diagram


def test_every_pair_is_a_point() -> None:
    rng = np.random.default_rng(6)
    points = rng.normal(size=(7, 3))
    metric = squareform(rng.integers(1, 4, size=21).astype(float))
    ax = plot_shepard(points, metric)
    (pairs,) = (line for line in ax.lines if line.get_label() == "pair of tokens")
    np.testing.assert_allclose(pairs.get_ydata(), pdist(points))
    np.testing.assert_array_equal(np.round(pairs.get_xdata()), squareform(metric))
    line = next(one for one in ax.lines if one.get_label() == "in proportion")
    d, g = pdist(points), squareform(metric)
    assert line.get_ydata()[1] / line.get_xdata()[1] == pytest.approx((d @ g) / (g @ g))
    middle = ax.containers[0].lines[0].get_xydata()
    for level, median in middle:
        assert median == pytest.approx(np.median(d[g == level]))


def test_its_numbers_are_those_of_the_distortion() -> None:
    points, metric = np.random.default_rng(7).normal(size=(2, 8, 3))[0], None
    metric = squareform(pdist(points)) + squareform(np.linspace(0, 1, 28))
    text = plot_shepard(points, metric).get_legend().get_title().get_text()
    found = gd.distortion(points, metric)
    assert text == f"rank correlation {found['spearman']:.2f}\nstress {found['stress']:.2f}"


def test_pairs_that_are_not_connected_are_left_out() -> None:
    metric = np.array([[0, 1, np.inf], [1, 0, np.inf], [np.inf, np.inf, 0]])
    ax = plot_shepard(np.eye(3), metric)
    assert len(ax.lines[0].get_xdata()) == 1
    with pytest.raises(GeomdiagError, match="connects no two tokens"):
        plot_shepard(np.eye(2), [[0, np.inf], [np.inf, 0]])
    with pytest.raises(GeomdiagError, match=r"points of shape \(3, 3\) and a metric of shape"):
        plot_shepard(np.eye(3), np.zeros((2, 2)))


def test_the_circle_of_a_checkpoint_keeps_the_order_of_its_distances() -> None:
    ax = FIGURES["shepard"].draw(a_snapshot(points=a_circle()))
    assert ax.get_legend().get_title().get_text().startswith("rank correlation 1.00")
    assert "along the circle of the phase at k=3" in ax.get_title(loc="left")
