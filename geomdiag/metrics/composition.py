"""Violation of compositions: an output that must follow from the outputs of two others.

Triangle (graphs): classes are distances; where b lies on a shortest path from a to c, the
distribution of d(a, c) must be the convolution of those of d(a, b) and d(b, c).
Transitivity (comparison): with the log-odds ``ℓ`` of "greater" against "less", the verdict
on (a, c) must be the one that ``ℓ_ab + ℓ_bc`` gives. Source: arXiv 2603.01968.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from geomdiag.metrics._array import Array, index_like, namespace, to_float64, to_numpy
from geomdiag.metrics._quantiles import Weighted, weighted_quantiles
from geomdiag.metrics._summary import PARTS, STATISTICS, ViolationSummary
from geomdiag.metrics.divergence import divergences, symmetric_kl

__all__ = [
    "composition_kl",
    "composition_violation",
    "convolve",
    "mean_composition_violation",
]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
_Index = slice | IntArray

_AT_ONCE = 20_000  # probabilities worked on at once: a few arrays of them stay in cache
_LEAST = 256  # instances worked on at once: with many classes, steps must not be too short
# Smallest exponent of a factor. Far below the usual -60, because the logarithm of a sum of products
# enters the divergence, however small it is; a product of two is no denormal yet.
_FACTOR_CLAMP = -350.0
_PRODUCTS = 2_000_000  # products of two classes' probabilities held at once for gradients


class _Convolution:
    """Convolution over the classes, for many pairs of distributions at once.

    Works on arrays (classes, m): each step is then one product of long rows.
    """

    def __init__(self, classes: int, sums: IntArray | None) -> None:
        if sums is None:
            self.steps: list[tuple[int, _Index, _Index]] = [
                (i, slice(0, classes - i), slice(i, classes)) for i in range(classes)
            ]
            return
        _check_sums(sums, classes)
        self.steps = [(i, js, ks) for i in range(classes) for js, ks in _distinct(sums[i])]

    def __call__(self, first: FloatArray, second: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the normalised convolution (classes, m), and the mass beyond the classes."""
        kept = np.zeros_like(second)
        for i, js, ks in self.steps:
            kept[ks] += first[i] * second[js]
        mass = kept.sum(axis=0)
        lost = np.maximum(first.sum(axis=0) * second.sum(axis=0) - mass, 0.0)
        return kept / mass, lost


def _check_sums(sums: IntArray, classes: int) -> None:
    if sums.shape != (classes, classes) or sums.min() < -1 or sums.max() >= classes:
        raise ValueError(
            f"sums has shape {sums.shape} and entries {sums.min()} ... {sums.max()}; expected "
            f"({classes}, {classes}) and classes 0 ... {classes - 1}, or -1 for none"
        )


def _distinct(sums: IntArray) -> Iterator[tuple[IntArray, IntArray]]:
    """Yield the classes that have a sum, and these sums, none twice in one portion."""
    left = np.flatnonzero(sums >= 0)
    while len(left):
        _, first = np.unique(sums[left], return_index=True)
        yield left[first], sums[left[first]]
        left = np.delete(left, first)


def convolve(
    first: FloatArray, second: FloatArray, sums: IntArray | None = None
) -> tuple[FloatArray, FloatArray]:
    """Return the distribution of the sum of a class drawn from each of two distributions.

    Parameters
    ----------
    first, second : (m, K) float array
        Probabilities of the classes 0 ... K-1, row by row.
    sums : (K, K) int array, optional
        Class of the sum of two classes, -1 where there is none. None: class ``i + j``.

    Returns
    -------
    (m, K) float array
        The convolution cut to the K classes, and normalised again.
    (m,) float array
        The probability that was cut off.

    Raises
    ------
    ValueError
        If `sums` is no such table.
    """
    first, second = np.broadcast_arrays(np.atleast_2d(first), np.atleast_2d(second))
    composed, lost = _Convolution(first.shape[1], sums)(first.T, second.T)
    return composed.T, lost


def _convolutions(
    log_p: FloatArray, whole: IntArray, parts: IntArray, sums: IntArray | None
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return symmetric and directed KL, Jensen-Shannon and lost mass of each instance."""
    by_class = np.ascontiguousarray(log_p.T)
    p = np.exp(np.maximum(by_class, _FACTOR_CLAMP))
    convolution = _Convolution(len(p), sums)
    kl, directed, js, lost = (np.empty(len(whole)) for _ in range(4))
    step = max(_LEAST, _AT_ONCE // len(p))
    for begin in range(0, len(whole), step):
        rows = slice(begin, begin + step)
        first, second = (p.take(parts[rows, side], axis=1) for side in (0, 1))
        composed, lost[rows] = convolution(first, second)
        kl[rows], directed[rows], js[rows] = divergences(
            np.log(composed).T, by_class.take(whole[rows], axis=1).T
        )
    return kl, directed, js, lost


def _verdict(odds: Array) -> Array:
    """Return the log-probabilities of the two verdicts whose log-odds are given, (..., 2)."""
    xp = namespace(odds)
    even = xp.zeros_like(odds)
    return xp.stack([-xp.logaddexp(even, -odds), -xp.logaddexp(even, odds)], axis=-1)


def composition_kl(
    whole: Array,
    first: Array,
    second: Array,
    *,
    rule: Literal["convolution", "logit_sum"],
    odds: tuple[int, int] | None = None,
    sums: Array | None = None,
) -> Array:
    """Return the symmetric KL of each instance of a composition, differentiably.

    What `composition_violation` takes its statistics of, for outputs that are at hand.

    Parameters
    ----------
    whole, first, second : (..., classes) array
        Log-probabilities of the input that is composed, and of the two it is composed of, in
        NumPy or torch.
    rule, odds, sums
        See `composition_violation`.

    Returns
    -------
    (...) float64 array
        Nats.

    Raises
    ------
    ValueError
        If the rule is unknown, ``logit_sum`` has no `odds`, or `sums` is no such table.

    References
    ----------
    arXiv 2603.01968.
    """
    xp = namespace(whole, first, second)
    whole, first, second = (to_float64(each) for each in (whole, first, second))
    if rule == "logit_sum":
        positive, negative = _odds(odds)
        of_whole, of_first, of_second = (
            each[..., positive] - each[..., negative] for each in (whole, first, second)
        )
        return symmetric_kl(_verdict(of_first + of_second), _verdict(of_whole))
    if rule != "convolution":
        raise ValueError(_unknown(rule))
    shape, classes = whole.shape[:-1], whole.shape[-1]
    table = None if sums is None else to_numpy(sums).astype(np.int64).tobytes()
    if sums is not None:
        _check_sums(to_numpy(sums), classes)
    # Classes first: rows are taken, and their gradients added up, several times quicker.
    p, q = (
        xp.matrix_transpose(xp.reshape(xp.exp(xp.clip(each, min=_FACTOR_CLAMP)), (-1, classes)))
        for each in (first, second)
    )
    step = max(1, _PRODUCTS // classes**2)
    portions = (slice(begin, begin + step) for begin in range(0, max(1, p.shape[1]), step))
    if table is None:
        kept = xp.concat([_shifted(p[:, rows], q[:, rows]) for rows in portions], axis=1)
    else:
        i, j, members = (index_like(each, whole) for each in _terms(classes, table))
        kept = xp.concat(
            [
                xp.matmul(members, xp.take(p[:, rows], i, axis=0) * xp.take(q[:, rows], j, axis=0))
                for rows in portions
            ],
            axis=1,
        )
    composed = xp.log(kept) - xp.log(xp.sum(kept, axis=0, keepdims=True))
    return symmetric_kl(xp.reshape(xp.matrix_transpose(composed), (*shape, classes)), whole)


def _shifted(p: Array, q: Array) -> Array:
    """Return the convolution over the classes, cut to them, (classes, m)."""
    xp = namespace(p)
    classes = p.shape[0]
    parts = [p[:1] * q]
    for i in range(1, classes):  # views alone are kept for the gradient, and no copies
        parts += [xp.zeros_like(q[:i]), p[i : i + 1] * q[: classes - i]]
    return xp.sum(xp.reshape(xp.concat(parts, axis=0), (classes, classes, -1)), axis=0)


@lru_cache(maxsize=8)
def _terms(classes: int, table: bytes) -> tuple[IntArray, IntArray, FloatArray]:
    """Return the m pairs of classes that have a sum, and which class that is, (classes, m)."""
    sums = np.frombuffer(table, dtype=np.int64).reshape(classes, classes)
    i, j = np.nonzero(sums >= 0)
    return i, j, (np.arange(classes)[:, None] == sums[i, j]).astype(np.float64)


def mean_composition_violation(
    log_p: Array,
    *,
    rule: Literal["convolution", "logit_sum"],
    whole: Array,
    parts: Array,
    odds: tuple[int, int] | None = None,
    sums: Array | None = None,
) -> Array:
    """Return the mean symmetric KL over the given instances, differentiably.

    The same number as ``composition_violation(...).kl["mean"]``, in the library of `log_p`: an
    auxiliary loss under torch.

    Parameters
    ----------
    log_p : (..., n, classes) array
        Log-probabilities of all inputs; what stands before (networks) is kept apart.
    rule, whole, parts, odds, sums
        See `composition_violation`.

    Returns
    -------
    (...) float64 array
        Nats; a scalar for one table of log-probabilities.

    Raises
    ------
    ValueError
        If there is no instance, and as `composition_violation`.

    References
    ----------
    arXiv 2603.01968.
    """
    xp = namespace(log_p)
    values = to_float64(log_p)
    rows = to_numpy(whole).astype(np.int64)
    pairs = to_numpy(parts).astype(np.int64).reshape(-1, 2)
    if rows.shape != (len(pairs),):
        raise ValueError(f"whole has shape {rows.shape}; expected ({len(pairs)},), as parts has")
    if not len(rows):
        raise ValueError("there is no instance: whole and parts are empty")
    ends = [
        xp.take(values, index_like(np.ascontiguousarray(each), values), axis=-2)
        for each in (rows, pairs[:, 0], pairs[:, 1])
    ]
    return xp.mean(composition_kl(*ends, rule=rule, odds=odds, sums=sums), axis=-1)


def _odds(odds: tuple[int, int] | None) -> tuple[int, int]:
    if odds is None:
        raise ValueError("the rule logit_sum needs odds=(positive class, negative class)")
    return odds


def _unknown(rule: object) -> str:
    return f"unknown rule {rule!r}; expected convolution or logit_sum"


def _statistics(values: FloatArray) -> dict[str, float]:
    values = np.maximum(values, 0.0)  # rounding of an agreement; NaN stays NaN
    levels = {name: level for name, level in STATISTICS.items() if level is not None}
    quantiles = weighted_quantiles([Weighted(values, 1.0)], list(levels.values()))
    found = dict(zip(levels, quantiles, strict=True))
    found["mean"] = float(values.mean()) if len(values) else float("nan")
    return {name: found[name] for name in STATISTICS}


def composition_violation(
    log_p: Array,
    *,
    rule: Literal["convolution", "logit_sum"],
    whole: Array,
    parts: Array,
    odds: tuple[int, int] | None = None,
    sums: Array | None = None,
    train: Array | None = None,
    exact: bool = True,
) -> ViolationSummary:
    """Measure how far outputs are from what the outputs of two others compose to.

    Parameters
    ----------
    log_p : (n, classes) array
        Log-probabilities of all inputs, NumPy or torch.
    rule : {"convolution", "logit_sum"}
        ``convolution``: classes are distances 0, 1, ...; the whole's distribution against
        the convolution of the parts'. A convolution longer than the class list is cut to
        the classes and normalised again; what was cut is reported as `lost_mass`.
        ``logit_sum``: the two-valued distribution ``σ(ℓ_whole)`` against
        ``σ(ℓ_first + ℓ_second)``.
    whole : (m,) int array
        Row that is composed.
    parts : (m, 2) int array
        Rows it is composed of.
    odds : (int, int), optional
        ``(positive, negative)`` classes of the log-odds ``ℓ``, for ``logit_sum``.
    sums : (classes, classes) int array, optional
        Class of the sum of two classes' distances, -1 where there is none, for
        ``convolution``. None: class ``k`` is the distance ``k``.
    train : (n,) bool array, optional
        Which inputs were trained on; gives `ViolationSummary.by_part`, by the three inputs
        of an instance.
    exact : bool
        Whether the instances are all there are. Otherwise they are taken for a uniform
        sample, and the standard error of the mean is given.

    Returns
    -------
    ViolationSummary
        The paper's text calls the triangle divergence symmetric while its formula has one
        direction: both are kept, `kl` is the symmetric one, `directed` is
        ``KL(composed ‖ whole)``.

    Raises
    ------
    ValueError
        If the rule is unknown, ``logit_sum`` has no `odds`, or shapes contradict each other.

    References
    ----------
    arXiv 2603.01968.
    """
    values = to_numpy(log_p).astype(np.float64)
    rows = to_numpy(whole).astype(np.int64)
    pairs = to_numpy(parts).astype(np.int64).reshape(-1, 2)
    if rows.shape != (len(pairs),):
        raise ValueError(f"whole has shape {rows.shape}; expected ({len(pairs)},), as parts has")
    trained = None if train is None else to_numpy(train).astype(bool)
    if trained is not None and trained.shape != (len(values),):
        raise ValueError(
            f"train has shape {trained.shape}; expected ({len(values)},), one per input"
        )
    lost = None
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        if rule == "convolution":
            table = None if sums is None else to_numpy(sums).astype(np.int64)
            kl, directed, js, lost = _convolutions(values, rows, pairs, table)
        elif rule == "logit_sum":
            positive, negative = _odds(odds)
            log_odds = values[:, positive] - values[:, negative]
            composed = _verdict(log_odds[pairs[:, 0]] + log_odds[pairs[:, 1]])
            kl, directed, js = divergences(composed, _verdict(log_odds[rows]))
        else:
            raise ValueError(_unknown(rule))
        error = None
        if not exact and len(kl) > 1:
            error = float(kl.std(ddof=1) / np.sqrt(len(kl)))
        return ViolationSummary(
            kl=_statistics(kl),
            js=_statistics(js),
            instances=len(kl),
            exact=dict.fromkeys(STATISTICS, exact),
            by_part=None if trained is None else _by_part(kl, trained, rows, pairs),
            lost_mass=None if lost is None else _statistics(lost),
            standard_error=error,
            directed=_statistics(directed),
        )


def _by_part(
    kl: FloatArray, train: NDArray[np.bool_], whole: IntArray, parts: IntArray
) -> dict[str, dict[str, float]]:
    """Return the statistics by how many of an instance's three inputs were trained on."""
    trained = train[whole].astype(np.int8) + train[parts[:, 0]] + train[parts[:, 1]]
    inside = dict(zip(PARTS, (trained == 3, trained == 0, trained % 3 != 0), strict=True))
    return {
        part: _statistics(kl[chosen]) | {"instances": float(chosen.sum())}
        for part, chosen in inside.items()
    }
