"""What the logits owe to each irreducible representation of their task's group, as published.

Chughtai, Chan & Nanda 2023 (arXiv 2302.03025) look at one function of input and class for
each representation, the real character ``χ(xyz⁻¹)`` of the group: how like it the logits are, and
what is lost without it. `geomdiag.metrics.progress` removes all of a representation's matrix
coefficients in the product xy instead, whatever function of the class they come with.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geomdiag.metrics._array import Array, to_numpy
from geomdiag.metrics._buffers import Buffers
from geomdiag.metrics._group import block_characters, quotients
from geomdiag.metrics.fit import cross_entropy
from geomdiag.metrics.group_logits import TranslationSums, translation_sums

__all__ = ["CharacterLosses", "character_losses"]

FloatArray = NDArray[np.float64]

_ROWS = 256  # rows worked on at once
#: e to twice the first is finite, e to the second a normal number; less is as good as nothing.
_RANGE = {np.dtype(np.float64): (300.0, -650.0), np.dtype(np.float32): (40.0, -80.0)}


class CharacterLosses(NamedTuple):
    """What the character of each non-trivial block is to the logits.

    Attributes
    ----------
    similarity : (blocks - 1,) float array
        Cosine between the centred logits and ``χ(xyz⁻¹)``, over all inputs and classes of the
        group. Its square is the block's share in `LogitSpectrum.power`. NaN where the
        centred logits are all zero.
    restricted : (sets,) float array
        Cross-entropy, in nats, of nothing but the characters' components.
    excluded : (sets,) float array
        Cross-entropy over the train inputs of the logits less those components.
    """

    similarity: FloatArray
    restricted: FloatArray
    excluded: FloatArray


def character_losses(
    logits: Array,
    sets: Iterable[Iterable[int]] | None = None,
    *,
    order: int,
    inputs: Array,
    left: Array,
    right: Array,
    result: Array,
    classes: Array,
    table: Array | None = None,
    characters: Array | None = None,
    train: Array | None = None,
    sums: TranslationSums | None = None,
) -> CharacterLosses:
    """Return what the logits are with, and without, the characters of the group.

    The component of a block is the orthogonal projection of the centred logits on the one
    function ``χ(xyz⁻¹)``. As functions of input and class the characters are orthogonal, so
    that those of a set of blocks add up. Losses are over the group's m classes.

    Parameters
    ----------
    logits : (n, classes) array
        All inputs' logits.
    sets : iterable of iterables of int, optional
        Blocks, from 1 on, that are kept and removed together. Default: each block alone.
    order, inputs, left, right, result, classes, table, characters
        See `geomdiag.metrics.group_logits`.
    train : (n,) bool array, optional
        Which inputs were trained on, for the excluded losses. None: all of them.
    sums : TranslationSums, optional
        Of these logits, where they are at hand.

    Returns
    -------
    CharacterLosses
        `excluded` is NaN where no input of the group was trained on.

    Raises
    ------
    ValueError
        If a block is out of range, or the inputs are not all pairs of elements.

    References
    ----------
    Chughtai, Chan & Nanda 2023, arXiv 2302.03025: "trace similarity", "logit restricted" and
    "logit excluded" losses.
    """
    waves = block_characters(order, characters)[1:]
    chosen = [[k] for k in range(1, len(waves) + 1)] if sets is None else [list(s) for s in sets]
    flat = [k for one in chosen for k in one]
    if flat and not 1 <= min(flat) <= max(flat) <= len(waves):
        raise ValueError(f"blocks {chosen}; expected numbers from 1 to {len(waves)}")
    if sums is None:
        sums = translation_sums(
            logits,
            order=order,
            inputs=inputs,
            left=left,
            right=right,
            result=result,
            classes=classes,
            table=table,
        )
    # A real character does not tell x⁻¹zy⁻¹, by which the sums are kept, from xyz⁻¹.
    norms = np.einsum("kt,kt->k", waves, waves) * order**2
    products = waves @ sums.by_right.sum(axis=0)
    similarity = sums.spectrum(None if characters is None else to_numpy(characters)).similarity

    components = products[:, None] / norms[:, None] * waves
    together = np.array([components[np.array(s, dtype=int) - 1].sum(axis=0) for s in chosen])
    together = together.reshape(len(chosen), order)
    ratio = quotients(order, table)
    identity = int(ratio[0, 0])
    restricted = cross_entropy(together, np.full(len(chosen), identity))

    rows, elements = to_numpy(inputs).astype(np.int64), to_numpy(result).astype(np.int64)
    if train is not None:
        trained = to_numpy(train).astype(bool)[rows]
        rows, elements = rows[trained], elements[trained]
    if not len(rows):
        return CharacterLosses(similarity, restricted, np.full(len(chosen), np.nan))
    # Class at each t = xyz⁻¹, by the product xy: there one component serves all inputs.
    place = to_numpy(classes).astype(np.int64)[np.argsort(ratio, axis=1)]
    values, total = to_numpy(logits), np.zeros(len(chosen))
    work = Buffers()
    for start in range(0, len(rows), _ROWS):
        part = slice(start, start + _ROWS)
        block = work.rows(values, rows[part], "block", double=False)
        index = place[elements[part]] + values.shape[1] * np.arange(len(block))[:, None]
        aligned = work("aligned", *index.shape, dtype=block.dtype)
        np.take(block.ravel(), index, out=aligned, mode="clip")
        total += _without(aligned, together, identity)
    return CharacterLosses(similarity, restricted, total / len(rows))


def _without(aligned: NDArray[Any], components: FloatArray, identity: int) -> FloatArray:
    """Return the summed losses of some rows without each of the components, (sets,).

    The loss is ``log Σ_t exp(l_t - l_e - (c_t - c_e))``: a product of two matrices, unless an
    exponential leaves the range of the numbers. What underflows was nothing beside the 1 that
    the right class contributes. In the rows' own precision while that range allows; works in
    place.
    """
    aligned -= aligned[:, identity].copy()[:, None]
    shift = components - components[:, identity : identity + 1]
    largest = max(aligned.max(), -shift.min(initial=0.0))
    if largest > _RANGE[aligned.dtype][0] and aligned.dtype != np.float64:
        aligned = aligned.astype(np.float64)
    high, low = _RANGE[aligned.dtype]
    if largest > high:
        answers = np.full(len(aligned), identity)
        return np.array([np.sum(cross_entropy(aligned - one, answers)) for one in shift])
    np.maximum(aligned, low, out=aligned)
    powers = np.exp(aligned, out=aligned)
    weights = np.exp(np.maximum(-shift, low)).astype(aligned.dtype)
    powers[:, identity] *= 0.0  # of the right class; a NaN stays
    return np.asarray(np.log1p(powers @ weights.T).sum(axis=0, dtype=np.float64))
