"""Finite groups as the metrics of logits see them: elements 0 ... m-1 and their products."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geomdiag.metrics._array import Array, to_numpy

__all__ = ["block_characters", "inverses", "multiplication", "quotients"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def multiplication(order: int, table: Array) -> IntArray:
    """Return a multiplication table after checking that it can be one.

    Raises
    ------
    ValueError
        If it is not an (m, m) Latin square with an identity. (Associativity would cost m³:
        it is the task's to promise.)
    """
    product = np.asarray(to_numpy(table), dtype=np.int64)
    elements = np.arange(order)
    if (
        product.shape != (order, order)
        or (np.sort(product, axis=0) != elements[:, None]).any()
        or (np.sort(product, axis=1) != elements).any()
        or not (product == elements).all(axis=1).any()
    ):
        raise ValueError(
            f"the multiplication table has shape {product.shape}; expected ({order}, {order}), "
            "with each element once in every row and column, and an identity"
        )
    return product


def inverses(product: IntArray) -> IntArray:
    """Return the inverse of each element of a multiplication table, (m,)."""
    identity = int((product == np.arange(len(product))).all(axis=1).argmax())
    return np.asarray((product == identity).argmax(axis=1), dtype=np.int64)


def quotients(order: int, table: Array | None) -> IntArray:
    """Return ``g · h⁻¹`` at (g, h), (m, m); without a table, of the cyclic group."""
    if table is None:
        elements = np.arange(order)
        return np.asarray((elements[:, None] - elements) % order, dtype=np.int64)
    product = multiplication(order, table)
    return product[:, inverses(product)]


def block_characters(order: int, characters: Array | None) -> FloatArray:
    """Return the real characters of the blocks, the trivial one first, (blocks, m).

    Without any: ``cos(2πkg/m)`` for k = 0 ... m // 2, which are those of the cyclic group up
    to a factor.

    Raises
    ------
    ValueError
        If they are not functions on the m elements, or the first is not constant.
    """
    if characters is None:
        grid = np.outer(np.arange(order // 2 + 1), np.arange(order)) % order
        return np.asarray(np.cos(2.0 * np.pi * grid / order))
    found = np.asarray(to_numpy(characters), dtype=np.float64)
    if found.ndim != 2 or found.shape[1] != order or not len(found) or np.ptp(found[0]) > 1e-9:
        raise ValueError(
            f"the characters have shape {found.shape}; expected one row a block, the constant one "
            f"first, and {order} columns"
        )
    return found
