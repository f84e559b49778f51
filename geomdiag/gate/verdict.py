"""Noise or regression: every metric of a baseline held against what was measured.

A metric has regressed where its change in the worse direction is larger than every tolerance of
it and larger than chance explains, which `chance` says for all metrics together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from geomdiag.errors import BaselineError, GeomdiagError
from geomdiag.gate.baseline import CORRECTIONS, Baseline, Metric, correction_of, make_baseline
from geomdiag.gate.chance import Basis, Chance, Runs, weigh
from geomdiag.gate.changes import centre, scaled
from geomdiag.gate.measured import Measured
from geomdiag.gate.patterns import choose
from geomdiag.gate.promise import notices_of

__all__ = ["FAILING", "VERDICTS", "Row", "Verdict", "check", "compare"]

#: From the worst on; the first two fail.
VERDICTS = ("regressed", "missing", "noise", "new", "not compared", "improved", "same")
FAILING = ("regressed", "missing")


@dataclass(frozen=True)
class Row:
    """What became of one metric.

    Attributes
    ----------
    setting, metric : str
    verdict : str
        One of `VERDICTS`. noise: worse than tolerated, but not told from chance.
    baseline, value : float
        Centre of the baseline and of the new runs (means on the metric's scale); NaN: none.
    seeds, runs : int
        How many runs gave these.
    change : float
        ``value - baseline``, units of the metric.
    excess : float
        Change in the worse direction over the tolerance, more than 1 is too much; infinite
        without a tolerance. It orders the rows of one verdict.
    spreads : float
        Change on the scale, in standard deviations between the baseline's seeds; NaN: unknown.
    p_value, adjusted : float
        Of a change as bad by chance: in this metric; in any, or as the correction says, and where
        there are too few runs with a margin. NaN: not tested.
    worse : str
        Direction that is worse.
    words : str
        What decided.
    """

    setting: str
    metric: str
    verdict: str
    baseline: float = math.nan
    value: float = math.nan
    seeds: int = 0
    runs: int = 0
    change: float = math.nan
    excess: float = 0.0
    spreads: float = math.nan
    p_value: float = math.nan
    adjusted: float = math.nan
    worse: str = "either"
    words: str = ""


@dataclass(frozen=True)
class Verdict:
    """All rows, the worst first, and how they were judged.

    Attributes
    ----------
    rows : tuple of Row
    level : float
    correction : str
    notices : tuple of str
        What a reader must know of the test.
    basis : {"exact", "approximate", "tolerances"}
        What the level rests on: that runs without a change are alike, and nothing else; that
        seeds scatter as recorded ones do, since there are too few runs; nothing, since nothing is
        tested.
    """

    rows: tuple[Row, ...]
    level: float
    correction: str
    notices: tuple[str, ...]
    basis: Basis = "tolerances"

    @property
    def failed(self) -> tuple[Row, ...]:
        """The rows that a gate must not let through."""
        return tuple(row for row in self.rows if row.verdict in FAILING)

    @property
    def passed(self) -> bool:
        """Whether there is none."""
        return not self.failed


def check(
    measured: Sequence[Measured],
    baseline: Baseline,
    *,
    level: float | None = None,
    correction: str | None = None,
) -> Verdict:
    """Hold what was measured against a baseline.

    Parameters
    ----------
    measured : sequence of Measured
        From `geomdiag.gate.measured.measure`.
    baseline : Baseline
        A setting is held against the one of its name; a lone one against a lone one, whatever
        their names.
    level : float, optional
        Chance that runs without a change fail. Default: the baseline's.
    correction : {"family-wise", "benjamini-hochberg", "none"}, optional
        For the number of metrics. Default: the baseline's.

    Returns
    -------
    Verdict

    Raises
    ------
    BaselineError
        If the two are of different tasks, or level or correction are none.
    """
    level = baseline.level if level is None else level
    correction = correction_of(baseline.correction if correction is None else correction)
    if correction not in CORRECTIONS:
        raise BaselineError(
            f"unknown correction {correction!r}; expected one of {', '.join(CORRECTIONS)}"
        )
    if not 0 < level < 1:
        raise BaselineError(f"the level is {level:g}; expected a probability between 0 and 1")
    own = {one.name: one for one in measured}
    if len(own) == len(baseline.settings) == 1:
        own = {next(iter(baseline.settings)): measured[0]}
    rows: list[Row] = []
    entries: list[tuple[Row, Runs, str]] = []
    for name, setting in baseline.settings.items():
        one = own.pop(name, None)
        if one is not None and one.task and setting.task and one.task != setting.task:
            raise BaselineError(
                f"the result of {name!r} is of the task {one.task}, the baseline of "
                f"{setting.task}; only what is of one task can be compared. Give the one that "
                "belongs to it, or make a new baseline."
            )
        if one is None:
            why = "the result has no runs of this setting"
            one = Measured(name, {}, reasons=dict.fromkeys(setting.metrics, why))
        for metric, entry in setting.metrics.items():
            row = Row(name, metric, "same", worse=entry.policy.worse)
            entered = _enter(row, entry, one)
            if isinstance(entered, Row):
                rows.append(entered)
            else:
                entries.append((*entered, one.why(metric)))
        for metric in choose(one.values, baseline.choose):
            if metric not in setting.metrics and any(map(math.isfinite, one.values[metric])):
                known = [value for value in one.values[metric] if math.isfinite(value)]
                words = "not in the baseline"
                value = float(np.mean(known))
                rows.append(Row(name, metric, "new", value=value, runs=len(known), words=words))
    runs = [entry[1] for entry in entries]
    basis, chances = weigh(runs, level=level, correction=correction)
    rows += [
        _decide(row, one, chance, level, why)
        for (row, one, why), chance in zip(entries, chances, strict=True)
    ]
    rows.sort(key=lambda row: (VERDICTS.index(row.verdict), -row.excess))
    notices = [
        f"{name!r} is not in the baseline, so nothing was compared. Add it with `geomdiag "
        "baseline --update`."
        for name in own
    ]
    notices += notices_of(runs, basis, level, correction)
    return Verdict(tuple(rows), level, correction, tuple(notices), basis)


def compare(
    first: Sequence[Measured], second: Sequence[Measured], *, metrics: Sequence[str] | None = None
) -> Verdict:
    """Hold one result against another, for people to read.

    Parameters
    ----------
    first, second : sequence of Measured
        The first takes the baseline's place, with default tolerances.
    metrics : sequence of str, optional
        Patterns of names.

    Returns
    -------
    Verdict

    Raises
    ------
    GeomdiagError
        If the two are of different tasks.
    """
    _same_tasks(first, second)
    known = {one.name for one in first}
    if len(first) == len(second) == 1:  # held against each other whatever their names
        known |= {one.name for one in second}
    shared = [one for one in second if one.name in known]
    verdict = check(shared, make_baseline(first, metrics=metrics))
    alone = (
        f"{one.name!r} is in the second result alone, so nothing was compared with it."
        for one in second
        if one.name not in known
    )
    return replace(verdict, notices=(*alone, *verdict.notices))


def _same_tasks(first: Sequence[Measured], second: Sequence[Measured]) -> None:
    """Refuse results of which a setting, or everything, is of another task in the other."""
    by_name = {one.name: one for one in first}
    pairs = [(by_name[one.name], one) for one in second if one.name in by_name]
    if len(first) == len(second) == 1:
        pairs = [(first[0], second[0])]
    for one, other in pairs:
        if one.task and other.task and one.task != other.task:
            where = "" if len(first) == len(second) == 1 else f" (runs of {one.name!r})"
            raise GeomdiagError(
                f"the first result is of the task {one.task}, the second of {other.task}{where}; "
                "numbers of different tasks do not mean the same. Give two results of one task."
            )


def _enter(row: Row, entry: Metric, measured: Measured) -> Row | tuple[Row, Runs]:
    """Return the values to be compared, or the verdict where there is nothing to compare."""
    policy = entry.policy
    old = np.array(entry.values)
    new = np.array(measured.values.get(row.metric, ()))
    old, new = (np.where(np.isfinite(one), one, math.nan) for one in (old, new))
    before, now = old[np.isfinite(old)], new[np.isfinite(new)]
    row = replace(row, baseline=centre(before, policy), seeds=len(before), runs=len(now))
    if not len(new) or (len(now) < len(new) and not policy.allow_missing):
        why = measured.why(row.metric)
        if len(new) > 1:
            why = f"{len(new) - len(now)} of {len(new)} runs lack it: {why}"
        if len(before) < len(old) and not len(new):
            words = f"{why}; as some of the baseline's runs"
            return replace(row, verdict="not compared", words=words)
        return replace(row, verdict="missing", words=why, excess=math.inf)
    off = ~np.isfinite(scaled(now, policy))
    if off.any():
        words = f"{now[off][0]:.4g} has no place on the scale {policy.scale}"
        return replace(row, verdict="missing", words=words, excess=math.inf)
    runs = Runs(row.setting, np.concatenate([old, new]), len(old), len(new), policy)
    return replace(row, value=centre(now, policy)), runs


def _decide(row: Row, runs: Runs, chance: Chance, level: float, why: str) -> Row:
    """Return the row with its verdict."""
    tested = not math.isnan(chance.adjusted)
    lacks = ~np.isfinite(runs.values)
    fewer = int(lacks[: runs.old].sum()), int(lacks[runs.old :].sum())
    # untested, a run without a value counts only where no seed of the baseline lacked it
    lacking = chance.lacking if tested else fewer[0] == 0 < fewer[1]
    direction = {"higher": chance.change > 0, "lower": chance.change < 0, "either": True}
    bad = lacking or direction[runs.policy.worse]
    excess = math.inf if lacking else chance.excess
    beyond, better = bad and excess > 1, not bad and excess > 1
    row = replace(
        row,
        change=chance.change,
        excess=excess if bad and not math.isnan(excess) else 0.0,
        spreads=chance.step / chance.spread if chance.spread > 0 else math.nan,
        p_value=chance.p_value,
        adjusted=chance.adjusted,
    )
    lack = f"{fewer[1]} of {runs.new} runs lack it, {fewer[0]} of {runs.old} before"
    what, because = (lack, f": {why}") if lacking else ("beyond the tolerance", "")
    if beyond and tested:
        verdict = "regressed" if chance.adjusted <= level else "noise"
        told = f"{what}, not told from chance"
        if verdict == "regressed":
            told = f"{lack}, beyond chance" if lacking else "beyond tolerance and chance"
        p = f"p = {chance.adjusted:.2g}" if chance.adjusted > 0 else "no two seeds differed before"
        return replace(row, verdict=verdict, words=f"{told} ({p}){because}")
    if beyond:
        return replace(row, verdict="regressed", words=f"{what}; {_alone(runs)}{because}")
    if math.isnan(chance.change):
        return replace(row, verdict="not compared", words=f"{lack}: {why}")
    if better and not tested:
        return replace(row, verdict="improved", words=f"beyond the tolerance; {_alone(runs)}")
    if better and chance.better <= level:
        words = f"better than chance explains (p = {chance.better:.2g})"
        return replace(row, verdict="improved", words=words)
    return replace(row, words="within noise" if better else "within the tolerance")


def _alone(runs: Runs) -> str:
    return "one seed: its tolerance decides" if runs.old == 1 else "its tolerance alone decides"
