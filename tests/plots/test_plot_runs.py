"""Figures of one run draw what its result holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from figure_samples import BLOCKS, BOUNDARIES, STEPS, a_result
from matplotlib.colors import same_color, to_rgba

import geomdiag as gd
from geomdiag.errors import GeomdiagError
from geomdiag.plots import (
    plot_dual_grid,
    plot_dynamics,
    plot_forecast,
    plot_persistence,
    plot_spectrum,
)
from geomdiag.plots.style import BANDS

SERIES = Path(__file__).resolve().parents[2] / "fixtures" / "series"


@pytest.fixture(scope="module")
def recorded() -> xr.Dataset:
    """The recorded run of S4."""
    tree = gd.analyze(
        gd.open_runs(SERIES / "group-S4-mlp"),
        task="group:S4",
        analyzers=["fit", "symmetry", "dimension"],
        workers=1,
    )
    return next(iter(tree.children.values())).to_dataset()


def lines(ax: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Return the labelled lines of an Axes, (2, n) each."""
    named = {str(one.get_label()): np.array(one.get_data(), dtype=float) for one in ax.lines}
    return {label: data for label, data in named.items() if not label.startswith("_")}


def intervals(ax: Any) -> dict[str, list[tuple[float, float]]]:
    """Return the ends of the bars of each kind of interval."""
    return {
        str(one.get_label()): [tuple(bar[:, 0]) for bar in one.get_segments() if len(bar)]
        for one in ax.collections
        if hasattr(one, "get_segments")
    }


def bands(ax: Any) -> list[tuple[float, float, Any]]:
    """Return where each band begins and ends, and its colour."""
    return sorted(
        (patch.get_x(), patch.get_x() + patch.get_width(), patch.get_facecolor())
        for patch in ax.patches
        if hasattr(patch, "get_width") and patch.get_height() == 1
    )


# dynamics


def test_each_panel_holds_its_variable() -> None:
    data = a_result()
    accuracy, violation, dimension, _ = plot_dynamics(data)
    drawn = lines(accuracy)
    assert set(drawn) == {"train", "held-out"}
    for label, part in (("train", "train"), ("held-out", "heldout")):
        np.testing.assert_array_equal(drawn[label], [STEPS, data["accuracy"].sel(part=part)])
    for symmetry in ("commutativity", "associativity"):
        own = data["symmetry_js"].sel(symmetry=symmetry, statistic="mean")
        np.testing.assert_array_equal(lines(violation)[symmetry], [STEPS, own])
    np.testing.assert_array_equal(
        lines(dimension)["embedding"], [STEPS, data["dimension"].values.ravel()]
    )
    assert violation.get_yscale() == "log"


def test_bands_begin_where_the_stages_do() -> None:
    for ax in plot_dynamics(a_result()):
        found = bands(ax)
        assert [ends[:2] for ends in found] == [(30, 100), (100, 1000), (1000, 3000)]
        for (_, _, colour), tint in zip(found, BANDS.values(), strict=True):
            assert same_color(colour, to_rgba(tint))


def test_numbers_stand_above_their_bands() -> None:
    axes = plot_dynamics(a_result())
    top = axes[0]
    top.figure.canvas.draw()
    found = {text.get_text(): text for text in top.texts}
    assert list(found) == ["1", "2", "3"]
    for number, (low, high, _) in zip(found, bands(top), strict=True):
        x = found[number].get_window_extent().x0 + found[number].get_window_extent().width / 2
        ends = top.transData.transform([(low, 0), (high, 0)])[:, 0]
        assert ends[0] < x < ends[1]
    legend = axes[-1].get_legend()
    words = [text.get_text() for text in legend.get_texts()]
    assert words[-3:] == ["1 memorisation", "2 symmetry acquisition", "3 geometric organisation"]


def test_boundaries_have_their_intervals() -> None:
    ax = plot_dynamics(a_result())[-1]
    (points,) = (line for line in ax.lines if line.get_marker() == "o")
    at = [step for step, _, _ in BOUNDARIES.values()]
    np.testing.assert_array_equal(points.get_xdata(), at)
    # a lower end that is not known reaches to the first step
    assert intervals(ax) == {
        "90 % interval": [(30, 300), (0, 3000)],
        "gap between\ncheckpoints": [(10, 30), (300, 1000)],
    }
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == [
        "memorised", "symmetry begins", "generalised", "geometry begins", "geometry settled: none",
    ]  # fmt: skip
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert words[:2] == ["90 % interval", "gap between\ncheckpoints"]


def test_what_an_earlier_version_did_not_tell_is_not_claimed() -> None:
    ax = plot_dynamics(a_result().drop_vars(["stage_fact", "fact"]))[-1]
    assert intervals(ax) == {"interval or gap": [(10, 30), (30, 300), (300, 1000), (0, 3000)]}


def test_violations_below_the_axis_stand_at_its_edge() -> None:
    data = a_result()
    low = data["symmetry_js"].values.copy()
    low[-1, 0], low[-2, 1], low[0, 1] = 0.0, 1e-9, np.nan
    data["symmetry_js"] = data["symmetry_js"].copy(data=low)
    ax = plot_dynamics(data)[1]
    bottom = ax.get_ylim()[0]
    assert bottom == pytest.approx(1e-7)
    hollow = [line for line in ax.lines if line.get_marker() == "v" and line.get_mfc() == "none"]
    assert [line.get_xdata().tolist() for line in hollow] == [[3000], [1000]]
    assert all((line.get_ydata() == bottom).all() for line in hollow)
    assert [line.get_color() for line in hollow] == [line.get_color() for line in ax.lines[:2]]
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert words == ["commutativity", "associativity", "below 1e-07"]
    assert not [line for line in plot_dynamics(a_result())[1].lines if line.get_mfc() == "none"]


def test_steps_are_logarithmic_from_one_and_zero_is_there() -> None:
    ax = plot_dynamics(a_result())[-1]
    ax.figure.canvas.draw()
    assert [label.get_text() for label in ax.get_xticklabels()] == [
        "0", "1", "10", "100", "1,000",
    ]  # fmt: skip
    place = ax.transData.transform([(x, 0) for x in (0, 1, 10, 100, 1000)])[:, 0]
    np.testing.assert_allclose(np.diff(place)[1:], np.diff(place)[1], rtol=1e-6)
    assert 0 < np.diff(place)[0] < np.diff(place)[1]
    low, high = ax.get_xlim()
    assert low < 0
    assert high > 3000


def test_late_steps_have_more_than_two_ticks() -> None:
    steps = np.array([2000, 2500, 3000, 4000])
    ax = plot_dynamics(a_result(steps).drop_vars(["stage", "stage_boundary"]))[-1]
    low, high = ax.get_xlim()
    assert len([tick for tick in ax.get_xticks() if low <= tick <= high]) > 2
    assert 0 < low < 2000


def test_a_built_in_symmetry_is_named_and_not_drawn() -> None:
    data = a_result()
    data["symmetry_architectural"][0] = True
    drawn = lines(plot_dynamics(data)[1])
    assert drawn["commutativity (built in)"].size == 0
    assert drawn["associativity"].size


def test_many_symmetries_are_told_apart() -> None:
    data = a_result()[["symmetry_js"]].isel(symmetry=[0] * 9)
    data = data.assign_coords(symmetry=[f"symmetry {i}" for i in range(9)])
    (ax,) = plot_dynamics(data)
    assert len({(line.get_color(), line.get_marker()) for line in ax.lines}) == 9


def test_either_violation_can_be_asked_for() -> None:
    ax = plot_dynamics(a_result(), violation="symmetry_violation")[1]
    assert lines(ax)["commutativity"][1, 0] == 2.0
    assert ax.get_legend().get_title().get_text() == "symmetric KL"
    bare = a_result().drop_vars("symmetry_js")
    assert lines(plot_dynamics(bare)[1])["commutativity"][1, 0] == 2.0
    with pytest.raises(GeomdiagError, match="the result has no 'symmetry_js'"):
        plot_dynamics(bare, violation="symmetry_js")


def test_a_vanishing_violation_does_not_stretch_the_axis() -> None:
    data = a_result()
    for value in (0.0, 1e-30):
        data["symmetry_js"][{"step": -1, "symmetry": 0}] = value
        low, high = plot_dynamics(data)[1].get_ylim()
        assert 0.9e-7 < low < 1e-4
        assert high > 1


def test_a_dimension_at_its_top_is_inside_the_panel() -> None:
    data = a_result()
    flat = data.assign(dimension=26.0 + 0 * data["dimension"])
    low, high = plot_dynamics(flat)[2].get_ylim()
    assert low == 0
    assert 27 < high < 30


def test_without_a_split_all_inputs_are_drawn() -> None:
    data = a_result().sel(part=["all"])
    assert set(lines(plot_dynamics(data)[0])) == {"all inputs"}


def test_panels_without_variables_are_left_out() -> None:
    data = a_result().drop_vars(["symmetry_js", "symmetry_violation", "stage_boundary", "stage"])
    axes = plot_dynamics(data)
    assert [ax.get_ylabel().partition("\n")[0] for ax in axes] == ["accuracy", "dimension"]
    assert not bands(axes[0])
    nothing = data.drop_vars(["accuracy", "dimension"])
    with pytest.raises(GeomdiagError, match="seed=0: found no accuracy, violation or dimension"):
        plot_dynamics(nothing)


def test_a_recorded_run_is_drawn_with_its_own_curve(recorded: xr.Dataset) -> None:
    axes = plot_dynamics(recorded)
    thin = [line.get_xdata() for line in axes[0].lines if line.get_linewidth() < 1]
    assert len(thin) == 2
    np.testing.assert_array_equal(thin[0], recorded["history_step"])
    begins = recorded["step"].values[np.flatnonzero(recorded["stage"].values == 2)[0]]
    assert begins in [band[0] for band in bands(axes[0])]
    marked = axes[-1].lines[0].get_xdata()
    np.testing.assert_array_equal(marked, recorded["stage_boundary"].values)


# spectrum and dual grid


def test_the_heat_map_is_the_power() -> None:
    data = a_result()
    ax = plot_spectrum(data)
    mesh = ax.collections[0]
    np.testing.assert_array_equal(mesh.get_array(), data["power"].sel(matrix="embedding").values.T)
    edges = mesh.get_coordinates()[0, :, 0]
    assert len(edges) == len(STEPS) + 1
    inside = (edges[:-1] <= STEPS + 1e-6) & (edges[1:] >= STEPS - 1e-6)
    assert inside.all()
    assert [label.get_text() for label in ax.get_yticklabels()] == list(BLOCKS)
    assert ax.get_ylabel() == "frequency"


def test_key_blocks_of_the_last_known_step_are_marked() -> None:
    data = a_result()
    data["key_p_value"][{"step": -1}] = np.nan  # failed
    data["key_block"][{"step": -1}] = 0.0
    marks = [line.get_ydata()[0] for line in plot_spectrum(data).lines]
    assert marks == [1]


def test_blocks_of_other_bases_are_called_so() -> None:
    data = a_result().assign_coords(block=["λ=1", "λ=2", "λ=3", "λ=4"])
    assert plot_spectrum(data).get_ylabel() == "block of the task's basis"


def test_the_dual_grid_has_each_block_at_its_frequencies() -> None:
    data = a_result()
    grid = plot_dual_grid(data, step=30).collections[0].get_array()
    row = STEPS.tolist().index(30)
    power = data["power"].values[row, 0]
    assert grid.shape == (2, 3)
    for (first, second), value in zip(data["block_frequency"].values, power, strict=True):
        assert grid[first, second] == value
    assert np.ma.getmaskarray(grid)[0, 0]  # the constant
    assert np.ma.getmaskarray(grid)[0, 2]


def test_a_grid_of_other_than_two_axes_is_an_error() -> None:
    data = a_result().isel(axis=[0])
    with pytest.raises(GeomdiagError, match="found a dual grid of 1 axes, expected 2"):
        plot_dual_grid(data)


# persistence


def test_bars_stand_at_birth_and_death() -> None:
    drawn = lines(plot_persistence(a_result()))
    (components,) = (data for label, data in drawn.items() if label.startswith("components"))
    (loops,) = (data for label, data in drawn.items() if label.startswith("loops"))
    assert components[:, ~np.isnan(components).any(axis=0)].tolist() == [[0, 0], [0.5, 0.25]]
    assert loops[:, ~np.isnan(loops).any(axis=0)].tolist() == [[0.5], [1.5]]
    assert "loops (H1):\n1 beyond noise" in drawn
    assert "components (H0)" in drawn  # there is no null for them
    diagonal = drawn["vanishes at once"]
    np.testing.assert_array_equal(diagonal[0], diagonal[1])


def test_the_step_is_the_one_asked_for_and_else_the_last_that_did_not_fail() -> None:
    data = a_result()
    data["persistence"][{"step": 2, "homology": 1, "bar": 0}] = [0.25, 0.75]
    drawn = lines(plot_persistence(data, step=3))
    assert [0.25, 0.75] in np.array(drawn["loops (H1):\n1 beyond noise"]).T.tolist()
    data["status"] = ("step", ["ok"] * 3 + ["failed"] * 6)
    assert "step 3" in plot_persistence(data).get_title(loc="left")
    with pytest.raises(GeomdiagError, match="no checkpoint of step 7; nearest: 3, 10"):
        plot_persistence(data, step=7)


def test_a_step_without_bars_is_an_error() -> None:
    data = a_result()
    data["persistence"][{"step": -1}] = np.nan
    with pytest.raises(GeomdiagError, match="step 3000: found no bars of the embedding"):
        plot_persistence(data)


# forecast


def test_the_fan_is_the_quantiles() -> None:
    data = a_result()
    fan, never = plot_forecast(data)
    onset = data["onset"].sel(forecast_mode="losses").values
    np.testing.assert_array_equal(lines(fan)["median"], [STEPS, onset[:, 2]])
    np.testing.assert_array_equal(never.lines[0].get_ydata(), data["onset_never"].values[0])
    for place, (low, high) in enumerate(((0, 4), (1, 3))):
        corners = fan.collections[place].get_paths()[0].vertices
        assert [100, onset[5, low]] in corners.tolist()
        assert [100, onset[5, high]] in corners.tolist()
    assert lines(fan)["generalised: 1,000"][1].tolist() == [1000, 1000]
    assert (fan.patches[0].get_y(), fan.patches[0].get_height()) == (300, 700)


def test_a_median_beyond_reach_is_marked_at_the_edge() -> None:
    data = a_result()
    data["onset"][{"step": slice(0, 4), "quantile": slice(2, 5)}] = np.inf
    fan = plot_forecast(data)[0]
    drawn = lines(fan)
    assert drawn["median beyond reach"][0].tolist() == STEPS[:4].tolist()
    assert (drawn["median beyond reach"][1] < fan.get_ylim()[1]).all()
    assert np.isnan(drawn["median"][1][:4]).all()
    assert np.isfinite(drawn["median"][1][4:]).all()


def test_what_lies_behind_is_no_forecast() -> None:
    data = a_result()
    data["onset"][{"step": slice(6, None)}] = np.nan
    fan = plot_forecast(data)[0]
    assert np.isnan(lines(fan)["median"][1]).tolist() == [False] * 6 + [True] * 3
    low, high = fan.get_xlim()
    assert low < 0
    assert 1000 <= high < 3000  # as far as the step at which it generalised, not to its end


def test_a_run_that_did_not_generalise_has_no_line() -> None:
    data = a_result()
    data["stage_boundary"][{"boundary": 2}] = np.nan
    drawn = lines(plot_forecast(data)[0])
    assert drawn["not generalised\nby 3,000"].size == 0


def test_no_forecast_says_why() -> None:
    bare = a_result().drop_vars(["onset", "onset_never"])
    with pytest.raises(GeomdiagError, match=r"no 'onset'\. Make it with geomdiag\.dynamics"):
        plot_forecast(bare)
    bare["forecast_verdict"] = "no forecast: it needs the symmetry violations"
    with pytest.raises(GeomdiagError, match="it needs the symmetry violations"):
        plot_forecast(bare)
    with pytest.raises(GeomdiagError, match="no forecast_mode 'tea'; known: losses"):
        plot_forecast(a_result(), mode="tea")
    early = a_result()
    early["onset"][:] = np.nan
    with pytest.raises(GeomdiagError, match="no step has a forecast"):
        plot_forecast(early)


# what is missing


@pytest.mark.parametrize(
    ("draw", "name", "advice"),
    [
        (plot_spectrum, "power", "geomdiag analyze"),
        (plot_dual_grid, "block_frequency", "group:Z6xZ10"),
        (plot_persistence, "persistence", "--analyzers default,topology"),
    ],
)
def test_a_missing_variable_is_an_error_that_says_what_to_do(
    draw: Any, name: str, advice: str
) -> None:
    with pytest.raises(GeomdiagError, match=f"seed=0: the result has no '{name}'") as caught:
        draw(a_result().drop_vars(name))
    assert advice in str(caught.value)


def test_the_results_own_reason_is_passed_on() -> None:
    data = a_result().drop_vars("power")
    data.attrs["not_computed"] = '{"spectrum": "the checkpoint has no embedding", "fit": "other"}'
    with pytest.raises(GeomdiagError, match=r"\(spectrum: the checkpoint has no embedding\)"):
        plot_spectrum(data)


def test_an_unknown_matrix_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(GeomdiagError, match="power has no matrix 'logits'; known: embedding"):
        plot_spectrum(a_result(), matrix="logits")
