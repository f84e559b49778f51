"""The verdict in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from geomdiag.report.words import number, overview, stage_since, verdict, when


def summary(**facts: Any) -> dict[str, Any]:
    one: dict[str, Any] = {
        "run": "a", "unit": "step", "checkpoints": 9, "failed": 0, "partial": 0, "steps": [0, 900],
        "stage": "unknown", "stage_order": "", "boundaries": {}, "forecast": "", "threshold": "",
        "disagreement": [], "compared": 0,
    }  # fmt: skip
    return one | facts


def boundary(step: int | None, **facts: Any) -> dict[str, Any]:
    return {
        "step": step, "interval": [None, None], "interval_prob": None, "or_earlier": False,
        "p_value": None, "evidence": "", **facts,
    }  # fmt: skip


def test_a_run_that_generalised() -> None:
    told = verdict(
        summary(
            stage="symmetry_acquisition",
            boundaries={
                "t_symmetry": boundary(
                    200,
                    interval=[150, 300],
                    interval_prob=0.9,
                    p_value=0.0025,
                    evidence="it leaves its plateau",
                ),
                "t_generalised": boundary(700, interval=[600, 700]),
                "t_settled": boundary(None, evidence="it has not settled"),
            },
            stage_order="held: t_symmetry at step 200; held with probability 0.97",
            forecast="has generalised: nothing to forecast",
        ),
        200,
    )
    assert told.stage == (
        "Stage 2 of 3, symmetry acquisition, since step 200. "
        "It has generalised, at step 700 (after 600)."
    )
    assert told.since == "Since step 200. It leaves its plateau."
    assert "Symmetry begins at 200 (90 %: 150 to 300), generalised at 700 (after 600)." in told.sure
    assert "p = 0.0025" in told.sure
    assert "held with probability 0.97" in told.sure
    assert told.next == "It has generalised; nothing is left to forecast. It has not settled."


@pytest.mark.parametrize(
    ("stage", "settled", "begun", "over", "words"),
    [
        ("symmetry_acquisition", None, None, None, "Since step 500."),
        (
            "symmetry_acquisition",
            300,
            None,
            None,
            "Since step 500. Symmetry has settled, at step 300; geometry has not begun.",
        ),
        (
            "symmetry_acquisition",
            300,
            200,
            None,
            "Since step 500. Symmetry has settled, at step 300; geometry began at 200 and was "
            "lost again.",
        ),
        (
            "symmetry_acquisition",
            300,
            200,
            250,
            "Since step 500. Symmetry has settled, at step 300; geometry had settled before, at "
            "250: nothing was left to organise.",
        ),
        (
            "geometric_organisation",
            300,
            500,
            700,
            "Since step 500. This stage begins where both are so: symmetry settled at 300, "
            "geometry began at 500.",
        ),
        ("geometric_organisation", None, 500, 700, "Since step 500."),
    ],
)
def test_what_the_third_stage_waits_for_is_said(
    stage: str, settled: int | None, begun: int | None, over: int | None, words: str
) -> None:
    places = {"t_acquired": settled, "t_geometry": begun, "t_settled": over}
    bounds = {name: boundary(step) for name, step in places.items()}
    assert verdict(summary(stage=stage, boundaries=bounds), 500).since == words


def test_a_run_that_did_not() -> None:
    told = verdict(
        summary(
            stage="memorisation",
            boundaries={"t_generalised": boundary(None, evidence="its best is 0.4")},
            forecast="at step 900: generalises at step 2000",
            threshold="above: 3 nat",
            disagreement=["loss"],
            failed=2,
        ),
        0,
    )
    assert told.stage.endswith("It has not generalised: its best is 0.4.")
    assert told.since == "Since step 0, where the record begins, or earlier."
    assert "trust nothing here" in told.sure
    assert "2 of 9 checkpoints failed" in told.sure
    assert told.next == (
        "Forecast at step 900: generalises at step 2000. Symmetry threshold: above: 3 nat."
    )


def test_what_is_not_known_is_said_to_be_so() -> None:
    told = verdict(summary(stage_order="cannot be told: the split is unknown"), None)
    assert told.stage == "The stage is not known."
    assert "the split is unknown" in told.since
    assert "Whether it generalised is not known" in verdict(summary(stage="before"), 0).stage
    assert "no checkpoint" in verdict(summary(failed=9), None).stage


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (boundary(None), "–"),
        (boundary(5), "5"),
        (boundary(5, or_earlier=True), "5 or earlier"),
        (boundary(5, interval=[None, 7]), "5 (to 7)"),
        (boundary(5, interval=[5, 5]), "5"),
        (boundary(5, interval=[3, 7]), "5 (3 to 7)"),
        (boundary(5, interval=[3, 5]), "5 (after 3)"),
        (boundary(5, interval=[None, 5]), "5"),
        (boundary(5, interval=[3, 7], interval_prob=0.9), "5 (90 %: 3 to 7)"),
        (boundary(5, interval=[None, 5], interval_prob=0.5), "5 (50 %: to 5)"),
    ],
)
def test_boundaries(entry: dict[str, Any], words: str) -> None:
    assert when(entry) == words


def test_numbers() -> None:
    values = [None, "inf", 3.0, 0.123456, 1.5e-9]
    assert [number(value) for value in values] == ["–", "beyond reach", "3", "0.1235", "1.5e-09"]


def test_a_stage_begins_where_it_is_last_entered() -> None:
    def since(*stages: int) -> int | None:
        steps = 10 * np.arange(len(stages))
        return stage_since(xr.Dataset({"stage": ("step", list(stages))}, {"step": steps}))

    assert since(0, 1, 2, 1, 2, 2) == 40
    assert since(1, 1) == 0
    assert since(0, 1, -1, 1, -1) == 10
    assert since(-1, -1) is None
    assert stage_since(xr.Dataset()) is None


def test_all_runs_together() -> None:
    runs = [
        summary(stage="memorisation", boundaries={"t_generalised": boundary(None)}),
        summary(stage="symmetry_acquisition", boundaries={"t_generalised": boundary(5)}, failed=1),
        summary(),
    ]
    assert overview(runs) == (
        "3 runs: 1 of 2 generalised; 1 in memorisation, 1 in symmetry acquisition, 1 in unknown "
        "stage; 1 checkpoints failed."
    )
