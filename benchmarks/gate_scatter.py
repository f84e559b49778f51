"""Runs whose scatter is known, and how often the gate fails on them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from geomdiag.gate.baseline import Baseline, Metric, Setting
from geomdiag.gate.measured import Measured
from geomdiag.gate.policies import Policy
from geomdiag.gate.verdict import Verdict, check

Draw = Callable[[np.random.Generator, tuple[int, int]], NDArray[np.float64]]

#: One run in so many goes wrong where there are two kinds of runs.
WRONG = 0.25


def _dependent(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    return rng.normal(size=(shape[0], 1)) + 0.3 * rng.normal(size=shape)


def _two_kinds(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    return rng.normal(size=shape) + 30 * (rng.random((shape[0], 1)) < WRONG)


def _missing(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    return np.where(rng.random((shape[0], 1)) < WRONG, math.nan, rng.normal(size=shape))


#: Values of runs by metrics; higher is worse.
KINDS: dict[str, Draw] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "normal, metrics correlated by 0.9": _dependent,
    "log-normal": lambda rng, shape: np.exp(rng.normal(size=shape)),
    "heavy tails (Student's t of 1.5)": lambda rng, shape: rng.standard_t(1.5, size=shape),
    "discrete (Poisson of 0.7)": lambda rng, shape: rng.poisson(0.7, size=shape).astype(float),
    "one run in four goes wrong": _two_kinds,
    "one run in four lacks all values": _missing,
}
METRICS = 9
_POLICY = Policy("higher", allow_missing=True)


def judge(old: NDArray[np.float64], new: NDArray[np.float64], level: float) -> Verdict:
    """Hold new runs against old ones, arrays of run by metric, without tolerances."""
    known = np.flatnonzero(np.isfinite(old).any(axis=0))
    metrics = {f"m{i}": Metric(tuple(old[:, i].tolist()), _POLICY) for i in known}
    measured = Measured("s", {f"m{i}": tuple(new[:, i].tolist()) for i in known})
    return check([measured], Baseline({"s": Setting(metrics)}), level=level)


def share_that_fails(
    draw: Draw,
    old: int,
    new: int,
    *,
    repeats: int,
    level: float = 0.05,
    shift: float = 0.0,
    shifted: int = METRICS,
) -> float:
    """Return how often new runs fail against old ones of the same scatter.

    Parameters
    ----------
    draw : callable
        One of `KINDS`.
    old, new : int
        How many runs.
    repeats : int
    level : float
    shift : float
        Added to the new runs, in the first metrics.
    shifted : int
        How many metrics that are.

    Returns
    -------
    float
    """
    rng = np.random.default_rng(1000 * old + new)
    failed = 0
    for _ in range(repeats):
        runs = draw(rng, (old + new, METRICS))
        if not np.isfinite(runs[:old]).any():
            continue  # of nothing no baseline can be made
        runs[old:, :shifted] += shift
        failed += not judge(runs[:old], runs[old:], level).passed
    return failed / repeats
