"""Generalised helices: how well a few waves predict the rows of a matrix (METHOD, section 5)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from geomdiag.metrics._array import Array, index_like, namespace, to_numpy
from geomdiag.metrics._checks import centred, finite_matrix
from geomdiag.metrics._relabel import (
    Relabellings,
    cyclic_orders_powers,
    cyclic_powers,
    random_permutations,
)

__all__ = ["HelixFit", "helix_fit", "left_out", "number_helix_fit", "staged_p_value"]

FloatArray = NDArray[np.float64]

# Where the first relabellings leave no doubt that the fit is ordinary, the rest are spared.
# The test stays exact: a p-value is at most a level only if the first stage's is, or (for
# levels below that of doubt) the full one's.
_FIRST = 99
_DOUBT = 0.1
_EQUAL = 1e-10  # a relabelling that is a symmetry of the data fits equally well up to rounding


class HelixFit(NamedTuple):
    """How well a helix predicts the rows.

    Attributes
    ----------
    r2 : float
        Share of the variance over tokens that the helix explains.
    r2_loo : float
        The same when each token is predicted from the others: one minus the squared
        error over that of the mean of the others. Below 0: worse than the mean. NaN where
        some token is fitted by its own parameters alone.
    p_value : float
        Chance of as good a fit when tokens are relabelled, ``(1 + #) / (1 + N)``.
    frequencies : int
        Number of frequencies (or periods) of the helix.
    """

    r2: float
    r2_loo: float
    p_value: float
    frequencies: int


def helix_fit(
    matrix: Array,
    frequencies: Sequence[int] | Array | None = None,
    *,
    members: Array | None = None,
    permutations: int = 999,
    seed: int = 0,
    selected: bool = True,
    null_powers: FloatArray | None = None,
    relabellings: Relabellings | None = None,
    linear: bool = False,
    periods: Sequence[float] = (2, 5, 10, 100),
) -> HelixFit:
    """Regress the rows of a matrix on sines and cosines of a cyclic group.

    Over the m elements of a cyclic group the waves are orthogonal, so that R² is the share
    of non-trivial power at `frequencies`, and the hat matrix has the constant diagonal
    ``(1 + number of waves) / m``.

    Parameters
    ----------
    matrix : (tokens, columns) array
        Rows are tokens.
    frequencies : sequence of int
        Distinct frequencies, 1 ... m/2. None of them: R² is 0 and the p-value 1. Needed
        unless `linear`.
    members : (m,) int array, optional
        Rows of the group's elements in the group's order; all rows as they stand if
        left out.
    permutations : int
        Number N of random relabellings; 0 leaves the p-value NaN. A fit that ten or more
        of the first 99 reach is judged by those 99 (Besag & Clifford 1991,
        doi 10.1093/biomet/78.2.301).
    seed : int
        Of the relabellings.
    selected : bool
        Whether `frequencies` were chosen on this matrix. Then every relabelling is given
        its own best frequencies, as many as were chosen; comparing with the chosen ones
        alone would find a helix in noise. Say False for frequencies fixed beforehand.
    null_powers : (N, m // 2 + 1) float array, optional
        Powers per block of relabellings of this matrix, as another test of the same matrix
        already made them; used in place of `permutations` and `seed`. Each row may be in
        any unit.
    relabellings : Relabellings, optional
        The same, worked out as far as it was needed: what tests of one matrix share. For
        frequencies that were chosen on the matrix.
    linear : bool
        Tokens are the integers 0, 1, ... (or `members`), not residues: fit `periods`
        and a straight line, see `number_helix_fit`.
    periods : sequence of float
        Periods for `linear`.

    Returns
    -------
    HelixFit
        NaN except for the count where the rows do not vary. r2, r2_loo and p_value do not
        change under rotation, translation or scale of the columns.

    Raises
    ------
    ValueError
        If the matrix is empty or not finite, a frequency is out of range or given twice,
        or `null_powers` has the wrong number of blocks.

    References
    ----------
    Leave-one-out residuals: Allen 1974, doi 10.1080/00401706.1974.10489157. p-value:
    Phipson & Smyth 2010, doi 10.2202/1544-6115.1585.
    """
    if linear:
        return number_helix_fit(
            matrix, members, periods=periods, permutations=permutations, seed=seed
        )
    if frequencies is None:
        raise ValueError("helix_fit needs frequencies; only linear=True brings its own periods")
    matrix = finite_matrix(matrix)
    if members is not None:
        matrix = matrix[index_like(members, matrix)]
    rows, total = centred(matrix)
    order = rows.shape[0]
    blocks = _blocks(frequencies, order)
    if null_powers is not None and np.shape(null_powers)[1:] != (order // 2 + 1,):
        raise ValueError(
            f"null_powers has shape {np.shape(null_powers)}; expected one column for each of the "
            f"{order // 2 + 1} blocks k = 0 ... {order // 2} of {order} tokens"
        )
    if total == 0:
        return HelixFit(math.nan, math.nan, math.nan, len(blocks))
    if not len(blocks):
        return HelixFit(0.0, 0.0, 1.0, 0)

    gram = np.asarray(to_numpy(rows @ rows.T), dtype=np.float64)
    powers = cyclic_powers(gram)[1:]
    r2 = float(min(1.0, powers[blocks - 1].sum() / powers.sum()))

    r2_loo = left_out(r2, int(np.where(2 * blocks == order, 1, 2).sum()), order)
    if relabellings is not None and selected:
        everything = float(powers.sum())
        best = relabellings.best(len(blocks), (r2 - _EQUAL) * everything)
        return HelixFit(r2, r2_loo, _p_value(r2, best / everything), len(blocks))
    if null_powers is None and permutations <= 0:
        return HelixFit(r2, r2_loo, math.nan, len(blocks))

    def shares(null: FloatArray) -> FloatArray:
        """Return the R² of relabelled tokens from their block powers."""
        null = np.asarray(null, dtype=np.float64)[:, 1:]
        if selected:
            best = np.partition(null, null.shape[1] - len(blocks), axis=1)[:, -len(blocks) :]
        else:
            best = null[:, blocks - 1]
        return np.asarray(best.sum(axis=1) / null.sum(axis=1))

    if null_powers is not None:
        return HelixFit(r2, r2_loo, _p_value(r2, shares(null_powers)), len(blocks))
    orders = random_permutations(order, permutations, seed)
    p_value = staged_p_value(r2, orders, lambda some: shares(cyclic_orders_powers(gram, some)))
    return HelixFit(r2, r2_loo, p_value, len(blocks))


def left_out(r2: float, waves: int, order: int) -> float:
    """Return the leave-one-out R² of a fit of orthonormal waves over the elements of a group.

    The hat matrix is a projection on 1 + waves dimensions with the same leverage for every
    token. NaN for a helix through all the power: it leaves the rounding of the sum, no error.
    """
    leverage = (1 + waves) / order
    if 1 + waves >= order:
        return math.nan
    return float(1 - (1 - r2) * ((1 - 1 / order) / (1 - leverage)) ** 2)


def staged_p_value(
    observed: float,
    orders: NDArray[np.int64],
    fits: Callable[[NDArray[np.int64]], FloatArray],
) -> float:
    """Return the chance of as good a fit among relabellings, of which `fits` gives the R².

    The first `_FIRST` are enough where they leave no doubt.
    """
    null = fits(orders[:_FIRST])
    if len(null) < len(orders) and _p_value(observed, null) <= _DOUBT:
        null = np.concatenate([null, fits(orders[_FIRST:])])
    return _p_value(observed, null)


def number_helix_fit(
    matrix: Array,
    values: Array | None = None,
    *,
    periods: Sequence[float] = (2, 5, 10, 100),
    permutations: int = 999,
    seed: int = 0,
) -> HelixFit:
    """Regress the rows for integers on a line and on waves of given periods.

    The design is ``1, x, cos(2πx/T), sin(2πx/T)`` for each period T. Columns that the
    others already span at these integers (the sine of period 2) drop out.

    Parameters
    ----------
    matrix : (vocabulary, columns) array
        Rows are tokens.
    values : (n,) int array, optional
        The integers; they are also the rows of `matrix` to take. Default: 0, 1, ... for
        all rows.
    periods : sequence of float
        Periods T, positive. They are fixed beforehand, so that relabelled tokens are
        fitted with the same ones.
    permutations, seed
        As in `helix_fit`.

    Returns
    -------
    HelixFit
        ``frequencies`` is the number of periods. The line counts towards r2.

    Raises
    ------
    ValueError
        If the matrix is empty or not finite, or a period is not positive.

    References
    ----------
    Kantamneni & Tegmark 2025, arXiv 2502.00873.
    """
    if not all(math.isfinite(period) and period > 0 for period in periods):
        raise ValueError(f"periods are {list(periods)}; expected positive numbers")
    matrix = finite_matrix(matrix)
    if values is None:
        x = np.arange(matrix.shape[0])
    else:
        x = np.asarray(to_numpy(values), dtype=np.int64)
        matrix = matrix[index_like(x, matrix)]
    rows, total = centred(matrix)
    if total == 0:
        return HelixFit(math.nan, math.nan, math.nan, len(periods))
    order = rows.shape[0]
    angles = 2 * np.pi * x[:, None] / np.asarray(periods, dtype=np.float64)
    design = np.column_stack([x, np.cos(angles), np.sin(angles)])
    basis = _orthonormal(design)

    xp = namespace(rows)
    fitted = index_like(basis, rows).T @ rows
    residual = rows - index_like(basis, rows) @ fitted
    r2 = float(1 - xp.sum(residual * residual) / total)
    leverage = 1 / order + (basis * basis).sum(axis=1)
    if np.any(leverage > 1 - 1e-9):
        r2_loo = math.nan
    else:
        weight = index_like(1 / (1 - leverage), rows)[:, None]
        baseline = total / (1 - 1 / order) ** 2
        r2_loo = float(1 - xp.sum((residual * weight) ** 2) / baseline)

    if permutations <= 0:
        return HelixFit(r2, r2_loo, math.nan, len(periods))
    gram = np.asarray(to_numpy(rows @ rows.T), dtype=np.float64)
    shares = np.empty(permutations)
    for i, labels in enumerate(random_permutations(order, permutations, seed)):
        moved = basis[labels]
        shares[i] = np.vdot(moved, gram @ moved)
    return HelixFit(r2, r2_loo, _p_value(r2, shares / total), len(periods))


def _blocks(frequencies: Sequence[int] | Array, order: int) -> NDArray[np.int64]:
    blocks = np.asarray(sorted(int(k) for k in frequencies), dtype=np.int64)
    wrong = blocks[(blocks < 1) | (2 * blocks > order)]
    if len(wrong) or len(set(blocks.tolist())) != len(blocks):
        raise ValueError(
            f"frequencies are {blocks.tolist()}; expected different ones between 1 and "
            f"{order // 2} (k and {order} - k are the same wave: give the smaller)"
        )
    return blocks


def _orthonormal(design: FloatArray) -> FloatArray:
    """Return an orthonormal basis of the centred columns of `design`."""
    design = design - design.mean(axis=0)
    size = np.linalg.norm(design, axis=0)
    # A wave that is zero at every integer is rounding: it must not be blown up.
    design = design[:, size > 1e-9 * math.sqrt(len(design))]
    if not design.shape[1]:
        return np.zeros((len(design), 0))
    left, values, _ = np.linalg.svd(design / np.linalg.norm(design, axis=0), full_matrices=False)
    return np.asarray(left[:, values > 1e-9 * values[0]])


def _p_value(observed: float, null: FloatArray) -> float:
    return float((1 + np.count_nonzero(null >= observed - _EQUAL)) / (1 + len(null)))
