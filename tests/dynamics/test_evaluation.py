"""The evaluation as a whole, on made-up runs: its numbers by hand, its page by its numbers."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.synthetic_corpus import a_corpus

from geomdiag.dynamics.evaluation import TWICE, Evaluation, evaluate, reliability
from geomdiag.dynamics.evaluation_page import page, verdicts
from geomdiag.dynamics.forecaster import Cases, cases_of
from geomdiag.dynamics.hazard import EDGES, SETTINGS


@pytest.fixture(scope="module")
def found() -> Evaluation:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SETTINGS, "max_iter", 25)  # enough for what these runs show
        return evaluate(a_corpus(tasks=3, seeds=9))


def test_every_mode_and_baseline_is_judged_on_left_out_tasks(found: Evaluation) -> None:
    assert set(found.tasks) == {
        "geometry",
        "losses",
        "elapsed steps",
        "spectral measures of the embedding",
        "extrapolated held-out loss",
        "extrapolated held-out accuracy",
        "distribution of onsets",
        TWICE,
    }
    assert set(found.configurations) == {"geometry", "losses"}
    assert (found.runs, found.tasks_count) == (27, 3)
    for one in found.tasks.values():
        assert one.score.runs == found.hopeful
        assert [alarm.requested for alarm in one.alarms] == [0.01, 0.02, 0.05, 0.1, 0.2]
        assert all(0 <= alarm.false <= 1 for alarm in one.alarms)


def test_what_the_runs_show_is_found(found: Evaluation) -> None:
    """Violations tell the onset of these runs, elapsed steps do not."""
    geometry, elapsed = (found.tasks[name].score for name in ("geometry", "elapsed steps"))
    assert geometry.crps_all < 0.7 * elapsed.crps_all
    assert geometry.error[0.9] < elapsed.error[0.9]
    assert found.tasks["geometry"].asked[0.25][0] > 0.9


def test_always_twice_is_right_at_half_way_only(found: Evaluation) -> None:
    error = found.tasks[TWICE].score.error
    assert error[0.5] < 0.2
    assert error[0.9] == pytest.approx(0.75, abs=0.15)


def test_the_page_says_what_was_found(found: Evaluation) -> None:
    text = page(found, source="a test", command="geomdiag evaluate x", pictures={"error": "e.svg"})
    assert f"27 runs of 3 tasks in {found.settings} configurations" in text
    assert f"{found.tasks['geometry'].score.crps_all:.3f}" in text
    assert "![Relative error on the way to the onset.](e.svg)" in text
    for what, held, numbers in verdicts(found):
        assert f"| {what} | {'yes' if held else '**no**'} | {numbers} |" in text
    best = next(row for row in verdicts(found) if row[0] == "and below that of every baseline")
    assert f"best baseline: {TWICE}" not in best[2]


def test_reliability_by_hand() -> None:
    """Chances of one half by twice the step; of four moments two are not watched so long."""
    survival = np.tile(np.where(np.concatenate([[0.0], EDGES]) > 0, 0.5, 1.0), (5, 1))
    growth = np.array([0.3, 2.0, np.nan, 0.1, 0.3])
    seen = np.array([3.0, 3.0, 0.5, 0.5, 3.0])
    behind = np.array([False, False, False, False, True])
    task = np.array(["t"] * 5)
    cases = Cases(
        ("x",),
        np.zeros((5, 1)),
        np.arange(5),
        np.ones(5),
        growth,
        seen,
        behind,
        ~behind,
        task,
        task,
    )
    ((chance, share, count),) = reliability(survival, cases, 2.0)
    assert (chance, share, count) == (pytest.approx(0.5), 0.5, 2)


def test_moments_of_a_corpus() -> None:
    corpus = a_corpus(tasks=2, seeds=6)
    cases = cases_of(corpus, "losses")
    onset = corpus["t_generalised"].values[cases.run]
    np.testing.assert_array_equal(cases.done, cases.step >= onset)
    assert (cases.step[~np.isnan(onset)] < 3 * onset[~np.isnan(onset)]).all()
    np.testing.assert_allclose(
        cases.growth[~cases.done], np.log(onset / cases.step)[~cases.done], rtol=1e-12
    )
    assert (cases.growth[cases.done] == 0).all()
    # every run of these settings has the same steps, but for seeds that a setting has none of
    assert cases.planned.all()
