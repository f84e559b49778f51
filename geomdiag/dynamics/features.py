"""What a forecast looks at: numbers of one run at each step, from that step and earlier ones only.

Tasks differ in size, so that levels mean little: most features are changes since the run's own
start, distances from its own extreme so far, and slopes against the logarithm of the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from geomdiag.dynamics.crossings import REACHED

__all__ = ["GEOMETRY", "LOSSES", "Features", "features"]

FloatArray = NDArray[np.float64]
Features = dict[str, FloatArray]

#: Slopes are those of the last stretch in which the step grew by this factor.
WINDOW = 1.6
#: A violation (nats) that never exceeded this is enforced by the network, not learnt.
ENFORCED = 1e-9
#: Added before logarithms: below these, differences are rounding.
TINY = {"js": 1e-7, "violation": 1e-7, "loss": 1e-4}

_LEVEL, _CHANGE, _EXTREME, _CLOCK, _SLOPE = (
    "level",
    "since_start",
    "from_peak",  # how far below its highest value so far
    "since_peak",  # how long ago that was, on the logarithmic scale
    "slope",
)


def _log(values: FloatArray, floor: float = 0.0) -> FloatArray:
    with np.errstate(divide="ignore", invalid="ignore"):
        result = np.log(values + floor)
    return np.where(np.isfinite(result), result, np.nan)


_Made = Callable[[Mapping[str, FloatArray]], FloatArray | None]


def _log_of(signal: str, floor: float = 0.0) -> _Made:
    return lambda signals: _log(signals[signal], floor) if signal in signals else None


def _logit_of(signal: str) -> _Made:
    def found(signals: Mapping[str, FloatArray]) -> FloatArray | None:
        if signal not in signals:
            return None
        clipped = np.clip(signals[signal], 0.01, 0.99)
        logit: FloatArray = np.log(clipped / (1 - clipped))
        return logit

    return found


def _plain(signal: str) -> _Made:
    return lambda signals: signals.get(signal)


def _symmetries(variable: str, floor: float, pick: Callable[[FloatArray], FloatArray]) -> _Made:
    def found(signals: Mapping[str, FloatArray]) -> FloatArray | None:
        columns = [
            np.where(np.fmax.accumulate(values) > ENFORCED, values, np.nan)
            for name, values in signals.items()
            if name.startswith(f"{variable}[") and name.endswith(",mean]")
        ]
        if not columns:
            return None
        table = np.stack(columns)
        some = ~np.isnan(table).all(axis=0)
        result = np.full(table.shape[1], np.nan)
        result[some] = pick(table[:, some])
        return _log(result, floor)

    return found


def _reached(signals: Mapping[str, FloatArray]) -> FloatArray | None:
    """Return a curve that peaks where train accuracy is first there, and stays below until then."""
    if "accuracy[train]" not in signals:
        return None
    there = np.nan_to_num(signals["accuracy[train]"]) >= REACHED
    first = int(np.argmax(there)) if there.any() else len(there)
    curve = np.arange(len(there), dtype=np.float64)
    curve[first + 1 :] = -1.0
    return curve


def _largest(table: FloatArray) -> FloatArray:
    largest: FloatArray = np.nanmax(table, axis=0)
    return largest


def _smallest(table: FloatArray) -> FloatArray:
    smallest: FloatArray = np.nanmin(table, axis=0)
    return smallest


_All = Mapping[str, tuple[_Made, tuple[str, ...]]]

#: Label-free: symmetry and geometry alone. Name → how it is made of signals, and what of it counts.
GEOMETRY: _All = {
    "js": (
        _symmetries("symmetry_js", TINY["js"], _largest),
        (_LEVEL, _EXTREME, _CLOCK, _SLOPE),
    ),
    "js_least": (
        _symmetries("symmetry_js", TINY["js"], _smallest),
        (_LEVEL, _EXTREME, _CLOCK, _SLOPE),
    ),
    "violation": (
        _symmetries("symmetry_violation", TINY["violation"], _largest),
        (_LEVEL, _EXTREME, _CLOCK, _SLOPE),
    ),
    "logit_scale": (_log_of("logit_scale"), (_LEVEL, _CLOCK, _SLOPE)),
    "dimension": (
        _log_of("dimension[embedding,effective_dimension]"),
        (_CHANGE, _SLOPE),
    ),
    "entropy_rank": (
        _log_of("dimension[embedding,entropy_rank]"),
        (_CHANGE, _EXTREME, _CLOCK, _SLOPE),
    ),
    "readout_rank": (
        _log_of("dimension[unembedding,entropy_rank]"),
        (_CHANGE, _SLOPE),
    ),
    "norm": (_log_of("norm[embedding,frobenius]"), (_CHANGE, _EXTREME, _CLOCK, _SLOPE)),
    "readout_norm": (_log_of("norm[unembedding,frobenius]"), (_CHANGE, _SLOPE)),
    "gini": (_plain("concentration[embedding,gini]"), (_LEVEL, _CHANGE, _SLOPE)),
    "order": (_plain("distortion[embedding,spearman]"), (_LEVEL, _SLOPE)),
}

#: Needs the right answers and the split.
LOSSES: _All = {
    "train_loss": (
        _log_of("loss[train]", TINY["loss"]),
        (_LEVEL, _SLOPE),
    ),
    "heldout_loss": (
        _log_of("loss[heldout]", TINY["loss"]),
        (_LEVEL, _EXTREME, _CLOCK, _SLOPE),
    ),
    "memorised": (_reached, (_CLOCK,)),
    "train_accuracy": (
        _logit_of("accuracy[train]"),
        (_LEVEL,),
    ),
    "heldout_accuracy": (
        _logit_of("accuracy[heldout]"),
        (_LEVEL, _SLOPE),
    ),
}


def _filled(values: FloatArray) -> FloatArray:
    """Carry the last known value over missing ones."""
    known = ~np.isnan(values)
    last = np.maximum.accumulate(np.where(known, np.arange(len(values)), -1))
    return np.where(last >= 0, values[np.maximum(last, 0)], np.nan)


def _slopes(x: FloatArray, y: FloatArray) -> FloatArray:
    """Return the least-squares slope of `y` over `x` in the stretch that ends at each point."""
    known = ~np.isnan(y)
    weight = known.astype(np.float64)
    level = np.where(known, y, 0.0)
    sums = [
        np.concatenate([[0.0], np.cumsum(weight * one)])
        for one in (np.ones_like(x), x, level, x * x, x * level)
    ]
    first = np.searchsorted(x, x - math.log(WINDOW), side="left")
    first = np.maximum(np.minimum(first, np.arange(len(x)) - 2), 0)  # three points at least
    end = np.arange(len(x)) + 1
    n, sx, sy, sxx, sxy = (one[end] - one[first] for one in sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = sxx - sx * sx / n
        slope = (sxy - sx * sy / n) / spread
    return np.where((n >= 2) & (spread > 1e-9), slope, np.nan)


def _peaks(values: FloatArray) -> NDArray[np.int64]:
    """Return the place of the highest value so far; the first of equal ones."""
    highest = np.fmax.accumulate(np.where(np.isnan(values), -np.inf, values))
    risen = np.append(True, highest[1:] > highest[:-1])
    place: NDArray[np.int64] = np.maximum.accumulate(np.where(risen, np.arange(len(values)), 0))
    return place


def features(steps: NDArray[np.int64], signals: Mapping[str, FloatArray], groups: _All) -> Features:
    """Return the features of one run at each of its steps.

    Parameters
    ----------
    steps : (n,) int array
        Increasing.
    signals : mapping of str to (n,) float array
        As `geomdiag.dynamics.corpus.signals_of` names them.
    groups : mapping
        `GEOMETRY`, `LOSSES`, or both together.

    Returns
    -------
    dict of str to (n,) float array
        The same names for every run; NaN where a signal is missing. Row i depends on the steps
        up to ``steps[i]`` alone.
    """
    x = np.log1p(np.asarray(steps, dtype=np.float64))
    result: Features = {"log_step": x}
    missing = np.full(len(x), np.nan)
    for name, (made, aspects) in groups.items():
        found = made(signals)
        values = missing if found is None else _filled(np.asarray(found, dtype=np.float64))
        for aspect in aspects:
            if aspect == _LEVEL:
                result[name] = values
            elif aspect == _CHANGE:
                known = np.flatnonzero(~np.isnan(values))
                result[f"{name}_{aspect}"] = values - values[known[0]] if len(known) else missing
            elif aspect == _EXTREME:
                result[f"{name}_{aspect}"] = values - np.fmax.accumulate(values)
            elif aspect == _CLOCK:
                result[f"{name}_{aspect}"] = x - x[_peaks(values)]
            else:
                result[f"{name}_{aspect}"] = _slopes(x, values)
    return result
