"""Violation of equivalences: how far outputs that must agree are apart.

The instances of an equivalence are all ordered pairs of inputs in one orbit and, beside
them, listed pairs. Their mean symmetric KL is exact and costs one pass over the logits
(see `geomdiag.metrics._orbits`); the percentiles and the maximum come from the matrix of
all pairs of every orbit. Definitions follow arXiv 2603.01968.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomdiag.metrics._array import Array, index_like, namespace, to_float64, to_numpy
from geomdiag.metrics._instances import Instances
from geomdiag.metrics._sets import runs
from geomdiag.metrics._summary import PARTS, STATISTICS, ViolationSummary
from geomdiag.metrics.composition import composition_violation, mean_composition_violation
from geomdiag.metrics.divergence import (
    CLAMP,
    directed_kl,
    jensen_shannon,
    mean_pair_violation,
    symmetric_kl,
)

__all__ = [
    "PARTS",
    "STATISTICS",
    "ViolationSummary",
    "composition_violation",
    "directed_kl",
    "equivalence_violation",
    "jensen_shannon",
    "mean_composition_violation",
    "mean_pair_violation",
    "mean_violation",
    "symmetric_kl",
]


def equivalence_violation(
    log_p: Array,
    *,
    orbits: Array | None = None,
    pairs: Array | None = None,
    alignment: Array | None = None,
    relabelling: Array | None = None,
    train: Array | None = None,
    statistics: Sequence[str] = tuple(STATISTICS),
    max_pairs: int = 5_000_000,
    seed: int = 0,
    shared: dict[object, Any] | None = None,
) -> ViolationSummary:
    """Measure how far the outputs of equivalent inputs are apart.

    Parameters
    ----------
    log_p : (n, classes) array
        Log-probabilities of all inputs, NumPy or torch. Worked on in double precision.
    orbits : (n,) int array, optional
        Orbit of each input, -1 for none. Every ordered pair inside an orbit is an instance,
        an input with itself included.
    pairs : (m, 2) int array, optional
        Further instances.
    alignment : (n,) int array, optional
        Row of `relabelling` for each input; class ``k`` of the aligned output is class
        ``relabelling[alignment[i], k]`` of the output.
    relabelling : (r, classes) int array, optional
        Permutations of the classes.
    train : (n,) bool array, optional
        Which inputs were trained on; gives `ViolationSummary.by_part`.
    statistics : sequence of str
        Of mean, p50, p95, max. ``("mean",)`` alone costs a fraction of all four.
    max_pairs : int
        With more ordered pairs than this in the orbits, the percentiles and the maximum come
        from about 2.5·10⁵ of them: those inside seeded random groups of some 64 rows of one
        orbit. The mean stays exact.
    seed : int
        Of those groups.
    shared : dict, optional
        What calls for other equivalences of the very same `log_p` can use again; give them
        one, empty at first. The sums over associative orbits serve translations, too.

    Returns
    -------
    ViolationSummary
        NaN where a log-probability is NaN.

    Raises
    ------
    ValueError
        If the shapes contradict each other or a statistic is unknown.

    References
    ----------
    arXiv 2603.01968; the closed form is derived in `geomdiag.metrics._orbits`.
    """
    if unknown := set(statistics) - set(STATISTICS):
        raise ValueError(
            f"unknown statistics {sorted(unknown)}; expected some of {list(STATISTICS)}"
        )
    values = to_numpy(log_p)
    if values.ndim != 2:
        raise ValueError(f"log_p has shape {values.shape}; expected (inputs, classes)")
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64)
    n = len(values)
    heldout = None if train is None else ~_per_input(train, n, "train").astype(bool)
    aligned = None
    if alignment is not None or relabelling is not None:
        if alignment is None or relabelling is None:
            raise ValueError("alignment and relabelling must be given together")
        aligned = (
            _per_input(alignment, n, "alignment").astype(np.int64),
            to_numpy(relabelling).astype(np.int64),
        )
    work = Instances(
        values,
        aligned,
        heldout,
        tuple(statistics),
        max_pairs,
        seed,
        {} if shared is None else shared,
    )
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        if orbits is not None:
            work.add_orbits(_per_input(orbits, n, "orbits").astype(np.int64))
        if pairs is not None:
            work.add_pairs(to_numpy(pairs).astype(np.int64).reshape(-1, 2))
        return work.summary()


def _per_input(array: Array, n: int, name: str) -> NDArray[Any]:
    result = to_numpy(array)
    if result.shape != (n,):
        raise ValueError(f"{name} has shape {result.shape}; expected ({n},), one per input")
    return result


def mean_violation(
    log_p: Array,
    *,
    orbits: Array | None = None,
    pairs: Array | None = None,
    alignment: Array | None = None,
    relabelling: Array | None = None,
) -> Array:
    """Return the mean symmetric KL over all instances, differentiably.

    The same number as ``equivalence_violation(...).kl["mean"]``, in the library of `log_p`: an
    auxiliary loss under torch. It aligns a copy of the logits.

    Parameters
    ----------
    log_p : (..., n, classes) array
        Log-probabilities of all inputs; what stands before (networks) is kept apart.
    orbits, pairs, alignment, relabelling
        See `equivalence_violation`.

    Returns
    -------
    (...) float64 array
        Nats; a scalar for one table of log-probabilities.

    Raises
    ------
    ValueError
        If there is no instance.
    """
    xp = namespace(log_p)
    values = to_float64(log_p)
    if alignment is not None and relabelling is not None:
        columns = index_like(to_numpy(relabelling)[to_numpy(alignment)].astype(np.int64), values)
        values = xp.take_along_axis(values, xp.broadcast_to(columns, values.shape), axis=-1)
    *kept, _, classes = values.shape
    total: Array = 0.0
    instances = 0
    if orbits is not None:
        labels = to_numpy(orbits)
        members = np.flatnonzero(labels >= 0)
        order = members[np.argsort(labels[members], kind="stable")]
        starts = runs(labels[order])
        sizes = np.diff(starts)
        for size in np.unique(sizes) if len(order) else ():
            begin = starts[:-1][sizes == size]
            index = index_like((order[begin[:, None] + np.arange(size)]).reshape(-1), values)
            block = xp.take(values, index, axis=-2)
            block = xp.reshape(block, (*kept, len(begin), int(size), classes))
            p = xp.exp(xp.clip(block, min=CLAMP))
            p = p - xp.mean(p, axis=-2, keepdims=True)
            moved = block - xp.mean(block, axis=-2, keepdims=True)
            total = total + int(size) * xp.sum(p * moved, axis=(-3, -2, -1))
            instances += len(begin) * int(size) ** 2
    if pairs is not None:
        listed = to_numpy(pairs).astype(np.int64).reshape(-1, 2)
        ends = [xp.take(values, index_like(listed[:, i], values), axis=-2) for i in (0, 1)]
        total = total + xp.sum(symmetric_kl(*ends), axis=-1)
        instances += len(listed)
    if not instances:
        raise ValueError("there is no instance: give orbits, pairs, or both")
    return total / instances
