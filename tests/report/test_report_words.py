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
        "step": step, "interval": [None, None], "or_earlier": False, "p_value": None,
        "evidence": "", **facts,
    }  # fmt: skip


def test_a_run_that_generalised() -> None:
    told = verdict(
        summary(
            stage="symmetry_acquisition",
            boundaries={
                "t_symmetry": boundary(
                    200, interval=[150, 300], p_value=0.0025, evidence="it leaves its plateau"
                ),
                "t_generalised": boundary(700, interval=[600, 700]),
                "t_settled": boundary(None, evidence="it has not settled"),
            },
            stage_order="held: t_symmetry at step 200; held with probability 0.97",
            forecast="has generalised: nothing to forecast",
        ),
        200,
        0.9,
    )
    assert told.stage == (
        "Stage 2 of 3, symmetry acquisition, since step 200. "
        "It has generalised, at step 700 (600 to 700)."
    )
    assert told.since == "Since step 200. It leaves its plateau."
    assert "Symmetry begins at 200 (150 to 300), generalised at 700 (600 to 700)" in told.sure
    assert "(90% intervals)" in told.sure
    assert "p = 0.0025" in told.sure
    assert "held with probability 0.97" in told.sure
    assert told.next == "It has generalised; nothing is left to forecast. It has not settled."


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
