"""What a forecast looks at: numbers of one run at each step, from that step and earlier ones only.

Tasks differ in size, so that levels mean little: most features are changes since the run's own
start, distances from its own extreme so far, and slopes against the logarithm of the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["GEOMETRY", "LOSSES", "Features", "features"]

FloatArray = NDArray[np.float64]
Features = dict[str, FloatArray]

#: Slopes are those of the last stretch in which the step grew by this factor.
WINDOW = 1.6
#: A violation (nats) that never exceeded this is enforced by the network, not learnt.
ENFORCED = 1e-9
#: Added before logarithms: below these, differences are rounding.
TINY = {"js": 1e-7, "violation": 1e-7, "loss": 1e-4}

_LEVEL, _CHANGE, _EXTREME, _SLOPE = "level", "since_start", "from_extreme", "slope"


def _log(values: FloatArray, floor: float = 0.0) -> FloatArray:
    with np.errstate(divide="ignore", invalid="ignore"):
        result = np.log(values + floor)
    return np.where(np.isfinite(result), result, np.nan)


def _logit(values: FloatArray) -> FloatArray:
    clipped = np.clip(values, 0.01, 0.99)
    return np.log(clipped / (1 - clipped))


def _same(values: FloatArray) -> FloatArray:
    return values


def _log_of(signal: str) -> Callable[[Mapping[str, FloatArray]], FloatArray | None]:
    return lambda signals: _log(signals[signal]) if signal in signals else None


def _plain(signal: str) -> Callable[[Mapping[str, FloatArray]], FloatArray | None]:
    return lambda signals: signals.get(signal)


def _symmetries(
    variable: str, floor: float, pick: Callable[[FloatArray], FloatArray]
) -> Callable[[Mapping[str, FloatArray]], FloatArray | None]:
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


def _largest(table: FloatArray) -> FloatArray:
    largest: FloatArray = np.nanmax(table, axis=0)
    return largest


def _smallest(table: FloatArray) -> FloatArray:
    smallest: FloatArray = np.nanmin(table, axis=0)
    return smallest


_All = Mapping[str, tuple[Callable[[Mapping[str, FloatArray]], FloatArray | None], tuple[str, ...]]]

#: Label-free: symmetry and geometry alone. Name → how it is made of signals, and what of it counts.
GEOMETRY: _All = {
    "js": (
        _symmetries("symmetry_js", TINY["js"], _largest),
        (_LEVEL, _EXTREME, _SLOPE),
    ),
    "js_least": (
        _symmetries("symmetry_js", TINY["js"], _smallest),
        (_LEVEL, _EXTREME, _SLOPE),
    ),
    "violation": (
        _symmetries("symmetry_violation", TINY["violation"], _largest),
        (_LEVEL, _EXTREME, _SLOPE),
    ),
    "logit_scale": (_log_of("logit_scale"), (_LEVEL, _SLOPE)),
    "dimension": (
        _log_of("dimension[embedding,effective_dimension]"),
        (_CHANGE, _SLOPE),
    ),
    "entropy_rank": (
        _log_of("dimension[embedding,entropy_rank]"),
        (_CHANGE, _EXTREME, _SLOPE),
    ),
    "readout_rank": (
        _log_of("dimension[unembedding,entropy_rank]"),
        (_CHANGE, _SLOPE),
    ),
    "norm": (_log_of("norm[embedding,frobenius]"), (_CHANGE, _EXTREME, _SLOPE)),
    "readout_norm": (_log_of("norm[unembedding,frobenius]"), (_CHANGE, _SLOPE)),
    "gini": (_plain("concentration[embedding,gini]"), (_LEVEL, _CHANGE, _SLOPE)),
    "order": (_plain("distortion[embedding,spearman]"), (_LEVEL, _SLOPE)),
}

#: Needs the right answers and the split.
LOSSES: _All = {
    "train_loss": (
        lambda signals: _log(signals["loss[train]"], TINY["loss"])
        if "loss[train]" in signals
        else None,
        (_LEVEL, _SLOPE),
    ),
    "heldout_loss": (
        lambda signals: _log(signals["loss[heldout]"], TINY["loss"])
        if "loss[heldout]" in signals
        else None,
        (_LEVEL, _EXTREME, _SLOPE),
    ),
    "train_accuracy": (
        lambda signals: _logit(signals["accuracy[train]"])
        if "accuracy[train]" in signals
        else None,
        (_LEVEL,),
    ),
    "heldout_accuracy": (
        lambda signals: _logit(signals["accuracy[heldout]"])
        if "accuracy[heldout]" in signals
        else None,
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
                result[f"{name}_{aspect}"] = (
                    values - values[known[0]] if len(known) else missing
                )
            elif aspect == _EXTREME:
                result[f"{name}_{aspect}"] = values - np.fmax.accumulate(values)
            else:
                result[f"{name}_{aspect}"] = _slopes(x, values)
    return result
