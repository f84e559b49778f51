"""The order in which the stages of the runs came."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import groupby

from reproduction.runs import Run
from reproduction.statistics import median_interval
from reproduction.words import digits, interval_words, table

EVENTS = (
    ("M", "train accuracy stays at 0.99", "memorised"),
    ("S", "symmetry acquisition begins", "symmetry"),
    ("G", "held-out accuracy stays at 0.99", "generalised"),
    ("D", "the embedding's dimension begins to fall", "geometry"),
)


def share_words(runs: Sequence[Run], first: str, second: str) -> str:
    """Return in how many runs that know both times the first is not later."""
    known = both(runs, first, second)
    return f"{sum(one <= other for one, other in known)}/{len(known)}" if known else "–"


def both(runs: Iterable[Run], first: str, second: str) -> list[tuple[float, float]]:
    """Return two times of the runs that know both."""
    times = [(getattr(run, first), getattr(run, second)) for run in runs]
    return [pair for pair in times if not any(math.isnan(time) for time in pair)]


def factor_words(runs: Sequence[Run], first: str, second: str) -> str:
    """Return the median of the second time over the first, with an interval."""
    ratios = [other / max(one, 1) for one, other in both(runs, first, second)]
    return interval_words(median_interval(ratios), digits, "–") if ratios else "–"


def order_counts(runs: Sequence[Run]) -> list[str]:
    """Return how many runs hold the order, break it, or leave it open."""
    return [str(sum(run.order == word for run in runs)) for word in ("held", "broken", "neither")]


def stage_rows(runs: Sequence[Run], *, generalised: bool) -> list[list[str]]:
    """Return a line for each sweep, without losses beside the cross-entropy, and for the rest."""
    kept = [run for run in runs if math.isnan(run.generalised) != generalised]
    plain = [run for run in kept if not run.auxiliary]
    groups = [(sweep, list(group)) for sweep, group in groupby(plain, lambda run: run.sweep)]
    groups += [
        ("**all of these**", plain),
        ("with a prior", [run for run in kept if run.auxiliary and not run.prompted]),
        ("with a prompt", [run for run in kept if run.prompted]),
    ]
    rows = []
    for name, group in groups:
        row = [name, str(len(group)), *order_counts(group)]
        if generalised:
            row += [
                share_words(group, "memorised", "symmetry"),
                share_words(group, "symmetry", "generalised"),
                share_words(group, "generalised", "geometry"),
                factor_words(group, "symmetry", "generalised"),
                factor_words(group, "generalised", "geometry"),
            ]
        rows.append(row)
    return rows


def sequence(run: Run) -> str:
    """Return the events of a run in the order in which they came; "=" at the same step."""
    known = sorted(
        (getattr(run, name), place, letter)
        for place, (letter, _, name) in enumerate(EVENTS)
        if not math.isnan(getattr(run, name))
    )
    text = ""
    for number, (time, _, letter) in enumerate(known):
        if number:
            text += "=" if time == known[number - 1][0] else ">"
        text += letter
    return text.replace(">", " ") or "–"


def sequences(runs: Sequence[Run]) -> str:
    """Return the order in every run, one line a setting."""
    seeds = sorted({run.seed for run in runs})
    rows = []
    for setting, group in groupby(runs, lambda run: run.setting):
        own = {run.seed: sequence(run) for run in group}
        rows.append([setting, *(own.get(seed, "no run") for seed in seeds)])
    return table(["setting", *(f"seed {seed}" for seed in seeds)], rows)
