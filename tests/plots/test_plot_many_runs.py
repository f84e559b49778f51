"""Figures of many runs: the threshold between them, and settings side by side."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import xarray as xr
from figure_samples import a_result, some_runs
from helpers.synthetic_corpus import a_run

from geomdiag.dynamics.criterion import best_threshold
from geomdiag.errors import GeomdiagError
from geomdiag.plots import plot_generalisation, plot_interventions
from geomdiag.plots.interventions import censored_median

TASK = "modadd:p=5"
SIGNAL = "symmetry_violation[commutativity,mean]"


def drawn(ax: Any) -> dict[str, Any]:
    return {str(line.get_label()): np.array(line.get_data(), dtype=float) for line in ax.lines}


def ends(corpus: xr.Dataset, signal: str, task: str = TASK) -> np.ndarray[Any, Any]:
    """Return the last value of each run of a task."""
    runs = np.flatnonzero(corpus["task"].values == task)
    values, index = corpus["value"].sel(signal=signal).values, corpus["run_index"].values
    return np.array([values[index == run][-1] for run in runs], dtype=float)


# generalisation


def test_each_run_is_where_it_ends() -> None:
    corpus = some_runs()
    found = drawn(plot_generalisation(corpus, task=TASK, criterion={}))
    solved = ~np.isnan(corpus["t_generalised"].values[corpus["task"].values == TASK])
    x, y = ends(corpus, SIGNAL), ends(corpus, "accuracy[heldout]")
    assert 3 <= solved.sum() < len(solved)
    np.testing.assert_allclose(
        found[f"generalised ({solved.sum()})"], [x[solved], y[solved]], rtol=1e-6
    )
    np.testing.assert_allclose(
        found[f"not generalised ({(~solved).sum()})"], [x[~solved], y[~solved]], rtol=1e-6
    )
    tau = best_threshold(x, solved)
    assert found[f"τ of these runs,\nin hindsight: {tau:.2g} nat"][0].tolist() == [tau, tau]
    assert x[solved].max() < tau < x[~solved].min()


def test_tau_and_violation_can_be_given() -> None:
    signal = "symmetry_js[commutativity,max]"
    ax = plot_generalisation(some_runs(), task=TASK, signal=signal, tau=0.25)
    assert drawn(ax)["τ given: 0.25 nat"][0].tolist() == [0.25, 0.25]
    assert ax.get_xlabel() == ("max violation of commutativity, Jensen-Shannon, at the end (nat)")


def test_a_calibrated_threshold_comes_before_one_of_the_runs() -> None:
    best = {"signal": "symmetry_js[commutativity,max]", "level": 0.5, "runs": 55}
    found = {"tasks": {TASK: [best]}}
    ax = plot_generalisation(some_runs(), task=TASK, criterion=found)
    assert drawn(ax)["τ calibrated on\n55 runs: 0.5 nat"][0].tolist() == [0.5, 0.5]
    assert "Jensen-Shannon" in ax.get_xlabel()


def test_too_few_runs_of_a_kind_have_no_threshold() -> None:
    runs = {f"/{i}": a_run(i, TASK, solves=i > 0) for i in range(3)}
    ax = plot_generalisation(xr.DataTree.from_dict(runs), criterion={})
    assert drawn(ax)["no τ: fewer than\n3 runs of a kind"].size == 0
    assert "3 runs of modadd:p=5" in ax.get_title(loc="left")


def test_a_violation_of_zero_stands_at_the_edge() -> None:
    runs = {f"/{i}": a_run(i, TASK) for i in range(3)}
    runs["/0"]["symmetry_violation"][{"step": -1}] = 0.0
    found = drawn(plot_generalisation(xr.DataTree.from_dict(runs), criterion={}))
    x = np.sort(found["generalised (3)"][0])
    assert x[0] == pytest.approx(x[1] / 2)


def test_a_violation_that_is_built_in_is_not_chosen() -> None:
    runs = {}
    for i in range(3):
        run = a_run(i, TASK)
        other = run.copy(deep=True).assign_coords(symmetry=["translation"])
        run["symmetry_violation"][:] = 0.0
        runs[f"/{i}"] = xr.concat([run, other], dim="symmetry", data_vars="minimal", join="outer")
    ax = plot_generalisation(xr.DataTree.from_dict(runs), criterion={})
    assert "of translation" in ax.get_xlabel()


def test_what_is_missing_is_an_error() -> None:
    corpus = some_runs()
    with pytest.raises(GeomdiagError, match=r"runs are of 4 tasks.*--task.*modadd:p=5, modadd:p=6"):
        plot_generalisation(corpus)
    with pytest.raises(GeomdiagError, match="no runs of modadd:p=97; known: modadd:p=5"):
        plot_generalisation(corpus, task="modadd:p=97")
    with pytest.raises(GeomdiagError, match="no run has tea; known: symmetry_js"):
        plot_generalisation(corpus, task=TASK, signal="tea")
    with pytest.raises(
        GeomdiagError, match="found no held-out accuracy; expected runs whose split"
    ):
        plot_generalisation(xr.DataTree.from_dict({"/a": a_run(0, TASK).sel(part=["all"])}))
    bare = a_run(0, TASK).drop_vars(["symmetry_js", "symmetry_violation"])
    with pytest.raises(GeomdiagError, match="no symmetry violation that is learnt"):
        plot_generalisation(xr.DataTree.from_dict({"/a": bare}), criterion={})
    with pytest.raises(GeomdiagError, match="found the result of one run, expected many"):
        plot_generalisation(a_result())


# interventions


def settings_of(corpus: xr.Dataset) -> dict[str, np.ndarray[Any, Any]]:
    """Return the onsets of each setting of the task."""
    own = corpus["task"].values == TASK
    settings, onset = corpus["setting"].values[own], corpus["t_generalised"].values[own]
    return {str(name): onset[settings == name] for name in np.unique(settings)}


def test_each_run_is_in_the_row_of_its_setting() -> None:
    corpus = some_runs()
    ax = plot_interventions(corpus, task=TASK)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    circles = [line for line in ax.lines if line.get_marker() == "o" and len(line.get_xdata())]
    expected = settings_of(corpus)
    assert labels[0] == "task0"
    assert ax.get_yticklabels()[0].get_fontweight() == "bold"
    assert len(labels) - 1 == len(circles) == len(expected) == 2
    medians = []
    for row, (label, line) in enumerate(zip(labels[1:], circles, strict=True), start=1):
        mine = expected[f"task0+{label.partition(' (')[0]}"]
        assert label.endswith(f"({len(mine)})")
        np.testing.assert_array_equal(np.sort(line.get_xdata()), np.sort(mine[~np.isnan(mine)]))
        assert set(line.get_ydata()) == {row}
        medians.append(censored_median(mine))
    assert medians == sorted(medians)
    bars = [
        line.get_xydata().tolist()
        for line in ax.lines
        if line.get_color() == "black" and len(line.get_xdata())
    ]
    assert bars == [
        [[median, row - 0.35], [median, row + 0.35]]
        for row, median in enumerate(medians, start=1)
        if math.isfinite(median)
    ]


def test_groups_stand_apart_and_their_baseline_is_marked() -> None:
    runs = {}
    for group in ("b", "a"):
        for variant in ("baseline", "prompt", "none"):
            for seed in range(3):
                run = a_run(seed + len(variant), TASK, solves=variant != "none")
                run.attrs["run"] = f"{group}+{variant}/seed={seed}"
                runs[f"/{group}{variant}{seed}"] = run
    ax = plot_interventions(xr.DataTree.from_dict(runs))
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels[0] == "a"
    assert labels[4] == "b"
    assert labels[3] == labels[7] == "none (3)"  # never, so last
    dotted = [
        segment
        for one in ax.collections
        if hasattr(one, "get_segments")
        for segment in one.get_segments()
    ]
    row = labels.index("baseline (3)")
    (circles,) = (
        line.get_xdata() for line in ax.lines
        if line.get_marker() == "o" and len(line.get_xdata()) and line.get_ydata()[0] == row
    )  # fmt: skip
    assert [segment.tolist() for segment in dotted] == [
        [[np.median(circles), 0.5], [np.median(circles), 3.5]],
        [[np.median(circles), 4.5], [np.median(circles), 7.5]],
    ]


def test_settings_without_a_median_go_by_how_many_runs_made_it() -> None:
    runs = {}
    for place, solved in enumerate([0, 2, 1]):
        for seed in range(5):
            run = a_run(seed, TASK, solves=seed < solved)
            run.attrs["run"] = f"{place}/seed={seed}"
            runs[f"/{place}-{seed}"] = run
    ax = plot_interventions(xr.DataTree.from_dict(runs))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1 (5)", "2 (5)", "0 (5)"]


def test_a_run_that_did_not_generalise_is_open_at_its_last_step() -> None:
    corpus = some_runs()
    ax = plot_interventions(corpus, task=TASK)
    late = [line for line in ax.lines if line.get_marker() == ">" and len(line.get_xdata())]
    found = np.concatenate([line.get_xdata() for line in late])
    own = corpus["task"].values == TASK
    missed = own & np.isnan(corpus["t_generalised"].values)
    np.testing.assert_array_equal(found, corpus["last_step"].values[missed])
    assert all(line.get_markerfacecolor() == "none" for line in late)
    heights = np.concatenate([line.get_ydata() for line in late])
    assert len(set(zip(found, heights, strict=True))) == len(found)  # none hides another


@pytest.mark.parametrize(
    ("onset", "median"),
    [
        ([5, 1, 3], 3),
        ([1, 2, np.nan], 2),
        ([1, np.nan, np.nan], np.inf),
        ([1, 3], 2),
        ([1, np.nan], np.inf),
        ([np.nan], np.inf),
    ],
)
def test_medians_count_runs_that_never_came_as_later(onset: list[float], median: float) -> None:
    assert censored_median(np.array(onset, dtype=float)) == median


def test_a_result_of_many_runs_is_as_good_as_a_corpus() -> None:
    runs = {}
    for i in range(4):
        run = a_run(i, TASK)
        run.attrs["run"] = f"{'prompted' if i % 2 else 'plain'}/seed={i}"
        runs[f"/{i}"] = run
    ax = plot_interventions(xr.DataTree.from_dict(runs))
    labels = {label.get_text() for label in ax.get_yticklabels()}
    assert labels == {"plain (2)", "prompted (2)"}
