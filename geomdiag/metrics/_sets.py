"""Sets of rows, sorted so that equally large ones can be worked on together.

What is made here depends on the task and the split alone: it is the same for every
checkpoint of a run, and kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = [
    "LARGEST",
    "Groups",
    "Halves",
    "Layout",
    "Pairs",
    "Sets",
    "layout_of",
    "listed_once",
    "pair_counts",
    "runs",
]

IntArray = NDArray[np.int64]
T = TypeVar("T")

LARGEST = 512  # rows of a set that is worked on in one piece
_ELEMENTS = 200_000  # entries worked on at once: few enough for the cache, enough for a call
_KEPT = 1_500_000  # pairs, or entries, whose places are kept for the next checkpoint
_SAMPLE = 250_000  # ordered pairs looked at where there are too many for all of them
_GROUP = 64  # rows of a group whose pairs are looked at


class _Seen(Generic[T]):
    """What was made of the last few arrays, by their contents: comparing is quicker than hashing.

    Parameters
    ----------
    size : int
        How many to keep.
    """

    def __init__(self, size: int) -> None:
        self._kept: deque[tuple[tuple[IntArray, ...], T]] = deque(maxlen=size)

    def get(self, arrays: tuple[IntArray, ...], make: Callable[[], T]) -> T:
        """Return what `make` gave for equal arrays, or gives now."""
        for known, found in tuple(self._kept):  # other threads may add to it
            if all(map(np.array_equal, known, arrays)):
                return found
        made = make()
        self._kept.append((tuple(array.copy() for array in arrays), made))
        return made


def runs(*keys: NDArray[np.generic]) -> IntArray:
    """Return where runs of equal keys begin, and the end: (runs + 1,)."""
    change = np.zeros(max(len(keys[0]) - 1, 0), dtype=bool)
    for key in keys:
        change |= key[1:] != key[:-1]
    return np.concatenate([[0], np.flatnonzero(change) + 1, [len(keys[0])]]).astype(np.int64)


def pair_counts(sizes: IntArray, first: IntArray) -> IntArray:
    """Return the pairs inside the first part, inside the rest, and one row in each: (sets, 3)."""
    rest = sizes - first
    return np.stack([first * (first - 1) // 2, rest * (rest - 1) // 2, first * rest], axis=1)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Places, in the (sets, rows, rows) matrices of a batch, of all pairs i < j.

    Attributes
    ----------
    upper, lower : (pairs,) int array
        Flat places of (i, j) and of (j, i): pairs inside the first part, inside the second,
        and with one row in each, in this order; in those set after set.
    counts : tuple of 3 int
        Pairs of each kind.
    """

    upper: IntArray
    lower: IntArray
    counts: tuple[int, int, int]


class Halves(NamedTuple):
    """Which rows of a batch belong to which part.

    Attributes
    ----------
    in_first : (sets, rows) bool array
        Whether a row belongs to its set's first part.
    part : (sets * rows,) int array
        Place of each row's part among all parts of the batch.
    weight : (sets, parts, rows) float32 or float64 array
        Takes means over parts; 0 for a part without rows.
    """

    in_first: NDArray[np.bool_]
    part: IntArray
    weight: NDArray[Any]


class Sets:
    """Sets of rows with two parts each.

    Parameters
    ----------
    order : (n,) int array
        Rows, one set after the other, in each its first part first; smaller sets first.
    sizes, first : (sets,) int array
        Rows in each set, and in its first part.
    """

    def __init__(self, order: IntArray, sizes: IntArray, first: IntArray) -> None:
        self.order, self.sizes, self.first = order, sizes, first
        self.starts: IntArray = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.halved = bool((first < sizes).any())
        self._kept: dict[tuple[int, int], Pairs] = {}
        self._halves: dict[tuple[int, int, str], Halves] = {}

    @cached_property
    def key(self) -> tuple[bytes, bytes, bytes]:
        """Equal for sets of the same rows."""
        return self.order.tobytes(), self.sizes.tobytes(), self.first.tobytes()

    def batches(self, classes: int) -> Iterator[tuple[int, int]]:
        """Yield (first, last + 1) of equally large sets to work on together."""
        for begin, end in pairwise(runs(self.sizes).tolist()):
            if begin == end:
                continue
            step = max(1, _ELEMENTS // max(1, int(self.sizes[begin]) * classes))
            for start in range(begin, end, step):
                yield start, min(start + step, end)

    def halves(self, begin: int, end: int, kind: DTypeLike = np.float64) -> Halves:
        """Return the parts of a batch, with weights in the given precision."""
        key = begin, end, np.dtype(kind).char
        found = self._halves.get(key)
        if found is None:
            count, rows, first = end - begin, int(self.sizes[begin]), self.first[begin:end]
            in_first = np.arange(rows) < first[:, None]
            part, weight = np.zeros(0, dtype=np.int64), np.full((count, 1, rows), 1.0 / rows)
            if self.halved:
                part = (np.arange(count)[:, None] * 2 + ~in_first).ravel()
                size = np.maximum(np.stack([first, rows - first], axis=1), 1)
                weight = np.stack([in_first, ~in_first], axis=1) / size[:, :, None]
            found = self._halves[key] = Halves(in_first, part, weight.astype(kind))
        return found

    def pairs(self, begin: int, end: int) -> Pairs:
        """Return the places of the pairs of a batch."""
        found = self._kept.get((begin, end))
        if found is None:
            found = _pairs(end - begin, int(self.sizes[begin]), self.first[begin:end])
            if int((self.sizes**2).sum()) <= 2 * _KEPT:
                self._kept[begin, end] = found
        return found


def _pairs(count: int, size: int, first: IntArray) -> Pairs:
    i, j = np.triu_indices(size, 1)
    offset = (np.arange(count) * size * size)[:, None]
    upper, lower = offset + (i * size + j), offset + (j * size + i)
    wall = first[:, None]
    kind = np.where(j < wall, 0, np.where(i >= wall, 1, 2)).astype(np.uint8).ravel()
    numbers = np.bincount(kind, minlength=3)
    if numbers.max() < len(kind):
        place = np.argsort(kind, kind="stable")
        upper, lower = upper.ravel()[place], lower.ravel()[place]
    counts = int(numbers[0]), int(numbers[1]), int(numbers[2])
    return Pairs(upper.ravel().astype(np.intp), lower.ravel().astype(np.intp), counts)


class Groups:
    """Rows whose pairs are looked at one by one: whole orbits, or a sample of each.

    Attributes
    ----------
    sets : Sets
        The rows; pairs inside each.
    weights : (sets,) float array
        Pairs of the orbit that each pair stands for.
    """

    def __init__(self, sets: Sets, weights: NDArray[np.float64]) -> None:
        self.sets, self.weights = sets, weights
        self._relabelling: IntArray | None = None
        self._columns: dict[tuple[int, int], IntArray] = {}

    def columns(self, place: slice, alignment: IntArray, relabelling: IntArray) -> IntArray:
        """Return the flat places of the aligned log-probabilities of some rows."""
        if self._relabelling is None or not np.array_equal(self._relabelling, relabelling):
            self._relabelling = relabelling.copy()
            self._columns.clear()
        key = place.start, place.stop
        found = self._columns.get(key)
        if found is None:
            rows = self.sets.order[place]
            classes = relabelling.shape[1]
            found = (rows * classes)[:, None] + relabelling[alignment[rows]]
            if len(self.sets.order) * classes <= _KEPT:
                self._columns[key] = found
        return found


@dataclass(frozen=True, eq=False)
class Layout:
    """Rows by orbit, alignment and part.

    Attributes
    ----------
    order : (n,) int array
        Rows by orbit, in those by part.
    starts : (orbits + 1,) int array
        Where each orbit begins in `order`.
    sizes, first : (orbits,) int array
        Rows in each orbit, and in its first part.
    pieces : Sets
        Rows of one orbit and one alignment, cut into handy sizes.
    orbit, alignment : (pieces,) int array
        What the rows of each piece share.
    """

    order: IntArray
    starts: IntArray
    sizes: IntArray
    first: IntArray
    pieces: Sets
    orbit: IntArray
    alignment: IntArray
    _groups: dict[tuple[int, int], Groups] = field(default_factory=dict)

    def groups(self, max_pairs: int, seed: int) -> Groups:
        """Return what pairs to look at, at most about `max_pairs` ordered ones."""
        if (max_pairs, seed) not in self._groups:
            self._groups.clear()
            self._groups[max_pairs, seed] = self._sample(max_pairs, seed)
        return self._groups[max_pairs, seed]

    def _sample(self, max_pairs: int, seed: int) -> Groups:
        sizes = self.sizes
        squares = float((sizes.astype(np.float64) ** 2).sum())
        share = min(_SAMPLE, max_pairs) / squares if squares > max_pairs else 1.0
        rng = np.random.default_rng(seed)
        chosen = [_some_rows(int(size), share, rng) for size in sizes]
        groups = [(orbit, rows) for orbit, found in enumerate(chosen) for rows in found]
        # the rows of an orbit are sorted: those of the first part come first
        inside = np.array([np.count_nonzero(rows < self.first[orbit]) for orbit, rows in groups])
        seen = np.array([sum(len(rows) * (len(rows) - 1) for rows in found) for found in chosen])
        weights = np.where(seen > 0, sizes * (sizes - 1) / np.maximum(seen, 1), 1.0)
        weights = weights[[orbit for orbit, _ in groups]]
        taken = np.array([len(rows) for _, rows in groups])
        by_size = np.argsort(taken, kind="stable")
        members = [self.order[self.starts[orbit] + rows] for orbit, rows in groups]
        order = np.concatenate([members[number] for number in by_size])
        return Groups(Sets(order, taken[by_size], inside[by_size]), weights[by_size])


def _some_rows(size: int, share: float, rng: np.random.Generator) -> list[IntArray]:
    """Return groups of an orbit's rows whose pairs are about a given share of all pairs.

    Many small groups rather than one large one: a few rows far from the rest make most of
    the upper percentiles, and should be met as often as they are.
    """
    if share >= 1.0:
        return [np.arange(size)]
    wanted = size * size * share
    count = int(np.clip(max(wanted / _GROUP, np.sqrt(wanted)), min(2, size), size))
    rows = rng.permutation(size)[:count]
    return [np.sort(group) for group in np.array_split(rows, -(-count // _GROUP))]


_PAIRS_SEEN: _Seen[tuple[IntArray, IntArray]] = _Seen(6)
_LAYOUTS_SEEN: _Seen[Layout] = _Seen(6)


def listed_once(pairs: IntArray, count: int) -> tuple[IntArray, IntArray]:
    """Return the codes ``low * count + high`` of listed pairs, each once, and how often."""
    size = np.array(count)
    return _PAIRS_SEEN.get((pairs, size), lambda: _listed_once(pairs, count))


def _listed_once(both: IntArray, count: int) -> tuple[IntArray, IntArray]:
    codes, counts = np.unique(both.min(axis=1) * count + both.max(axis=1), return_counts=True)
    return codes, counts.astype(np.int64)


def layout_of(
    labels: IntArray, alignment: IntArray | None, second: NDArray[np.bool_] | None
) -> Layout:
    """Return the layout of orbits with `labels` (-1: none), remembered."""
    nothing = np.zeros(len(labels), dtype=np.int64)
    row = nothing if alignment is None else alignment.astype(np.int64)
    part = nothing if second is None else second.astype(np.int64)
    orbit = labels.astype(np.int64)
    return _LAYOUTS_SEEN.get((orbit, row, part), lambda: _layout(orbit, row, part))


def _layout(orbit: IntArray, row: IntArray, part: IntArray) -> Layout:
    members = np.flatnonzero(orbit >= 0)
    order = members[np.lexsort([row[members], part[members], orbit[members]])]
    starts = runs(orbit[order])
    sizes = np.diff(starts)

    def in_first(rows: IntArray, places: IntArray) -> IntArray:
        inside = np.concatenate([[0], np.cumsum(part[rows] == 0)])
        return np.asarray(inside[places[1:]] - inside[places[:-1]], dtype=np.int64)

    by_row = members[np.lexsort([part[members], row[members], orbit[members]])]
    borders = runs(orbit[by_row], row[by_row])
    cut = [
        np.linspace(begin, end, -(-(end - begin) // LARGEST) + 1).astype(np.int64)[:-1]
        for begin, end in pairwise(borders.tolist())
        if end > begin
    ]
    places = np.concatenate([*cut, borders[-1:]])
    widths, heads = np.diff(places), in_first(by_row, places)
    by_size = np.argsort(widths, kind="stable")
    rows = np.concatenate(
        [by_row[places[piece] : places[piece + 1]] for piece in by_size] or [by_row[:0]]
    )
    begin = by_row[places[:-1]][by_size]
    number = np.searchsorted(orbit[order[starts[:-1]]], orbit[begin]) if len(begin) else begin
    return Layout(
        order,
        starts,
        sizes,
        in_first(order, starts),
        Sets(rows, widths[by_size], heads[by_size]),
        np.asarray(number, dtype=np.int64),
        row[begin],
    )
