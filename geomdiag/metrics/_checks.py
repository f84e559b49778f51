"""What metrics ask of the matrices they are given, and the distances between rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomdiag.metrics._array import Array, is_torch, namespace, to_float64, to_numpy

__all__ = ["centred", "finite_matrix", "finite_points", "paired", "pairwise_distances"]


#: Pairs with a squared distance below this share of their rows' squares are computed directly.
_CLOSE = 1e-3


def finite_matrix(matrix: Array, what: str = "matrix", *, batch: bool = False) -> Array:
    """Return `matrix` in double precision after checking its shape and its entries.

    Raises
    ------
    ValueError
        If it is not two-dimensional (with `batch`: at least two-dimensional), has no
        entries, or holds NaN or infinity.
    """
    matrix = to_float64(matrix if is_torch(matrix) else np.asarray(matrix))
    shape = tuple(matrix.shape)
    if len(shape) < 2 or (len(shape) > 2 and not batch):
        raise ValueError(f"the {what} has shape {shape}; expected rows (tokens) and columns")
    if 0 in shape:
        raise ValueError(f"the {what} has shape {shape}: it holds no entries to measure")
    xp = namespace(matrix)
    finite = xp.isfinite(matrix)
    if not bool(xp.all(finite)):
        bad = int(xp.sum(xp.astype(~finite, xp.int64)))
        raise ValueError(
            f"the {what} of shape {shape} holds {bad} NaN or infinite entries; expected finite "
            "numbers. Look for a diverged or damaged checkpoint, or leave those rows out"
        )
    return matrix


def finite_points(points: Array, what: str = "points") -> NDArray[np.float64]:
    """Return `points` as a finite (rows, columns) NumPy matrix in double precision."""
    return np.asarray(finite_matrix(to_numpy(points), what), dtype=np.float64)


def centred(matrix: Array) -> tuple[Array, float]:
    """Return the centred rows and their sum of squares, 0 where it is rounding only."""
    xp = namespace(matrix)
    rows = matrix - xp.mean(matrix, axis=0, keepdims=True)
    total = float(xp.sum(rows * rows))
    residue = (4 * np.finfo(np.float64).eps) ** 2 * float(xp.sum(matrix * matrix))
    return rows, total if total > residue else 0.0


def paired(first: Array, second: Array) -> tuple[Any, Array, Array]:
    """Return the namespace and two finite matrices whose rows are the same tokens.

    Raises
    ------
    ValueError
        If they have different numbers of rows, or either is not a finite matrix.
    """
    first, second = finite_matrix(first, "first matrix"), finite_matrix(second, "second matrix")
    if first.shape[0] != second.shape[0]:
        raise ValueError(
            f"the matrices have {first.shape[0]} and {second.shape[0]} rows; expected one row a "
            "token in both. Cut them to their common tokens first"
        )
    return namespace(first, second), first, second


def pairwise_distances(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Euclidean distances between all rows, (n, n), to 1e-11 of each.

    From inner products of the centred rows; the few pairs that lie so close together, as
    far as they are from the centre, that this would lose digits are computed directly.
    """
    from scipy.spatial.distance import pdist, squareform

    rows = points - points.mean(axis=0)
    with np.errstate(over="ignore", invalid="ignore"):
        gram = rows @ rows.T
        own = np.diagonal(gram)
        sizes = own[:, None] + own
        squares = sizes - 2.0 * gram
        first, second = np.nonzero(np.triu(squares <= _CLOSE * sizes, 1))
    # beyond the range of squares; or most rows in a heap far from a few others
    if not np.isfinite(squares).all() or 8 * len(first) > len(points) ** 2:
        return np.asarray(squareform(pdist(points)))
    apart = points[first] - points[second]
    exact = np.einsum("mk,mk->m", apart, apart)
    squares[first, second] = squares[second, first] = exact
    np.fill_diagonal(squares, 0.0)
    return np.asarray(np.sqrt(squares))
