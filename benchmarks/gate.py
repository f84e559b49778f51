"""False alarms and detection of the gate on the corpus of recorded runs.

Five seeds of 128 settings: each seed in turn is held against a baseline of others. Run as
``python benchmarks/gate.py``.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

import geomdiag as gd
from geomdiag.gate.baseline import Baseline, make_baseline
from geomdiag.gate.measured import Measured
from geomdiag.gate.verdict import check

CORPUS = Path(__file__).resolve().parent.parent / "fixtures" / "corpus" / "corpus.zarr.zip"
TIMES = ("t_memorised", "t_generalised")

corpus = gd.load_corpus(CORPUS)
SIGNALS = corpus["signal"].values.tolist()
VALUES, STEP, RUN = (corpus[name].values for name in ("value", "step", "run_index"))
SOLVED = np.isfinite(corpus["t_generalised"].values)


def numbers(run: int, until: float = math.inf) -> dict[str, float]:
    """Return what a run's result holds at its last checkpoint up to a step."""
    rows = np.flatnonzero((run == RUN) & (until >= STEP))
    column = VALUES[:, rows[np.argmax(STEP[rows])]]
    known = {name: float(one) for name, one in zip(SIGNALS, column, strict=True) if one == one}
    if until == math.inf:
        known |= {name: float(corpus[name].values[run]) for name in TIMES}
    return known


def together(runs: list[dict[str, float]]) -> list[Measured]:
    names = dict.fromkeys(name for run in runs for name in run)
    return [Measured("x", {name: tuple(run.get(name, math.nan) for run in runs) for name in names})]


def untested(baseline: Baseline) -> Baseline:
    setting = baseline.settings["x"]
    metrics = {
        name: replace(one, policy=replace(one.policy, test=False))
        for name, one in setting.metrics.items()
    }
    return replace(baseline, settings={"x": replace(setting, metrics=metrics)})


def main() -> None:
    settings: dict[str, list[int]] = defaultdict(list)
    for run, setting in enumerate(corpus["setting"].values):
        settings[setting].append(run)
    whole = [numbers(run) for run in range(corpus.sizes["run"])]
    for seeds in (1, 3, 4):
        for which, chosen in (
            ("all", list(settings.values())),
            ("all five generalise", [runs for runs in settings.values() if SOLVED[runs].all()]),
        ):
            failed: dict[str, list[bool]] = defaultdict(list)
            for runs in chosen:
                for run in runs:
                    others = [whole[other] for other in runs if other != run][:seeds]
                    baseline = make_baseline(together(others))
                    new = together([whole[run]])
                    for correction in ("none", "holm", "benjamini-hochberg"):
                        verdict = check(new, baseline, correction=correction)
                        failed[correction].append(not verdict.passed)
                    failed["tolerances alone"].append(not check(new, untested(baseline)).passed)
                    if which == "all":
                        continue
                    late = corpus["t_generalised"].values[run]
                    setting = baseline.settings["x"]
                    metrics = {k: v for k, v in setting.metrics.items() if k not in TIMES}
                    geometry = replace(baseline, settings={"x": replace(setting, metrics=metrics)})
                    for share in (0.5, 0.9):
                        early = together([numbers(run, share * late)])
                        failed[f"stopped at {share} of t_generalised"].append(
                            not check(early, geometry).passed
                        )
            told = ", ".join(f"{name} {np.mean(one):.1%}" for name, one in failed.items())
            print(f"{seeds} seeds, {which} ({len(failed['holm'])} checks): {told}", flush=True)


if __name__ == "__main__":
    main()
