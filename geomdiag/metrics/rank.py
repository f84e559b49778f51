"""Rank and dimension of a matrix whose rows are tokens (METHOD, section 3).

The spectral measures take ``(..., rows, columns)``: leading axes are a batch, and torch
tensors keep their gradient, so that a trainer can use a measure as a penalty. All work in
double precision. A measure of a matrix without spectrum (all zeros; a single row, or equal
rows, once centred) is NaN; norms are 0 there.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomdiag.metrics._array import Array, namespace
from geomdiag.metrics._checks import finite_matrix, finite_points, pairwise_distances

__all__ = [
    "dimensions",
    "effective_dimension",
    "entropy_rank",
    "entropy_rank_squared",
    "frobenius_norm",
    "intrinsic_dimension",
    "norms",
    "nuclear_norm",
    "participation_ratio",
    "spectral_norm",
    "stable_rank",
]


def _spectrum(matrix: Array, center: bool, *, batch: bool = True) -> Array:
    """Return the singular values, (..., min(rows, columns)), largest first."""
    single = isinstance(matrix, np.ndarray) and matrix.dtype == np.float32
    matrix = finite_matrix(matrix, batch=batch)
    xp = namespace(matrix)
    if single and matrix.ndim == 2:
        return _from_gram(matrix - matrix.mean(axis=0) if center else matrix)
    if not center:
        return xp.linalg.svdvals(matrix)
    # Equal rows leave a residue of the mean's rounding: that is no spectrum.
    size = xp.sqrt(xp.sum(matrix * matrix, axis=(-2, -1)))[..., None]
    values = xp.linalg.svdvals(matrix - xp.mean(matrix, axis=-2, keepdims=True))
    return xp.where(values > 4 * float(xp.finfo(xp.float64).eps) * size, values, 0.0 * values)


def _from_gram(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the singular values as roots of the Gram matrix's eigenvalues.

    Several times as fast as their own decomposition, and off by up to 1e-8 of the largest:
    less than the rounding of entries in single precision has moved them already.
    """
    gram = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
    return _roots(np.linalg.eigvalsh(gram)[::-1])


def _roots(squares: NDArray[Any]) -> NDArray[np.float64]:
    """Return singular values from eigenvalues, largest first; what is rounding becomes 0."""
    noise = len(squares) * np.finfo(np.float64).eps * squares[0]
    return np.asarray(np.sqrt(np.where(squares > noise, squares, 0.0)))


def _relative(values: Array) -> Array:
    """Return singular values in units of the largest; all NaN where that is zero."""
    xp = namespace(values)
    top = values[..., :1]
    safe = xp.where(top > 0, top, xp.ones_like(top))
    return xp.where(top > 0, values / safe, xp.full_like(values, math.nan))


def _entropy_exponential(weights: Array) -> Array:
    """Return exp of the entropy of non-negative weights over the last axis."""
    xp = namespace(weights)
    shares = weights / xp.sum(weights, axis=-1, keepdims=True)
    logs = xp.log(xp.where(shares == 0, xp.ones_like(shares), shares))
    return xp.exp(-xp.sum(shares * logs, axis=-1))


def _effective_dimension(values: Array, threshold: float) -> Array:
    xp = namespace(values)
    power = _relative(values) ** 2
    total = xp.sum(power, axis=-1, keepdims=True)
    count = xp.sum(xp.astype(power / total > threshold, xp.float64), axis=-1)
    return xp.where(xp.isnan(total[..., 0]), total[..., 0], count)[()]


def _participation_ratio(values: Array) -> Array:
    xp = namespace(values)
    power = _relative(values) ** 2
    return xp.sum(power, axis=-1) ** 2 / xp.sum(power**2, axis=-1)


def _stable_rank(values: Array) -> Array:
    return namespace(values).sum(_relative(values) ** 2, axis=-1)


def _frobenius(values: Array) -> Array:
    xp = namespace(values)
    top = values[..., :1]
    safe = xp.where(top > 0, top, xp.ones_like(top))
    # In units of the largest value: squares of very large or small entries stay in range.
    return safe[..., 0] * xp.sqrt(xp.sum((values / safe) ** 2, axis=-1))


def effective_dimension(matrix: Array, threshold: float = 0.01, *, center: bool = True) -> Array:
    """Return the number of principal components above a share of the variance.

    Parameters
    ----------
    matrix : (..., rows, columns) array
        Rows are tokens.
    threshold : float
        A component counts when its explained variance ratio is strictly above this.
    center : bool
        Subtract the mean row first (otherwise shares of the raw second moment).

    Returns
    -------
    (...) float array
        A count; a float for one matrix. NaN where there is no variance.

    Raises
    ------
    ValueError
        If the matrix is empty, has fewer than two axes or holds NaN or infinity.

    References
    ----------
    Hwang & Park 2026, arXiv 2603.01968.
    """
    return _effective_dimension(_spectrum(matrix, center), threshold)


def entropy_rank(matrix: Array, *, center: bool = True) -> Array:
    r"""Return the effective rank of Roy & Vetterli, from singular values.

    ``exp(-Σ q_i log q_i)`` with ``q_i = σ_i / Σσ``: between 1 and the rank.

    Parameters
    ----------
    matrix : (..., rows, columns) array
        Rows are tokens.
    center : bool
        Subtract the mean row first. Roy & Vetterli do not (``center=False``).

    Returns
    -------
    (...) float array
        A float for one matrix. NaN where every singular value is zero.

    Raises
    ------
    ValueError
        As `effective_dimension`.

    References
    ----------
    Roy & Vetterli 2007, "The effective rank", EUSIPCO.
    """
    return _entropy_exponential(_relative(_spectrum(matrix, center)))


def entropy_rank_squared(matrix: Array, *, center: bool = True) -> Array:
    """Return the exponential of the entropy of the shares of variance.

    As `entropy_rank` with ``q_i = σ_i² / Σσ²``; other libraries give this the same name.

    Parameters
    ----------
    matrix : (..., rows, columns) array
    center : bool
        Whether to subtract the mean row first.

    Returns
    -------
    (...) float array
        As `entropy_rank`.

    Raises
    ------
    ValueError
        As `effective_dimension`.
    """
    return _entropy_exponential(_relative(_spectrum(matrix, center)) ** 2)


def participation_ratio(matrix: Array, *, center: bool = True) -> Array:
    """Return ``(Σλ)² / Σλ²`` with ``λ = σ²``: between 1 and the rank.

    Parameters
    ----------
    matrix : (..., rows, columns) array
    center : bool
        Whether to subtract the mean row first.

    Returns
    -------
    (...) float array
        As `entropy_rank`.

    Raises
    ------
    ValueError
        As `effective_dimension`.

    References
    ----------
    Gao et al. 2017, doi 10.1101/214262.
    """
    return _participation_ratio(_spectrum(matrix, center))


def stable_rank(matrix: Array, *, center: bool = True) -> Array:
    """Return ``‖A‖_F² / ‖A‖₂²``: between 1 and the rank.

    The definition in the literature is that of the raw matrix (``center=False``).

    Parameters
    ----------
    matrix : (..., rows, columns) array
    center : bool
        Whether to subtract the mean row first.

    Returns
    -------
    (...) float array
        As `entropy_rank`.

    Raises
    ------
    ValueError
        As `effective_dimension`.

    References
    ----------
    Rudelson & Vershynin 2007, doi 10.1145/1255443.1255449.
    """
    return _stable_rank(_spectrum(matrix, center))


def nuclear_norm(matrix: Array) -> Array:
    """Return the sum of the singular values of the matrix as it stands (never centred).

    Parameters
    ----------
    matrix : (..., rows, columns) array

    Returns
    -------
    (...) float array
        In the units of the matrix; a float for one matrix.

    Raises
    ------
    ValueError
        As `effective_dimension`.
    """
    values = _spectrum(matrix, center=False)
    return namespace(values).sum(values, axis=-1)


def frobenius_norm(matrix: Array) -> Array:
    """Return the root of the sum of squared entries of the matrix as it stands.

    Parameters
    ----------
    matrix : (..., rows, columns) array

    Returns
    -------
    (...) float array
        In the units of the matrix; a float for one matrix.

    Raises
    ------
    ValueError
        As `effective_dimension`.
    """
    matrix = finite_matrix(matrix, batch=True)
    xp = namespace(matrix)
    flat = xp.reshape(xp.abs(matrix), (*matrix.shape[:-2], -1))
    top = xp.max(flat, axis=-1, keepdims=True)
    safe = xp.where(top > 0, top, xp.ones_like(top))
    return safe[..., 0] * xp.sqrt(xp.sum((flat / safe) ** 2, axis=-1))


def spectral_norm(matrix: Array) -> Array:
    """Return the largest singular value of the matrix as it stands.

    Parameters
    ----------
    matrix : (..., rows, columns) array

    Returns
    -------
    (...) float array
        In the units of the matrix; a float for one matrix.

    Raises
    ------
    ValueError
        As `effective_dimension`.
    """
    return _spectrum(matrix, center=False)[..., 0]


def dimensions(
    matrix: Array,
    *,
    threshold: float = 0.01,
    center: bool = True,
    intrinsic: bool = True,
    squares: NDArray[np.float64] | None = None,
) -> dict[str, float]:
    """Return every measure of dimension of one matrix, from one decomposition.

    Parameters
    ----------
    matrix : (rows, columns) array
        Rows are tokens.
    threshold : float
        Of `effective_dimension`.
    center : bool
        Subtract the mean row first.
    intrinsic : bool
        Include `intrinsic_dimension`, which needs all pairwise distances.
    squares : (min(rows, columns),) float array, optional
        Squared singular values of the (centred) matrix, largest first, where they are at hand.

    Returns
    -------
    dict of str to float
        ``effective_dimension``, ``entropy_rank``, ``entropy_rank_squared``,
        ``participation_ratio``, ``stable_rank`` and ``intrinsic_dimension``.

    Raises
    ------
    ValueError
        As `effective_dimension`.
    """
    values = _spectrum(matrix, center, batch=False) if squares is None else _roots(squares)
    relative = _relative(values)
    result = {
        "effective_dimension": float(_effective_dimension(values, threshold)),
        "entropy_rank": float(_entropy_exponential(relative)),
        "entropy_rank_squared": float(_entropy_exponential(relative**2)),
        "participation_ratio": float(_participation_ratio(values)),
        "stable_rank": float(_stable_rank(values)),
    }
    if intrinsic:
        result["intrinsic_dimension"] = intrinsic_dimension(matrix)
    return result


def norms(matrix: Array) -> dict[str, float]:
    """Return ``nuclear``, ``frobenius`` and ``spectral`` norm of one matrix as it stands.

    Parameters
    ----------
    matrix : (rows, columns) array

    Returns
    -------
    dict of str to float
        In the units of the matrix.

    Raises
    ------
    ValueError
        As `effective_dimension`.
    """
    values = _spectrum(matrix, center=False, batch=False)
    return {
        "nuclear": float(namespace(values).sum(values)),
        "frobenius": float(_frobenius(values)),
        "spectral": float(values[0]),
    }


def intrinsic_dimension(matrix: Array, *, discard: float = 0.1) -> float:
    """Return the TwoNN estimate of the dimension of the set the rows lie on.

    For points of locally constant density the ratio μ of the distances to the second and
    to the first neighbour has the distribution ``1 - μ^-d``: d is the slope, through the
    origin, of ``-log(1 - F)`` against ``log μ``, F the empirical distribution.

    Parameters
    ----------
    matrix : (rows, columns) array
        Rows are points. Converted to NumPy; all pairwise distances are held at once.
    discard : float
        Share of the largest ratios left out of the fit, in (0, 1): they are the noisiest.

    Returns
    -------
    float
        NaN with fewer than three distinct rows, and where all ratios are 1: points on a
        regular lattice or a perfectly even circle have no information in them. Rows
        closer than 1e-12 of the diameter count as one.

    Raises
    ------
    ValueError
        If `discard` is out of range, or the matrix is empty or not finite.

    References
    ----------
    Facco, d'Errico, Rodriguez & Laio 2017, doi 10.1038/s41598-017-11873-y.
    """
    if not 0 < discard < 1:
        raise ValueError(f"discard is {discard}; expected a share strictly between 0 and 1")
    points = finite_points(matrix, "matrix")
    if len(points) < 3:
        return math.nan
    distances = pairwise_distances(points)
    same = distances <= 1e-12 * distances.max()
    distinct = ~np.tril(same, -1).any(axis=1)
    n = int(distinct.sum())
    if n < 3:
        return math.nan
    distances = distances[np.ix_(distinct, distinct)]
    np.fill_diagonal(distances, np.inf)
    nearest = np.partition(distances, 1, axis=1)[:, :2]
    ratios = np.sort(np.log(nearest[:, 1] / nearest[:, 0]))
    kept = max(1, min(n - 1, math.floor(n * (1 - discard))))
    x, y = ratios[:kept], -np.log1p(-np.arange(1, kept + 1) / n)
    if x @ x <= n * 1e-18:
        return math.nan
    return float(x @ y / (x @ x))
