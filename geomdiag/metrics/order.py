"""Order and grid geometry: how rows lay out the ranks of attributes (METHOD, section 7)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from geomdiag.metrics._array import Array, index_like, namespace, to_numpy
from geomdiag.metrics._checks import centred, finite_matrix

__all__ = [
    "OrderFit",
    "additivity",
    "additivity_null",
    "axis_angles",
    "order_readout",
    "step_evenness",
]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Least penalty of the read-out, in units of the largest eigenvalue of the centred Gram matrix.
_LEAST_PENALTY = 1e-10
#: What is smaller than this share of the whole is rounding, not geometry.
_ROUNDING = 1e-12
#: Predicted ranks that differ by less than this share of the range of ranks are tied: weights
#: in single precision leave differences of 1e-7 where there are none.
_TIED = 1e-6


class OrderFit(NamedTuple):
    """How well the rank of a token is read off its row by what the other tokens show.

    Attributes
    ----------
    r2_loo : float
        One minus the squared error of the left-out ranks over that of the mean of the others.
        1: every rank is predicted; 0 or less: no better than that mean.
    kendall_tau : float
        Kendall's τ of the left-out predictions against the true ranks, over the pairs of
        tokens with different ranks: 1 all in order, 0 or less no relation. The read-out takes
        its direction from the other tokens, so that no rows are in reversed order; below 0 says
        that the rows follow something else, to the exclusion of this rank.
    """

    r2_loo: float
    kendall_tau: float


def order_readout(matrix: Array, rank: Array) -> OrderFit:
    """Read the rank of each token linearly off its row, fitted on the other tokens.

    Ridge regression of the ranks on the rows, intercept free. With more columns than tokens
    least squares would fit anything, so that the penalty is set by the rows alone: the least
    that leaves the read-out at most n // 2 effective degrees of freedom for n tokens,
    ``Σ_k λ_k / (λ_k + penalty)`` over the eigenvalues of the centred Gram matrix, and at least
    10⁻¹⁰ of the largest one (least squares, the shortest solution). Left-out errors come from
    the hat matrix H in closed form, ``(y_i - ŷ_i) / (1 - H_ii)``.

    Since the penalty does not know the ranks, r2_loo averages to 0 or less over all
    relabellings of the tokens, whatever the rows: the prediction of a token from shuffled
    ranks has the mean of the others as its expectation, and adds its variance to the error. The
    average τ is 0 or slightly less.

    Parameters
    ----------
    matrix : (tokens, columns) array
        Rows are tokens.
    rank : (tokens,) int array
        Rank of each token; ties are fine.

    Returns
    -------
    OrderFit
        NaN where the rows do not vary. Does not change under rotation, translation or scale
        of the columns.

    Raises
    ------
    ValueError
        If the matrix is empty or not finite, or `rank` has another length or one value only.

    Notes
    -----
    Kendall's τ-b cannot reach 1 where ranks are tied and predictions are not, since every
    prediction differs a little; τ over the pairs that the ranks decide can (Somers' D with the
    ranks as the independent variable). A prediction is taken relative to the mean rank of the
    other tokens: that mean falls as the token's own rank rises, and would by itself order the
    tokens backwards. So does a group of tokens that the rows do not tell apart and over which the
    ranks are balanced: the others of its group stand the lower, the higher the left-out token
    stands. A grid drawn along one attribute alone has τ = 1 there and τ near -1 in the other.

    References
    ----------
    Leave-one-out residuals: Allen 1974, doi 10.1080/00401706.1974.10489157. Kendall 1938,
    doi 10.1093/biomet/30.1-2.81; Somers 1962, doi 10.2307/2090408.

    Examples
    --------
    >>> import numpy as np
    >>> x1, x2 = np.indices((7, 7)).reshape(2, -1)
    >>> grid = np.stack([x1, x2, np.zeros(49)], axis=1)
    >>> fit = order_readout(grid, x1)
    >>> round(fit.r2_loo, 12), fit.kendall_tau
    (1.0, 1.0)
    """
    rows, total = centred(finite_matrix(matrix))
    (ranks,) = _ranks([rank], rows)
    if total == 0:
        return OrderFit(math.nan, math.nan)
    gram = np.asarray(to_numpy(rows @ rows.T), dtype=np.float64)
    errors, by_mean = _left_out_errors(gram, ranks.astype(np.float64))
    r2_loo = float(1 - (errors**2).sum() / (by_mean**2).sum())
    return OrderFit(r2_loo, _agreement(by_mean - errors, ranks))


def _left_out_errors(gram: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return rank minus prediction, and minus the others' mean, of each left-out token.

    Works in the complement of the constant, so that neither residual nor ``1 - H_ii`` suffers
    cancellation where the fit goes through the other tokens.
    """
    n = len(y)
    complement = np.linalg.qr(np.column_stack([np.ones(n), np.eye(n)[:, 1:]]))[0][:, 1:]
    values, vectors = np.linalg.eigh(complement.T @ gram @ complement)
    values, vectors = values / values[-1], complement @ vectors
    values[values < 10 * n * np.finfo(np.float64).eps] = 0.0  # not to be weighed against a penalty
    penalty = _penalty(values, n // 2)
    left = penalty / (values + penalty)  # share of each component that the fit leaves
    residual = vectors @ (left * (vectors.T @ y))
    return residual / (vectors**2 @ left), (y - y.mean()) * (n / (n - 1))


def _penalty(values: FloatArray, freedom: int) -> float:
    """Return the least penalty that leaves at most so many effective degrees of freedom."""
    from scipy.optimize import brentq

    def excess(log_penalty: float) -> float:
        return float((values / (values + np.exp(log_penalty))).sum()) - freedom

    least, most = math.log(_LEAST_PENALTY), math.log(len(values))  # the most leaves under one
    return math.exp(least if excess(least) <= 0 else brentq(excess, least, most))


def _agreement(predictions: FloatArray, ranks: IntArray) -> float:
    """Return concordant minus discordant pairs, over all pairs of different rank."""
    concordance = pairs = 0.0
    tied = _TIED * float(np.ptp(ranks))
    for prediction, rank in zip(predictions, ranks, strict=True):
        above = ranks > rank
        ahead = predictions[above] - prediction
        concordance += int((ahead > tied).sum()) - int((ahead < -tied).sum())
        pairs += int(above.sum())
    return concordance / pairs


def step_evenness(matrix: Array, rank: Array) -> float:
    """Measure whether successive ranks stand at equal steps along a straight line.

    With c_1, ..., c_s the mean rows of the ranks and δ_l = c_{l+1} - c_l their steps:
    ``‖Σ δ_l‖² / ((s - 1) Σ ‖δ_l‖²)``, which is 1 exactly when all steps are the same vector,
    and falls as they differ in length or direction, to 0 when the last rank meets the first.
    For random rows it is about ``1 / (s - 1)²``. (Lengths alone would not do: in many
    dimensions the steps between random rows are all equally long.)

    Parameters
    ----------
    matrix : (tokens, columns) array
        Rows are tokens.
    rank : (tokens,) int array
        Rank of each token.

    Returns
    -------
    float
        In [0, 1]. NaN with fewer than three ranks (a single step is even with itself), or
        where the mean rows coincide.

    Raises
    ------
    ValueError
        As for `order_readout`.
    """
    rows, total = centred(finite_matrix(matrix))
    (ranks,) = _ranks([rank], rows)
    levels, level, sizes = np.unique(ranks, return_inverse=True, return_counts=True)
    if len(levels) < 3:
        return math.nan
    xp = namespace(rows)
    member = (level == np.arange(len(levels))[:, None]) / sizes[:, None]
    means = index_like(member, rows) @ rows
    steps = means[1:, :] - means[:-1, :]
    squares = float(xp.sum(steps * steps))
    if squares <= _ROUNDING**2 * total or squares == 0:
        return math.nan
    ends = means[-1, :] - means[0, :]
    return min(1.0, float(xp.sum(ends * ends)) / (len(steps) * squares))


def additivity(matrix: Array, ranks: Sequence[Array] | Array) -> float:
    """Return the share of the rows' variance that additive main effects explain.

    Every attribute gives each of its ranks a vector; the best sum of one vector an attribute
    is the projection of the rows on the functions ``f_1(x_1) + ... + f_A(x_A)``. A grid is
    exactly additive, whatever its steps.

    Parameters
    ----------
    matrix : (tokens, columns) array
        Rows are tokens.
    ranks : sequence of (tokens,) int arrays
        Rank of each token, an array an attribute.

    Returns
    -------
    float
        In [0, 1]; compare with `additivity_null`. NaN where the rows do not vary.

    Raises
    ------
    ValueError
        As for `order_readout`.
    """
    rows, total = centred(finite_matrix(matrix))
    basis = _additive_basis(_ranks(ranks, rows))
    if total == 0:
        return math.nan
    xp = namespace(rows)
    effects = index_like(basis.T, rows) @ rows
    return min(1.0, float(xp.sum(effects * effects)) / total)


def additivity_null(ranks: Sequence[Array] | Array) -> float:
    """Return the mean of `additivity` over all relabellings of the tokens.

    It is ``q / (n - 1)`` for any matrix that varies: a projection on q dimensions, averaged
    over permutations, is that multiple of the identity on what varies. On a full grid
    ``q = Σ (ranks - 1)``; for a single attribute without ties the null is 1, and additivity
    says nothing.

    Parameters
    ----------
    ranks : sequence of (tokens,) int arrays
        As for `additivity`.

    Returns
    -------
    float

    Examples
    --------
    >>> import numpy as np
    >>> additivity_null(np.indices((7, 7)).reshape(2, -1))
    0.25
    """
    tables = [np.asarray(to_numpy(rank)) for rank in ranks]
    basis = _additive_basis(_ranks(tables, np.zeros((len(tables[0]), 1))))
    return float(basis.shape[1] / (len(basis) - 1))


def axis_angles(matrix: Array, ranks: Sequence[Array] | Array) -> FloatArray:
    """Return the angles between the directions along which the attributes' ranks rise.

    The axis of an attribute is its row of coefficients when the rows of the matrix are
    regressed on the ranks of all attributes.

    Parameters
    ----------
    matrix : (tokens, columns) array
        Rows are tokens.
    ranks : sequence of (tokens,) int arrays
        Rank of each token, an array an attribute.

    Returns
    -------
    (attributes, attributes) float array
        Radians in [0, π], 0 on the diagonal. π/2: perpendicular, which random directions in d
        dimensions nearly are, too (standard deviation about 1/√d). NaN for an attribute
        without an axis.

    Raises
    ------
    ValueError
        As for `order_readout`.
    """
    rows, total = centred(finite_matrix(matrix))
    tables = _ranks(ranks, rows)
    design = np.stack(tables, axis=1).astype(np.float64)
    design -= design.mean(axis=0)
    slopes = index_like(np.linalg.pinv(design), rows) @ rows
    axes = np.asarray(to_numpy(slopes), dtype=np.float64)
    length = np.linalg.norm(axes, axis=1)
    told = length * np.linalg.norm(design, axis=0) > _ROUNDING * math.sqrt(total)
    told &= total > 0
    axes = axes / np.where(told, length, np.nan)[:, None]
    # near 0 and π the arc cosine would lose half the digits
    apart = np.linalg.norm(axes[:, None] - axes, axis=2)
    together = np.linalg.norm(axes[:, None] + axes, axis=2)
    return np.asarray(2 * np.arctan2(apart, together))


def _ranks(ranks: Sequence[Array] | Array, rows: Array) -> list[IntArray]:
    """Return the ranks as arrays after checking them against the rows."""
    found = [np.asarray(to_numpy(rank)) for rank in ranks]
    if not found:
        raise ValueError("no attribute has ranks; expected an array of ranks for at least one")
    for rank in found:
        if rank.shape != (rows.shape[0],):
            raise ValueError(
                f"the ranks have shape {rank.shape}; expected one for each of the "
                f"{rows.shape[0]} rows"
            )
        if len(np.unique(rank)) < 2:
            raise ValueError(
                f"all {len(rank)} tokens have the same rank; expected at least two different "
                "ones. Leave the attribute out"
            )
    return found


def _additive_basis(ranks: Sequence[IntArray]) -> FloatArray:
    """Return an orthonormal basis, (tokens, q), of the centred sums of functions of one rank."""
    indicators = np.concatenate(
        [(rank[:, None] == np.unique(rank)).astype(np.float64) for rank in ranks], axis=1
    )
    indicators -= indicators.mean(axis=0)
    left, values, _ = np.linalg.svd(indicators, full_matrices=False)
    return np.asarray(left[:, values > 1e-9 * values[0]])
