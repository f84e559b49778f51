"""Logits of a task whose inputs and classes share a finite group.

An input (x, y) composes to an element r = xy, a class stands for an element z. Arguments
follow the task's description of the group: `order` m; `inputs`, the (q,) rows of the logits
that take part; `result`, `left` and `right`, the elements that each of those inputs composes
to and is composed of; `classes`, the (m,) class that stands for each element; `table`, the
(m, m) products of elements, none for the cyclic group (addition modulo m); `characters`, the
(blocks, m) real characters, the trivial one first. Other rows and classes are left out, and
each input is centred over the m classes.

What a network that only knows the group can answer with. If translating either operand
translates the answer, ``L(gx, yh)[gzh] = L(x, y)[z]`` for all g and h, then (g = x⁻¹,
h = y⁻¹) L is a function of ``x⁻¹zy⁻¹``: m dimensions, and every such function is
equivariant. If it also sees nothing of its operands but their product (associativity),
``L(xh, h⁻¹y)[z] = L(x, y)[z]``, the function is constant on conjugacy classes, a sum of
characters ``χ(xyz⁻¹)``. In an abelian group both are the functions of ``z − r``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geomdiag.metrics._array import Array, to_numpy
from geomdiag.metrics._buffers import Buffers
from geomdiag.metrics._group import block_characters, multiplication

__all__ = [
    "LogitSpectrum",
    "TranslationSums",
    "equivariance_error",
    "logit_spectrum",
    "result_rows",
    "translation_sums",
]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Centred logits this far below the logits are what rounding leaves of equal ones.
_ROUNDING = 1e-28


class LogitSpectrum(NamedTuple):
    """Share of the centred logits that the group explains.

    Attributes
    ----------
    power : (blocks - 1,) float array
        Share explained by the real character χ(xyz⁻¹) of each non-trivial block; in the
        cyclic group by ``cos(2πk(r − z)/m)`` for k = 1 ... m // 2.
    equivariant_share : float
        Share explained by all functions of ``x⁻¹zy⁻¹`` (of ``r − z``, sines included, in an
        abelian group): exactly 1 for logits that both operands' translations permute. In a
        non-abelian group the characters are the part of it that depends on xy alone.
    similarity : (blocks - 1,) float array
        Cosine between the centred logits and each character; `power` is its square.
    """

    power: FloatArray
    equivariant_share: float
    similarity: FloatArray


def result_rows(order: int, inputs: Array, result: Array) -> list[IntArray]:
    """Return the rows of the logits that compose to each element of the group.

    Raises
    ------
    ValueError
        If the elements are not reached equally often: the waves would not be orthogonal.
    """
    rows, elements = to_numpy(inputs).astype(np.int64), to_numpy(result).astype(np.int64)
    if rows.shape != elements.shape:
        raise ValueError(f"inputs and result have shapes {rows.shape} and {elements.shape}")
    counts = np.bincount(elements, minlength=order)
    if len(counts) != order or not len(rows) or (counts != counts[0]).any():
        raise ValueError(
            f"the {order} elements are results of {counts.min()} to {counts.max()} inputs; "
            "expected the same number for each, as in a group"
        )
    return list(rows[np.argsort(elements, kind="stable")].reshape(order, -1))


def _block(
    logits: NDArray[Any], rows: IntArray, classes: IntArray | None, work: Buffers
) -> tuple[FloatArray, float, float]:
    """Return a few rows over the group's classes, centred, and their squares then and before."""
    block = work.rows(logits, rows, "block")
    if classes is not None:
        chosen: FloatArray = work("chosen", len(block), len(classes))
        block = np.take(block, classes, axis=1, out=chosen, mode="clip")
    means = block @ np.full(block.shape[1], 1.0 / block.shape[1])
    block -= means[:, None]
    after = float(np.vdot(block, block))
    return block, after, after + block.shape[1] * float(means @ means)


def _columns(classes: Array, width: int) -> IntArray | None:
    """Return the classes, or None where they are all columns in order."""
    columns = to_numpy(classes).astype(np.int64)
    return None if np.array_equal(columns, np.arange(width)) else columns


def logit_spectrum(
    logits: Array,
    *,
    order: int,
    inputs: Array,
    result: Array,
    classes: Array,
    left: Array | None = None,
    right: Array | None = None,
    table: Array | None = None,
    characters: Array | None = None,
) -> LogitSpectrum:
    """Return the share of the logits explained by the character of each block.

    Parameters
    ----------
    logits : (n, classes) array
        All inputs' logits (or log-probabilities: centring removes the difference).
    order, inputs, result, classes
        See the module.
    left, right, table, characters
        See the module; needed unless the group is cyclic.

    Returns
    -------
    LogitSpectrum
        NaN where the centred logits are all zero.

    Raises
    ------
    ValueError
        If the elements are not results equally often, or a group that is given by its table
        comes without operands or characters.

    References
    ----------
    Nanda et al. 2023, arXiv 2301.05217 (cos(w_k(x + y − z)) in the logits); Chughtai et al.
    2023, arXiv 2302.03025 (χ(xyz⁻¹)).
    """
    if table is not None:
        if left is None or right is None or characters is None:
            raise ValueError(
                "a group given by its table also needs left, right and characters; a task's "
                "`logit_group` has them all"
            )
        return translation_sums(
            logits,
            order=order,
            inputs=inputs,
            left=left,
            right=right,
            result=result,
            classes=classes,
            table=table,
        ).spectrum(characters)
    values = to_numpy(logits)
    columns = _columns(classes, values.shape[1])
    groups = result_rows(order, inputs, result)
    work = Buffers()
    total = before = 0.0
    sums = np.empty((order, order))  # over the inputs that compose to r, of the logit of z
    for r, rows in enumerate(groups):
        block, after, size = _block(values, rows, columns, work)
        total, before = total + after, before + size
        sums[r] = np.ones(len(rows)) @ block
    elements = np.arange(order)
    shifted = np.take_along_axis(sums, (elements[:, None] + elements) % order, axis=1).sum(axis=0)
    waves = block_characters(order, characters)
    return _explained(shifted, waves, len(groups[0]), total, before)


def _explained(
    shifted: FloatArray, characters: FloatArray, inputs: int, total: float, before: float
) -> LogitSpectrum:
    """Return the shares explained by functions of ``t = x⁻¹zy⁻¹``, whose sums are given.

    A real character does not tell t from ``xyz⁻¹``, a conjugate of its inverse. `inputs`
    compose to each element; `total` and `before` are the squares of all logits after and
    before centring.
    """
    order = len(shifted)
    waves = characters[1:]
    if not total > _ROUNDING * before:
        nothing = np.full(len(waves), np.nan)
        return LogitSpectrum(nothing, float("nan"), nothing)
    scale = order * inputs * total
    similarity = waves @ shifted / np.sqrt(scale * np.einsum("kz,kz->k", waves, waves))
    return LogitSpectrum(similarity**2, float(shifted @ shifted) / scale, similarity)


def equivariance_error(
    logits: Array,
    *,
    order: int,
    inputs: Array,
    left: Array,
    right: Array,
    result: Array,
    classes: Array,
    table: Array | None = None,
) -> dict[str, float]:
    """Return how far translating one operand is from translating the answer.

    ``mean over g ≠ e of ‖L(gx, y)[gz] − L(x, y)[z]‖² / 2‖L‖²`` on centred logits, for
    ``left``; with ``L(x, yg)[zg]`` for ``right``. 0: exactly equivariant; 1: the translated
    logits are as good as unrelated. The sum over all g of the inner products is the squared
    norm of ``B[y, x⁻¹zy⁻¹] = Σ_x L(x, y)[z]``, so that one pass serves every g.

    Parameters
    ----------
    logits : (n, classes) array
        All inputs' logits.
    order, inputs, left, right, result, classes, table
        See the module. Every pair of elements must be the operands of exactly one input.

    Returns
    -------
    dict of str to float
        ``left`` and ``right``; NaN where the centred logits are all zero.

    Raises
    ------
    ValueError
        If the inputs are not all pairs of elements.
    """
    return translation_sums(
        logits,
        order=order,
        inputs=inputs,
        left=left,
        right=right,
        result=result,
        classes=classes,
        table=table,
    ).errors()


class TranslationSums(NamedTuple):
    """Sums of the centred logits L(x, y)[z] that every translation of an operand shares.

    Attributes
    ----------
    by_right, by_left : (m, m) float array
        ``Σ_x L(x, y)[z]`` at (y, x⁻¹zy⁻¹) and ``Σ_y L(x, y)[z]`` at (x, x⁻¹zy⁻¹); in the
        cyclic group the second place is z − r.
    by_result : (m, m) float array
        Sum over the inputs that compose to r, at (r, z).
    total, before : float
        Sum of squares of the logits after and before centring.
    """

    by_right: FloatArray
    by_left: FloatArray
    by_result: FloatArray
    total: float
    before: float

    def errors(self) -> dict[str, float]:
        """Return what `equivariance_error` does."""
        order = len(self.by_right)
        if not self.total > _ROUNDING * self.before or order < 2:
            return {"left": float("nan"), "right": float("nan")}
        return {
            # translating the left operand leaves the right one as it is, and so on
            name: 1.0 - (float(np.vdot(sums, sums)) - self.total) / ((order - 1) * self.total)
            for name, sums in (("left", self.by_right), ("right", self.by_left))
        }

    def spectrum(self, characters: Array | None = None) -> LogitSpectrum:
        """Return what `logit_spectrum` does; without characters, for the cyclic group."""
        shifted = self.by_right.sum(axis=0)
        waves = block_characters(len(shifted), characters)
        return _explained(shifted, waves, len(shifted), self.total, self.before)


def translation_sums(
    logits: Array,
    *,
    order: int,
    inputs: Array,
    left: Array,
    right: Array,
    result: Array,
    classes: Array,
    table: Array | None = None,
) -> TranslationSums:
    """Return, from one pass over the logits, what `equivariance_error` and others need.

    Parameters and errors as `equivariance_error`.
    """
    values = to_numpy(logits)
    first, second = to_numpy(left).astype(np.int64), to_numpy(right).astype(np.int64)
    place = np.full((order, order), -1, dtype=np.int64)
    place[first, second] = to_numpy(inputs)
    composed = to_numpy(result).astype(np.int64)
    product = None if table is None else multiplication(order, table)
    expected = (first + second) % order if product is None else product[first, second]
    if len(first) != order * order or (place < 0).any() or not np.array_equal(expected, composed):
        raise ValueError(
            f"{len(first)} inputs; expected the {order * order} pairs of elements, each once, "
            f"with result = left {'+' if product is None else '·'} right"
        )
    columns = _columns(classes, values.shape[1])
    if product is None:
        return _cyclic_sums(values, place, columns)
    return _table_sums(values, place, columns, product)


def _cyclic_sums(
    values: NDArray[Any], place: IntArray, columns: IntArray | None
) -> TranslationSums:
    """Return the sums for the cyclic group; `place` is the input of each pair of operands."""
    order = len(place)
    # Twice as wide (and high) as the sums: what wraps around is folded back at the end.
    wide_right, wide_left = np.zeros((order, 2 * order)), np.zeros((2 * order, 2 * order))
    by_result, ones = np.empty((order, order)), np.ones(order)
    elements = np.arange(order)
    rows = place[(elements[:, None] - elements) % order, elements]  # (result, right operand)
    work = Buffers()
    total = before = 0.0
    for r in range(order):
        block, after, size = _block(values, rows[r], columns, work)
        total, before = total + after, before + size
        by_result[r] = ones @ block
        shifted = slice(order - r, 2 * order - r)  # columns z - r
        wide_right[:, shifted] += block
        wide_left[r + 1 : r + order + 1, shifted] += block[::-1]  # rows r - right
    by_right = wide_right[:, :order] + wide_right[:, order:]
    tall = wide_left[:order] + wide_left[order:]
    by_left = tall[:, :order] + tall[:, order:]
    return TranslationSums(by_right, by_left, by_result, total, before)


def _table_sums(
    values: NDArray[Any], place: IntArray, columns: IntArray | None, product: IntArray
) -> TranslationSums:
    """Return the sums for a group given by its multiplication table."""
    order = len(place)
    by_right, by_left, by_result = (np.zeros((order, order)) for _ in range(3))
    work = Buffers()
    total = before = 0.0
    for x in range(order):
        block, after, size = _block(values, place[x], columns, work)  # a row for each right operand
        total, before = total + after, before + size
        by_result[product[x]] += block
        aligned = np.take_along_axis(block, product[x][product.T], axis=1)  # (y, t) from z = x t y
        by_right += aligned
        by_left[x] = aligned.sum(axis=0)
    return TranslationSums(by_right, by_left, by_result, total, before)
