"""Times to generalise, each variant against its baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reproduction.runs import LABELS, SOLVED, Experiment, Run
from reproduction.statistics import COVERAGE, Median, median_interval
from reproduction.words import digits, interval_words


@dataclass(frozen=True)
class Row:
    """One variant against its baseline."""

    experiment: Experiment
    variant: str
    runs: list[Run]
    time: Median | None = None
    ratio: Median | None = None
    pairs: int = 0

    @property
    def generalised(self) -> int:
        """How many runs generalised within their budget."""
        return sum(not math.isnan(run.generalised) for run in self.runs)

    @property
    def verdict(self) -> str:
        """What the interval of the ratio tells."""
        if self.ratio is None or self.ratio.coverage < COVERAGE:
            return "cannot tell"
        if self.ratio.upper < 1:
            return "faster"
        return "slower" if self.ratio.lower > 1 else "cannot tell"

    @property
    def label(self) -> str:
        """Name in tables."""
        kind = "prompt: " if self.variant in self.experiment.prompts else ""
        kind = "prior: " if self.variant in self.experiment.priors else kind
        return kind + LABELS.get(self.variant, self.variant)

    @property
    def ratio_words(self) -> str:
        """The ratio and its interval."""
        if self.ratio is None:
            return ""
        return interval_words(self.ratio, digits, "unknown").replace("> 0 ", "unknown ")

    def cells(self) -> list[str]:
        """Return the row of the table."""
        if not self.runs:
            return [self.label, "no runs", "", "", "", "", ""]
        n = len(self.runs)
        budget = min(run.last_step for run in self.runs)
        time = ""
        if self.time is not None:
            time = interval_words(
                self.time, lambda t: f"{t:.0f}", f"not within {budget:.0f} steps"
            ).replace("∞", f"> {budget:.0f}")
        reached = sum(run.best >= SOLVED for run in self.runs)
        against = "" if self.variant == "baseline" else self.ratio_words
        verdict = "" if self.variant == "baseline" else self.verdict
        return [
            self.label,
            str(n),
            f"{self.generalised}/{n}",
            f"{reached}/{n}",
            time,
            against,
            verdict,
        ]


def compare(experiment: Experiment, runs: Sequence[Run]) -> list[Row]:
    """Return the variants of an experiment, each against the baseline, seed by seed."""

    def of(variant: str) -> list[Run]:
        return [run for run in runs if run.setting == f"{experiment.sweep}+{variant}"]

    rows = []
    for variant, against in experiment.variants.items():
        members = of(variant)
        if not members:
            rows.append(Row(experiment, variant, []))
            continue
        times = [math.inf if math.isnan(run.generalised) else run.generalised for run in members]
        base = {run.seed: run for run in of(against)}
        bounds = [ratio_bounds(run, base[run.seed]) for run in members if run.seed in base]
        ratio = None
        if bounds and variant != "baseline":
            ratio = median_interval([low for low, _ in bounds], [high for _, high in bounds])
        rows.append(Row(experiment, variant, members, median_interval(times), ratio, len(bounds)))
    return rows


def ratio_bounds(run: Run, base: Run) -> tuple[float, float]:
    """Return between what the ratio of two times to generalise lies.

    Of a time beyond the budget nothing is known but that.
    """
    late, base_late = math.isnan(run.generalised), math.isnan(base.generalised)
    # a run may be right from its first step
    time, base_time = max(run.generalised, 1.0), max(base.generalised, 1.0)
    if late and base_late:
        return 0.0, math.inf
    if late:
        return run.last_step / base_time, math.inf
    if base_late:
        return 0.0, time / base.last_step
    return time / base_time, time / base_time


TIMES_HEADER = (
    "variant",
    "runs",
    "generalised",
    "reached 0.99",
    "median step [interval]",
    "ratio to baseline [interval]",
    "against baseline",
)
