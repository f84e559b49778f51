"""The soft threshold: a level of symmetry violation that separates solved from unsolved runs.

Calibrated for each task on a corpus of runs, and kept as a small file that says what it was made
of (METHOD: arXiv 2603.01968 shows the threshold without a number).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geomdiag._replace import write_text
from geomdiag._version import version
from geomdiag.dynamics.corpus import digest, runs_of, signals_of
from geomdiag.dynamics.derived import over_runs, replaced
from geomdiag.dynamics.features import ENFORCED
from geomdiag.errors import GeomdiagError

__all__ = [
    "Threshold",
    "apply_criterion",
    "auroc",
    "best_threshold",
    "calibrate",
    "criterion",
    "load_criterion",
    "save_criterion",
    "wrong_when_left_out",
]

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

#: Runs of either kind below which a threshold means nothing.
LEAST = 3
#: Differences below this (nats) are rounding; the values that a threshold separates are no less.
FLOOR = 1e-9
_VARIABLES = ("symmetry_violation", "symmetry_js")


@dataclass(frozen=True)
class Threshold:
    """A level that separates solved from unsolved runs of a task, and how well.

    Attributes
    ----------
    signal : str
        What is compared, such as ``symmetry_js[commutativity,max]``.
    level : float
        Threshold, nats; solved runs end below it.
    runs, solved : int
        Runs it was calibrated on, and how many of them generalised.
    auroc : float
        Chance that a solved run ends below an unsolved one.
    error : float
        Share of runs on the wrong side of thresholds that were set without them: without the
        runs of their seed, or without those of their task for a family's threshold.
    error_low, error_high : float
        Wilson interval of it, 95 %.
    chosen_error : float
        Of the threshold with the least `error` alone, else NaN: what `error` becomes when the
        signal is chosen without the left-out runs, too.
    crossed : int
        Solved runs that were above the level and end below it.
    lead : float
        Median over these of ``t_generalised`` minus the first step from which the signal stays
        below the level; negative where it falls below later.
    lead_low, lead_high : float
        Quartiles of the same.
    """

    signal: str
    level: float
    runs: int
    solved: int
    auroc: float
    error: float
    error_low: float
    error_high: float
    chosen_error: float
    crossed: int
    lead: float
    lead_low: float
    lead_high: float


def auroc(scores: FloatArray, positive: BoolArray) -> float:
    """Return the chance that a positive scores above a negative; ties count one half.

    Parameters
    ----------
    scores : (n,) float array
        Scores.
    positive : (n,) bool array
        Classes.

    Returns
    -------
    float
        NaN without both classes.
    """
    from scipy.stats import rankdata

    count, others = int(positive.sum()), int((~positive).sum())
    if not count or not others:
        return math.nan
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * others))


def best_threshold(values: FloatArray, solved: BoolArray) -> float:
    """Return the level with the best balanced accuracy of "below means solved".

    Parameters
    ----------
    values : (n,) float array
        Positive values, one a run.
    solved : (n,) bool array
        Which runs generalised; both kinds must be there.

    Returns
    -------
    float
        Geometric middle of the two values next to it. Of equally good levels the one with the
        widest gap, on the logarithmic scale.
    """
    order = np.argsort(values, kind="stable")
    sorted_values, kinds = values[order], solved[order]
    logs = np.log(np.maximum(sorted_values, FLOOR))
    right = np.cumsum(kinds) / kinds.sum()
    wrong = np.cumsum(~kinds) / (~kinds).sum()
    gaps = np.append(np.diff(logs), 0.0)
    apart = np.append(sorted_values[1:] > sorted_values[:-1], True)
    balanced = np.where(apart, right - wrong, -np.inf)
    best = np.flatnonzero(balanced >= balanced.max() - 1e-12)
    cut = best[np.argmax(gaps[best])]
    if cut == len(values) - 1:
        return float(max(sorted_values[-1], FLOOR) * 1.001)
    return float(np.exp((logs[cut] + logs[cut + 1]) / 2))


def since_below(steps: NDArray[Any], values: FloatArray, level: float) -> float:
    """Return the first step from which a curve that was above a level stays below it.

    NaN where it does not end below. A curve that was never above it gives its first step.
    """
    known = ~np.isnan(values)
    at, below = np.asarray(steps)[known], values[known] < level
    if not len(at) or not below[-1]:
        return math.nan
    above = np.flatnonzero(~below)
    return float(at[above[-1] + 1] if len(above) else at[0])


def _wilson(wrong: int, count: int) -> tuple[float, float]:
    z = 1.959963984540054
    share = wrong / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True, eq=False)
class _Runs:
    """Runs of a corpus: steps and value of one signal each, and what became of them."""

    task: NDArray[np.str_]
    seed: NDArray[np.str_]
    onset: FloatArray
    curves: list[tuple[NDArray[np.int64], FloatArray]]

    @cached_property
    def last(self) -> FloatArray:
        """Value at the end of each; NaN where there is none, or the network enforces it."""
        return np.array([_last(values) for _, values in self.curves])


def _last(values: FloatArray) -> float:
    known = values[~np.isnan(values)]
    if not len(known) or known.max() <= ENFORCED:
        return math.nan
    return float(known[-1])


def _signal_runs(corpus: xr.Dataset, signal: str) -> _Runs:
    value = corpus["value"].sel(signal=signal).values.astype(np.float64)
    steps = corpus["step"].values
    names = corpus["run"].values.astype(str)
    return _Runs(
        task=corpus["task"].values.astype(str),
        seed=np.array([name.rpartition("/")[2] for name in names]),
        onset=corpus["t_generalised"].values.astype(np.float64),
        curves=[(steps[rows], value[rows]) for rows in runs_of(corpus)],
    )


def wrong_when_left_out(
    values: FloatArray, solved: BoolArray, groups: NDArray[Any]
) -> tuple[int, int]:
    """Return how many runs are on the wrong side of thresholds set without their group.

    Parameters
    ----------
    values : (n,) float array
        Positive values, one a run.
    solved : (n,) bool array
        Which runs generalised.
    groups : (n,) array
        What is left out together, such as seeds.

    Returns
    -------
    wrong, count : int
        Of `count` runs; a group without which there are no runs of both kinds is not counted.
    """
    wrong = count = 0
    for out in _left_out(solved, groups):
        level = best_threshold(values[~out], solved[~out])
        wrong += int(((values[out] < level) != solved[out]).sum())
        count += int(out.sum())
    return wrong, count


def _left_out(solved: BoolArray, groups: NDArray[Any]) -> Iterator[BoolArray]:
    """Yield the runs of each group without which there are still runs of both kinds."""
    for group in np.unique(groups):
        out = groups == group
        rest = solved[~out]
        if rest.any() and not rest.all():
            yield out


def _chosen_error(table: FloatArray, solved: BoolArray, groups: NDArray[Any]) -> float:
    """Return the error when signal and level are chosen without the left-out runs.

    Parameters
    ----------
    table : (signals, n) float array
        Last values; only signals that every run has.
    solved, groups : (n,) array
        As in `wrong_when_left_out`.
    """
    wrong = count = 0
    for out in _left_out(solved, groups):
        found = [wrong_when_left_out(row[~out], solved[~out], groups[~out]) for row in table]
        best = int(np.argmin([bad / max(seen, 1) for bad, seen in found]))
        level = best_threshold(table[best][~out], solved[~out])
        wrong += int(((table[best][out] < level) != solved[out]).sum())
        count += int(out.sum())
    return wrong / count if count else math.nan


def _threshold(
    signal: str, runs: _Runs, chosen: BoolArray, left_out: NDArray[Any]
) -> Threshold | None:
    """Return the threshold on one signal; `left_out` names what is held out together."""
    last = runs.last
    rows = np.flatnonzero(chosen & ~np.isnan(last))
    values, solved, groups = last[rows], ~np.isnan(runs.onset[rows]), left_out[rows]
    if solved.sum() < LEAST or (~solved).sum() < LEAST:
        return None
    level = best_threshold(values, solved)
    wrong, count = wrong_when_left_out(values, solved, groups)
    if not count:
        return None
    leads = np.array(
        [
            runs.onset[row] - since
            for row in rows[solved]
            for steps, curve in (runs.curves[row],)
            # a run that was never above it tells nothing of when
            if not math.isnan(since := since_below(steps, curve, level))
            and np.nanmax(curve) >= level
        ]
    )
    low, middle, high = np.percentile(leads, [25, 50, 75]) if len(leads) else (math.nan,) * 3
    error_low, error_high = _wilson(wrong, count)
    return Threshold(
        signal=signal,
        level=level,
        runs=len(rows),
        solved=int(solved.sum()),
        auroc=auroc(-values, solved),
        error=wrong / count,
        error_low=error_low,
        error_high=error_high,
        chosen_error=math.nan,
        crossed=len(leads),
        lead=float(middle),
        lead_low=float(low),
        lead_high=float(high),
    )


def calibrate(corpus: xr.Dataset, *, source: str = "") -> dict[str, Any]:
    """Set thresholds for every task and family of a corpus.

    Parameters
    ----------
    corpus : xr.Dataset
        As `geomdiag.dynamics.corpus.collect` gives it.
    source : str
        Where it came from, to be kept with the result.

    Returns
    -------
    dict
        Plain values, ready for JSON: provenance, and under ``tasks`` and ``families`` every
        signal's `Threshold`, the one with the least error first.

    Raises
    ------
    GeomdiagError
        If no task has three runs that generalised and three that did not.
    """
    signals = [
        str(name)
        for name in corpus["signal"].values
        if str(name).startswith(_VARIABLES) and str(name).endswith((",mean]", ",max]"))
    ]
    tasks: dict[str, list[Threshold]] = {}
    families: dict[str, list[Threshold]] = {}
    last: dict[str, FloatArray] = {}
    for signal in signals:
        runs = _signal_runs(corpus, signal)
        last[signal] = runs.last
        family = np.array([task.partition(":")[0] for task in runs.task])
        for task in np.unique(runs.task):
            if found := _threshold(signal, runs, runs.task == task, runs.seed):
                tasks.setdefault(str(task), []).append(found)
        for name in np.unique(family):
            own = family == name
            if len(np.unique(runs.task[own])) > 1 and (
                found := _threshold(signal, runs, own, runs.task)
            ):
                families.setdefault(str(name), []).append(found)
    if not tasks:
        raise GeomdiagError(
            f"no task has {LEAST} runs that generalised and {LEAST} that did not, with a known "
            "split and a symmetry that is learnt; a threshold needs both kinds"
        )
    solved = ~np.isnan(runs.onset)
    for name, rows in tasks.items():
        _choose(rows, last, runs.task == name, solved, runs.seed)
    for name, rows in families.items():
        _choose(rows, last, family == name, solved, runs.task)
    return {
        "format": "geomdiag-criterion",
        "format_version": 1,
        "geomdiag_version": version(),
        "source": source,
        "corpus": digest(corpus),
        "runs": int(corpus.sizes["run"]),
        "tasks": {name: _plain(found) for name, found in sorted(tasks.items())},
        "families": {name: _plain(found) for name, found in sorted(families.items())},
    }


def _choose(
    found: list[Threshold],
    last: Mapping[str, FloatArray],
    own: BoolArray,
    solved: BoolArray,
    groups: NDArray[Any],
) -> None:
    """Put the best threshold first, with the error that choosing it so has."""
    found.sort(key=lambda one: (one.error, -one.auroc, one.signal))
    table = np.stack([last[one.signal][own] for one in found])
    full = ~np.isnan(table).any(axis=1)
    if full.any():
        error = _chosen_error(table[full], solved[own], groups[own])
        found[0] = replace(found[0], chosen_error=error)


def _plain(found: list[Threshold]) -> list[dict[str, Any]]:
    return [{key: _json_value(value) for key, value in asdict(one).items()} for one in found]


def _json_value(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return None if math.isnan(value) else float(f"{value:.6g}")


def save_criterion(found: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write thresholds as JSON, one line a threshold.

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    return write_text(_json(found), path)


def _json(found: Mapping[str, Any]) -> str:
    def line(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)

    parts = []
    for key, value in found.items():
        if isinstance(value, Mapping):
            inner = ",\n".join(
                f"  {line(name)}: [\n" + ",\n".join(f"   {line(one)}" for one in rows) + "\n  ]"
                for name, rows in value.items()
            )
            parts.append(f" {line(key)}: {{\n{inner}\n }}")
        else:
            parts.append(f" {line(key)}: {line(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def load_criterion(path: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Read thresholds; without a path those that come with geomdiag.

    Raises
    ------
    GeomdiagError
        If the file is no criterion.
    """
    own = files("geomdiag.dynamics") / "data" / "criterion.json"
    try:
        text = (Path(path) if path is not None else own).read_text(encoding="utf-8")
        found = json.loads(text)
    except (OSError, ValueError) as error:
        raise GeomdiagError(f"the criterion {path or own} cannot be read: {error}") from error
    if not isinstance(found, dict) or found.get("format") != "geomdiag-criterion":
        raise GeomdiagError(
            f"{path or own} is no criterion; expected a file that `geomdiag calibrate` wrote"
        )
    return found


@cache
def _own() -> dict[str, Any]:
    """Return the thresholds that come with geomdiag, read once for all runs."""
    return load_criterion()


def _candidates(found: Mapping[str, Any], task: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for one in found.get("tasks", {}).get(task, []):
        yield task, one
    family = task.partition(":")[0]
    for one in found.get("families", {}).get(family, []):
        yield family, one


def criterion(dataset: xr.Dataset, found: Mapping[str, Any] | None = None) -> xr.Dataset:
    """Return whether a run is below its task's threshold, and since when.

    Parameters
    ----------
    dataset : xr.Dataset
        Result of one run.
    found : mapping, optional
        Thresholds, as `calibrate` gives them; those that come with geomdiag if left out.

    Returns
    -------
    xr.Dataset
        ``threshold`` (): the level; ``below_since`` (): first step from which the signal stays
        below it, NaN if it does not end below; ``threshold_verdict`` (): both in words, with the
        expected error. Only the words where no threshold is known.
    """
    found = _own() if found is None else found
    task = str(dataset.attrs.get("task", ""))
    signals = signals_of(dataset)
    for scope, one in _candidates(found, task):
        values = signals.get(one["signal"])
        if values is None or np.isnan(_last(values)):
            continue
        return _verdict(dataset["step"].values, values, scope, one, scope == task)
    return xr.Dataset(
        {
            "threshold_verdict": _words(
                f"no threshold is known for {task or 'an unknown task'}; calibrate one with "
                "`geomdiag calibrate` on runs that generalised and runs that did not"
            )
        }
    )


def _verdict(
    steps: NDArray[Any], values: FloatArray, scope: str, one: Mapping[str, Any], own: bool
) -> xr.Dataset:
    level, signal = float(one["level"]), str(one["signal"])
    since = since_below(steps, values, level)
    was_above = bool((values[~np.isnan(values)] >= level).any())
    bound = f"{signal} < {level:.3g} nat"
    error = one["chosen_error"] if one.get("chosen_error") is not None else one["error"]
    trust = (
        f"; at their end, {error:.0%} of runs of left-out {'seeds' if own else 'tasks'} were on "
        f"the wrong side ({one['runs']} runs of {scope})"
    )
    if math.isnan(since):
        state = f"not below: {signal} is {_last(values):.3g} nat, not < {level:.3g}" + trust
    elif was_above:
        state = f"below since step {since:.0f}: {bound}" + trust
    else:
        state = f"never above, as an untrained network is, which tells nothing: {bound}"
    return xr.Dataset(
        {
            "threshold": (
                (),
                level,
                {
                    "long_name": "level of the violation that separates solved from unsolved runs",
                    "units": "nat",
                    "definition": "best balanced accuracy of 'below means solved' at the end of "
                    "runs; the attribute signal says of which violation",
                    "signal": signal,
                },
            ),
            "below_since": (
                (),
                since,
                {
                    "long_name": "step from which the violation stays below the threshold",
                    "units": "step",
                    "definition": "first step from which the violation that `threshold` is of "
                    "stays below it; NaN if it does not end below",
                },
            ),
            "threshold_verdict": _words(state),
        }
    )


def _words(text: str) -> tuple[tuple[()], str, dict[str, str]]:
    about = {
        "long_name": "whether the run is below its task's threshold",
        "units": "1",
        "definition": "in words, with the share of wrong answers to expect",
    }
    return (), text, about


def apply_criterion(tree: xr.DataTree, found: Mapping[str, Any]) -> xr.DataTree:
    """Return a result with every run held against other thresholds.

    Parameters
    ----------
    tree : xr.DataTree
        As `geomdiag.analyze` gives it.
    found : mapping
        As `calibrate` or `load_criterion` gives it.

    Returns
    -------
    xr.DataTree
        The same tree with the variables of `criterion`.
    """
    return over_runs(tree, lambda run: replaced(run, criterion(run, found), _VARIABLES_MADE))


_VARIABLES_MADE = ("threshold", "below_since", "threshold_verdict")
