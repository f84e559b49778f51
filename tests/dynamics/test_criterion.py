"""The soft threshold: known answers, brute force, and its words."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from geomdiag.dynamics.corpus import collect
from geomdiag.dynamics.criterion import (
    auroc,
    best_threshold,
    calibrate,
    criterion,
    load_criterion,
    save_criterion,
    since_below,
)
from geomdiag.errors import GeomdiagError


@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=14).filter(
        lambda pairs: len({kind for _, kind in pairs}) == 2
    )
)
def test_auroc_is_the_share_of_pairs_in_order(pairs: list[tuple[int, bool]]) -> None:
    scores = np.array([float(score) for score, _ in pairs])
    kinds = np.array([kind for _, kind in pairs])
    every = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a, b in itertools.product(scores[kinds], scores[~kinds])
    ]
    assert auroc(scores, kinds) == pytest.approx(np.mean(every))


@given(
    st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=2, max_size=14).filter(
        lambda pairs: len({kind for _, kind in pairs}) == 2
    )
)
def test_no_level_beats_the_best_threshold(pairs: list[tuple[int, bool]]) -> None:
    values = np.array([float(value) for value, _ in pairs])
    kinds = np.array([kind for _, kind in pairs])

    def balanced(level: float) -> float:
        below = values < level
        return float(below[kinds].mean() - below[~kinds].mean())

    levels = [x + 0.5 for x in range(11)]
    # a threshold below all values says nothing is solved, which is never better
    assert balanced(best_threshold(values, kinds)) >= max(map(balanced, levels)) - 1e-9


def test_the_threshold_lies_in_the_middle_of_the_gap() -> None:
    values = np.array([0.01, 0.04, 1.0, 4.0])
    assert best_threshold(values, np.array([True, True, False, False])) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.1, 2, 2, 0.1, 0.1], 3),
        ([2, 0.1, 2, 2, 0.1], 4),
        ([0.1, 0.1, 0.1, 0.1, 2], np.nan),
        ([0.1, 0.1, 0.1, 0.1, 0.1], 0),
        ([2, 2, np.nan, 0.1, np.nan], 3),
        ([np.nan] * 5, np.nan),
    ],
)
def test_since_below(values: list[float], expected: float) -> None:
    found = since_below(np.arange(5), np.array(values, float), 1.0)
    np.testing.assert_equal(found, expected)


def a_run(final: float, solved: bool, task: str) -> xr.Dataset:
    """Violation rises to 10 and falls to `final` at step 300; accuracy follows at step 400."""
    steps = np.arange(0, 1001, 100)
    violation = np.where(steps < 300, 10.0, final)
    violation[0] = 1e-3
    violation = np.stack([violation, 2 * violation], axis=1)[:, None]
    heldout = (steps >= 400) * (1.0 if solved else 0.5)
    accuracy = np.stack([np.ones(len(steps)), heldout], axis=1)
    return xr.Dataset(
        {
            "symmetry_violation": (("step", "symmetry", "statistic"), violation),
            "accuracy": (("step", "part"), accuracy),
        },
        {
            "step": steps,
            "symmetry": ["commutativity"],
            "statistic": ["mean", "max"],
            "part": ["train", "heldout"],
        },
        {"task": task},
    )


def a_corpus() -> xr.Dataset:
    runs = []
    for task, scale in (("modadd:p=5", 1.0), ("modadd:p=7", 3.0)):
        for seed in range(4):
            runs += [
                (f"{task}+good/seed={seed}", a_run(0.01 * scale * (1 + seed), True, task)),
                (f"{task}+bad/seed={seed}", a_run(5.0 * scale * (1 + seed), False, task)),
            ]
    return collect(runs)


def test_calibration_of_runs_that_are_apart() -> None:
    found = calibrate(a_corpus(), source="a test")
    assert set(found["tasks"]) == {"modadd:p=5", "modadd:p=7"}
    assert set(found["families"]) == {"modadd"}
    best = found["tasks"]["modadd:p=5"][0]
    mean = next(
        one
        for one in found["tasks"]["modadd:p=5"]
        if one["signal"] == "symmetry_violation[commutativity,mean]"
    )
    assert mean["level"] == pytest.approx(np.sqrt(0.04 * 5.0), rel=1e-5)
    assert (best["auroc"], best["error"], best["runs"], best["solved"]) == (1.0, 0.0, 8, 4)
    assert (mean["lead"], mean["crossed"]) == (100, 4)
    assert best["chosen_error"] == 0.0
    assert best["error_high"] == pytest.approx(0.324, abs=1e-3)  # Wilson: 0 of 8
    assert found["families"]["modadd"][0]["error"] == 0.0


def test_runs_that_are_not_apart_have_errors() -> None:
    rng = np.random.default_rng(0)
    runs = [
        (f"x{'+' * (i % 2)}/seed={i // 2}", a_run(float(np.exp(rng.normal())), bool(i % 2), "t:n"))
        for i in range(40)
    ]
    best = calibrate(collect(runs))["tasks"]["t:n"][0]
    assert 0.3 < best["chosen_error"] < 0.8
    # choosing the signal by its own error looks better than it is
    assert best["error"] <= best["chosen_error"] + 0.1


def test_values_at_rounding_level_make_no_gap() -> None:
    values = np.array([0.0, 1e-14, 2e-3, 1.0])
    found = best_threshold(values, np.array([True, True, True, False]))
    assert found == pytest.approx(np.sqrt(2e-3))
    assert best_threshold(np.array([0.0, 1e-13]), np.array([True, False])) <= 1.001e-9


def test_too_few_runs_are_refused() -> None:
    runs = [(f"a/seed={i}", a_run(0.1, True, "t")) for i in range(5)]
    with pytest.raises(GeomdiagError, match="a threshold needs both kinds"):
        calibrate(collect(runs))


def test_a_criterion_is_read_back(tmp_path: Path) -> None:
    found = calibrate(a_corpus())
    path = save_criterion(found, tmp_path / "criterion.json")
    assert load_criterion(path) == found
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(GeomdiagError, match="is no criterion"):
        load_criterion(tmp_path / "other.json")
    with pytest.raises(GeomdiagError, match="cannot be read"):
        load_criterion(tmp_path / "absent.json")


def test_words() -> None:
    found = calibrate(a_corpus())
    below = criterion(a_run(0.01, True, "modadd:p=5"), found)
    assert float(below["below_since"]) == 300
    assert str(below["threshold_verdict"].values).startswith("below since step 300")
    above = criterion(a_run(9.0, False, "modadd:p=5"), found)
    assert np.isnan(float(above["below_since"]))
    assert str(above["threshold_verdict"].values).startswith("not below")
    quiet = a_run(0.01, True, "modadd:p=5")
    quiet["symmetry_violation"][:] = 1e-4
    assert "never above" in str(criterion(quiet, found)["threshold_verdict"].values)
    other = criterion(a_run(0.01, True, "modadd:p=11"), found)
    assert "runs of modadd)" in str(other["threshold_verdict"].values)
    assert "left-out tasks" in str(other["threshold_verdict"].values)
    strange = criterion(a_run(0.01, True, "graph:path-4"), found)
    assert "no threshold is known for graph:path-4" in str(strange["threshold_verdict"].values)
    assert "threshold" not in strange
