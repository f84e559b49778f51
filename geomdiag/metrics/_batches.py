"""Equally large sets of output distributions, worked on together around their parts' centres.

Single precision suffices for single-precision rows: what counts are distances from a centre
near them. A pair of rows that lie far closer to each other than to their centres is computed
directly instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from geomdiag.metrics._buffers import Buffers
from geomdiag.metrics._orbits import Moments
from geomdiag.metrics._sets import Halves, Pairs, Sets
from geomdiag.metrics.divergence import CLAMP

__all__ = ["Values", "set_moments", "set_values"]

FloatArray = NDArray[Any]
IntArray = NDArray[np.int64]

_ROWS = 256  # pairs computed directly at once
#: A pair this far below its rows' distances from their centres is computed directly. What the
#: Gram form loses is 1e-16 or some 1e-6 of those distances.
_SAFE = {np.dtype(np.float64): 1e-8, np.dtype(np.float32): 5e-3}
_NOTHING = np.nextafter(-1.0, 0.0)  # growth of what is left of probabilities far below a centre
_MANY = 0.04  # share of such pairs from which double precision is cheaper


class Values:
    """Symmetric KL of the pairs of sets, collected by part: (first, second, one in each).

    Parameters
    ----------
    counts : (sets, 3) int array
        Pairs of each set.
    dtype : float32 or float64
        What the values are kept in.
    work : Buffers, optional
        Scratch memory to keep them in, valid until the next are made. Default: memory of its own.
    """

    def __init__(
        self, counts: IntArray, dtype: DTypeLike = np.float64, work: Buffers | None = None
    ) -> None:
        self.counts = counts
        work = Buffers() if work is None else work
        self.values: FloatArray = work("values", int(counts.sum()), dtype=dtype)
        self.begin = np.concatenate([[0], np.cumsum(counts.sum(axis=0))])
        self._next = self.begin[:-1].tolist()

    def room(self, part: int, count: int) -> FloatArray:
        """Return where the next values of a part go."""
        begin = self._next[part]
        self._next[part] = begin + count
        return self.values[begin : begin + count]


def set_moments(
    rows: Callable[[slice], FloatArray],
    sets: Sets,
    classes: int,
    work: Buffers,
    values: Values | None = None,
) -> tuple[Moments, IntArray, IntArray]:
    """Return the moments of the parts of all sets, and collect the values of their pairs.

    Parameters
    ----------
    rows : callable
        Gives the log-probabilities of the rows at some places of ``sets.order``.
    sets : Sets
        See there.
    classes : int
        Number of columns.
    work : Buffers
        Scratch memory.
    values : Values, optional
        Where the pairs' values go.

    Returns
    -------
    Moments, (m,) int array, (m,) int array
        Of the parts that have rows; the set and the part of each.
    """
    parts = 2 if sets.halved else 1
    count = len(sets.sizes)
    result = Moments(
        np.stack([sets.first, sets.sizes - sets.first], axis=1)[:, :parts].astype(np.float64),
        np.empty((count, parts, classes)),
        np.empty((count, parts, classes)),
        np.empty((count, parts)),
        np.empty((count, parts)),
    )
    for begin, end, batch in _batches(rows, sets, classes, work, factors=values is not None):
        batch.moments(result, slice(begin, end))
        if values is not None and batch.rows > 1:
            batch.pair_values(sets.pairs(begin, end), values)
    chosen, part = np.nonzero(result.count > 0)
    return result[chosen, part], chosen, part


def set_values(
    rows: Callable[[slice], FloatArray], sets: Sets, classes: int, work: Buffers, values: Values
) -> None:
    """Collect the values of the pairs of all sets; parameters as `set_moments`."""
    for begin, end, batch in _batches(rows, sets, classes, work, factors=True):
        if batch.rows > 1:
            batch.pair_values(sets.pairs(begin, end), values)


def _batches(
    rows: Callable[[slice], FloatArray], sets: Sets, classes: int, work: Buffers, *, factors: bool
) -> Iterator[tuple[int, int, _Batch]]:
    """Yield (first, last + 1) of equally large sets and their rows; the next reuse the memory."""
    for begin, end in sets.batches(classes):
        block = rows(slice(int(sets.starts[begin]), int(sets.starts[end])))
        block = block.reshape(end - begin, int(sets.sizes[begin]), classes)
        halves = sets.halves(begin, end, block.dtype)
        yield begin, end, _Batch(block, halves, work, factors=factors)


class _Batch:
    """(sets, rows, classes) log-probabilities around the centres of their parts."""

    def __init__(self, block: FloatArray, halves: Halves, work: Buffers, *, factors: bool) -> None:
        self.block, self.halves, self.work = block, halves, work
        self.sets, self.rows, self.classes = block.shape
        self.kind = block.dtype
        self.weight = halves.weight.astype(self.kind, copy=False)
        # Any centre will do. Below the clamp, where the rows' probabilities change no sum, it
        # keeps products with them from becoming denormal numbers.
        self.centre = np.maximum(self.weight @ block, CLAMP)
        # The factors of the product in `_fill`, with room for four more columns.
        wide = (self.sets, self.rows, self.classes + 4 * factors)
        self.left, self.right = (self._scratch(name, *wide) for name in ("left", "right"))
        moved, apart = (factor[..., : self.classes] for factor in (self.left, self.right))
        self.distance = np.subtract(block, self._each(self.centre), out=apart)
        self.growth = np.expm1(self.distance, out=self._like_block("growth"))
        scale = np.exp(self.centre.astype(np.float64)).astype(self.kind)
        #: P less that at the centre.
        self.moved = np.multiply(self.growth, self._each(scale), out=moved)
        #: Each row's distance from its centre, twice its symmetric KL.
        self.own: FloatArray = np.einsum("sik,sik->si", self.moved, self.distance)

    def _scratch(self, name: str, *shape: int) -> FloatArray:
        return self.work(f"{name} {self.kind.char}", *shape, dtype=self.kind)

    def _like_block(self, name: str) -> FloatArray:
        return self._scratch(name, *self.block.shape)

    def _each(self, of_parts: FloatArray) -> FloatArray:
        """Return for every row what belongs to its part."""
        if of_parts.shape[1] == 1:
            return of_parts
        result = self._like_block("of the part")
        flat = of_parts.reshape(-1, self.classes)
        np.take(flat, self.halves.part, axis=0, out=result.reshape(-1, self.classes), mode="clip")
        return result

    def moments(self, result: Moments, place: slice) -> None:
        """Fill in the moments of the parts."""
        weight = self.weight
        grown, moved = (
            (weight @ values).astype(np.float64) for values in (self.growth, self.distance)
        )
        own = np.einsum("spi,si->sp", weight, self.own, dtype=np.float64)
        risen = np.log1p(np.maximum(grown, _NOTHING))
        scale = np.exp(self.centre.astype(np.float64))
        result.log_mean[place] = self.centre + risen
        result.mean_log[place] = self.centre + moved
        result.kl[place] = own - np.einsum("spk,spk->sp", scale, grown * moved)
        result.js[place] = own + np.einsum("spk,spk->sp", scale, moved - (1.0 + grown) * risen)

    def _complete(self) -> None:
        r"""Fill in the factors' last columns.

        With ``P_i = g + l_i`` and ``L_i = a + r_i`` around the centres of a part, a pair
        inside it has ``½(l_i − l_j)(r_i − r_j)``; one with a row in each part, where the
        centres differ by Γ and Δ, ``½(l_i − l_j + Γ)(r_i − r_j + Δ)``. Four more columns
        put all of this but ``−½(l_i r_j + l_j r_i)`` into the product itself.
        """
        left, right, own = self.left, self.right, self.own
        centre = self.centre.astype(np.float64)
        left[..., -4], left[..., -3] = -0.5 * own, 1.0
        right[..., -4], right[..., -3] = 1.0, -0.5 * own
        if centre.shape[1] == 1:
            left[..., -2:] = right[..., -2:] = 0.0
            return
        gap = np.exp(centre[:, 1]) * np.expm1(centre[:, 0] - centre[:, 1])
        step = centre[:, 0] - centre[:, 1]
        tilt = (self.moved @ step[:, :, None].astype(self.kind))[..., 0]
        tilt += (self.distance @ gap[:, :, None].astype(self.kind))[..., 0]
        half = (0.5 * np.einsum("sk,sk->s", gap, step)).astype(self.kind)[:, None]
        in_first = self.halves.in_first
        left[..., -2] = np.where(in_first, -(half + tilt), 0.0)
        left[..., -1] = in_first
        right[..., -2] = ~in_first
        right[..., -1] = np.where(in_first, 0.0, tilt - half)

    def pair_values(self, pairs: Pairs, values: Values) -> None:
        """Collect the values of all pairs."""
        self._fill(pairs, [values.room(part, count) for part, count in enumerate(pairs.counts)])

    def _fill(self, pairs: Pairs, rooms: list[FloatArray], *, last: bool = False) -> None:
        self._complete()
        own = _SAFE[self.kind] * self.own
        square = (self.sets, self.rows, self.rows)
        gram = np.matmul(
            self.left, self.right.transpose(0, 2, 1), out=self._scratch("gram", *square)
        )
        # Rows of different parts that lie close together lie far from their own centres, too.
        limit = np.add(own[:, :, None], own[:, None, :], out=self._scratch("limit", *square))
        done, close, places = 0, [], []
        for room, count in zip(rooms, pairs.counts, strict=True):
            upper, lower = (p[done : done + count] for p in (pairs.upper, pairs.lower))
            done += count
            if not count:
                continue
            found = room if room.dtype == self.kind else self._scratch("found", count)
            np.take(gram.reshape(-1), upper, out=found, mode="clip")
            found += self._taken(gram, lower)
            found *= -0.5
            near = np.flatnonzero(found < self._taken(limit, upper))
            if found is not room:
                room[:] = found
            close.append((room, near))
            places.append(upper[near])
        doubtful = np.concatenate([*places, pairs.upper[:0]])
        if not last and self.kind != np.float64 and len(doubtful) > _MANY * done:
            block = self.block.astype(np.float64)
            _Batch(block, self.halves, self.work, factors=True)._fill(pairs, rooms, last=True)
        elif len(doubtful):
            exact, start = self._direct(doubtful), 0
            for room, near in close:
                room[near] = exact[start : start + len(near)]
                start += len(near)

    def _taken(self, matrix: FloatArray, places: IntArray) -> FloatArray:
        out = self._scratch("taken", len(places))
        return np.take(matrix.reshape(-1), places, out=out, mode="clip")

    def _direct(self, places: IntArray) -> FloatArray:
        """Return ``½ Σ_k (P_ik − P_jk)(L_ik − L_jk)`` of pairs at flat places, term by term."""
        one, j = np.divmod(places, self.rows)
        other = one // self.rows * self.rows + j
        block = self.block.reshape(-1, self.classes)
        result = np.empty(len(places), dtype=self.kind)
        for start in range(0, len(places), _ROWS):
            i, j = one[start : start + _ROWS], other[start : start + _ROWS]
            apart = self.work.rows(block, i, f"apart {self.kind.char}", double=False)
            base = self.work.rows(block, j, f"base {self.kind.char}", double=False)
            moved = self._scratch("moved", *apart.shape)
            np.maximum(apart, CLAMP, out=moved)
            apart -= base
            np.maximum(base, CLAMP, out=base)
            moved -= base
            np.expm1(moved, out=moved)
            np.exp(base, out=base)
            moved *= base
            # no term is negative: the modulus only turns -0.0 into 0.0
            result[start : start + _ROWS] = np.abs(0.5 * np.einsum("mk,mk->m", moved, apart))
        return result
