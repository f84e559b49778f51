"""Collects the instances of an equivalence and sums them up."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomdiag.metrics import _orbits
from geomdiag.metrics._batches import Values, set_moments, set_values
from geomdiag.metrics._buffers import Buffers
from geomdiag.metrics._distances import Distances
from geomdiag.metrics._quantiles import Weighted
from geomdiag.metrics._sets import (
    LARGEST,
    Groups,
    Layout,
    layout_of,
    listed_once,
    pair_counts,
    runs,
)
from geomdiag.metrics._summary import PARTS, STATISTICS, Tally, ViolationSummary
from geomdiag.metrics.divergence import CLAMP

__all__ = ["Instances"]

IntArray = NDArray[np.int64]

_PAIRS = 256  # listed pairs worked on at once
_KEPT = threading.local()  # scratch memory, a few MB: to map it anew each time costs a tenth


class Instances:
    """One measurement under way: collects instances, then sums them up."""

    def __init__(
        self,
        log_p: NDArray[Any],
        aligned: tuple[IntArray, IntArray] | None,
        heldout: NDArray[np.bool_] | None,
        statistics: tuple[str, ...],
        max_pairs: int,
        seed: int,
        shared: dict[object, Any],
    ) -> None:
        self.log_p = log_p
        self.aligned = aligned
        self.heldout = heldout
        self.statistics = statistics
        self.distributed = any(STATISTICS[s] is not None for s in statistics)
        self.max_pairs = max_pairs
        self.seed = seed
        self.shared = shared
        self.sampled = False
        if not hasattr(_KEPT, "work"):
            _KEPT.work = Buffers()
        self.work: Buffers = _KEPT.work
        self.all = Tally()
        self.js = Tally()
        self.parts = {part: Tally() for part in PARTS}

    def rows(self, index: IntArray, name: str) -> NDArray[Any]:
        """Return aligned rows of a few inputs, in scratch memory."""
        block = self.work.rows(self.log_p, index, name, double=False)
        if self.aligned is None:
            return block
        alignment, relabelling = self.aligned
        result: NDArray[Any] = np.take_along_axis(block, relabelling[alignment[index]], axis=1)
        return result

    def add_orbits(self, labels: IntArray) -> None:
        """Collect every ordered pair inside each orbit."""
        if not (labels >= 0).any():
            return
        layout = layout_of(labels, self.aligned[0] if self.aligned else None, self.heldout)
        squares = float((layout.sizes.astype(np.float64) ** 2).sum())
        values = None
        looked_at = self.distributed and self.aligned is None and squares <= self.max_pairs
        if looked_at and layout.sizes.max() <= LARGEST:  # then every orbit is one piece
            pieces = layout.pieces
            values = Values(pair_counts(pieces.sizes, pieces.first), self.log_p.dtype, self.work)
        moments = self._pooled(layout, values)
        weight = layout.sizes.astype(np.float64) ** 2
        self.all.total += float(weight @ moments.kl)
        self.all.instances += int(weight.sum())
        # Rounding, in single precision a few 1e-6 of sure answers, must not pass the bounds.
        most = np.log(np.minimum(layout.sizes, self.log_p.shape[1]))
        js = np.clip(moments.js, 0.0, most)
        self.js.total += float(weight @ js)
        self.js.instances += int(weight.sum())
        self.js.values.append(Weighted(js, weight))
        self.all.zeros += float(layout.sizes.sum())
        if self.heldout is not None:
            first, rest = layout.first, layout.sizes - layout.first
            for name, number, same in (
                ("train", first**2, first),
                ("heldout", rest**2, rest),
                ("mixed", 2 * first * rest, 0 * rest),
            ):
                self.parts[name].instances += int(number.sum())
                self.parts[name].zeros += float(same.sum())
        if values is not None:
            self._store(values, np.ones(1))
        elif self.distributed:
            self._look_at_pairs(layout, squares)

    def _pooled(self, layout: Layout, values: Values | None) -> _orbits.Moments:
        """Return the orbits' moments from those of rows with one alignment and one part."""
        pieces = layout.pieces
        found = self.shared.get(pieces.key) if values is None else None
        if found is None:
            found = set_moments(
                lambda place: self.work.rows(
                    self.log_p, pieces.order[place], "block", double=False
                ),
                pieces,
                self.log_p.shape[1],
                self.work,
                values,
            )
            self.shared[pieces.key] = found
        cells, piece, part = found
        if self.aligned is not None:
            cells = cells.relabelled(self.aligned[1][layout.alignment[piece]])
        orbit = layout.orbit[piece]
        order = np.lexsort([part, orbit])
        cells, orbit, part = cells[order], orbit[order], part[order]
        halves = runs(orbit, part)
        by_part = _orbits.pool(cells, halves)
        orbit, part = orbit[halves[:-1]], part[halves[:-1]]
        if self.heldout is not None:
            for name, chosen in (("train", by_part[part == 0]), ("heldout", by_part[part == 1])):
                self.parts[name].total += float(chosen.count**2 @ chosen.kl)
            both = np.flatnonzero(orbit[1:] == orbit[:-1])
            one, other = by_part[both], by_part[both + 1]
            self.parts["mixed"].total += float(
                2.0 * (one.count * other.count) @ _orbits.between(one, other)
            )
        return _orbits.pool(by_part, runs(orbit))

    def _look_at_pairs(self, layout: Layout, squares: float) -> None:
        """Collect the values of pairs one by one, of all rows or of a subset of each orbit."""
        self.sampled |= squares > self.max_pairs
        groups = layout.groups(self.max_pairs, self.seed)
        sets = groups.sets
        if sets.sizes.max(initial=0) > LARGEST:
            distances, work = Distances(sets.sizes, sets.first), Buffers()
            for begin, end in zip(sets.starts[:-1], sets.starts[1:], strict=True):
                rows = self.rows(sets.order[begin:end], "block").astype(np.float64)
                distances.add(_orbits.centred(rows, work))
            self._store(distances, groups.weights)
            return
        values = Values(pair_counts(sets.sizes, sets.first), self.log_p.dtype, self.work)
        set_values(
            lambda place: self._group_rows(groups, place),
            sets,
            self.log_p.shape[1],
            self.work,
            values,
        )
        self._store(values, groups.weights)

    def _group_rows(self, groups: Groups, place: slice) -> NDArray[Any]:
        rows = groups.sets.order[place]
        if self.aligned is None:
            return self.work.rows(self.log_p, rows, "block", double=False)
        alignment, relabelling = self.aligned
        columns = groups.columns(place, alignment, relabelling)
        out = self.work("block", *columns.shape, dtype=self.log_p.dtype)
        return np.take(self.log_p.reshape(-1), columns, out=out, mode="clip")

    def _store(self, values: Values, weights: NDArray[np.float64]) -> None:
        """Hand the collected pairs to the tallies; each stands for both of its orders."""
        groups = Weighted(values.values, 2.0).split(values.begin)
        for part, (name, group) in enumerate(zip(PARTS, groups, strict=True)):
            if (weights != weights[0]).any():
                group.weight = 2.0 * np.repeat(weights, values.counts[:, part])
            else:
                group.weight = 2.0 * float(weights[0])
            self.all.values.append(group)
            if self.heldout is not None:
                self.parts[name].values.append(group)

    def add_pairs(self, pairs: IntArray) -> None:
        """Collect listed pairs: both orders, and repetitions, are computed once."""
        if not len(pairs):
            return
        n = len(self.log_p)
        if pairs.min() < 0 or pairs.max() >= n:
            raise ValueError(
                f"pairs name rows {pairs.min()} to {pairs.max()}; expected 0 to {n - 1}"
            )
        codes, counts = listed_once(pairs, n)
        low, high = np.divmod(codes, n)
        kl, js = np.zeros(len(codes)), np.zeros(len(codes))
        same = np.flatnonzero(low == high)
        broken = np.isnan(np.take(self.log_p, low[same], axis=0)).any(axis=1)
        kl[same[broken]] = js[same[broken]] = np.nan
        differ = np.flatnonzero(low != high)
        for start in range(0, len(differ), _PAIRS):
            block = differ[start : start + _PAIRS]
            kl[block], js[block] = _both(
                self.rows(low[block], "first"), self.rows(high[block], "second"), self.work
            )
        weight = counts.astype(np.float64)
        for tally, values in ((self.all, kl), (self.js, np.clip(js, 0.0, np.log(2.0)))):
            tally.total += float(weight @ values)
            tally.instances += int(counts.sum())
            tally.values.append(Weighted(values, weight))
        if self.heldout is not None:
            held = self.heldout[low].astype(int) + self.heldout[high]
            for name, code in (("train", 0), ("heldout", 2), ("mixed", 1)):
                chosen = held == code
                tally = self.parts[name]
                tally.total += float(weight[chosen] @ kl[chosen])
                tally.instances += int(counts[chosen].sum())
                tally.values.append(Weighted(kl[chosen], weight[chosen]))

    def summary(self) -> ViolationSummary:
        """Return what was collected."""
        return ViolationSummary(
            kl=self.all.summary(self.statistics),
            js=self.js.summary(self.statistics),
            instances=self.all.instances,
            exact={s: s == "mean" or not self.sampled for s in self.statistics},
            by_part=None
            if self.heldout is None
            else {
                part: {**tally.summary(self.statistics), "instances": float(tally.instances)}
                for part, tally in self.parts.items()
            },
        )


def _both(
    first: NDArray[Any], second: NDArray[Any], work: Buffers
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return `symmetric_kl` and `jensen_shannon` of rows in scratch memory, which it spends.

    With ``d = |log p − log q|`` and ``e = expm1(d)``: ``|p − q| = min(p, q)·e`` and
    ``(p − q)²/4pq = e²/4(1 + e)``, in which nothing cancels. In the rows' own precision.
    """
    shape, kind = first.shape, first.dtype
    moved, grown, least, gap = (
        work(name, *shape, dtype=kind) for name in ("moved", "grown", "least", "gap")
    )
    clamped = not (first.min() >= CLAMP and second.min() >= CLAMP)
    if clamped:
        apart = np.subtract(first, second, out=work("apart", *shape, dtype=kind))
        np.abs(apart, out=apart)
        np.maximum(first, CLAMP, out=first)
        np.maximum(second, CLAMP, out=second)
    np.subtract(first, second, out=moved)
    np.abs(moved, out=moved)
    np.expm1(moved, out=grown)
    np.minimum(first, second, out=least)
    np.exp(least, out=least)
    np.multiply(least, grown, out=gap)
    both = 0.5 * np.einsum("mk,mk->m", gap, moved).astype(np.float64)
    kl = 0.5 * np.einsum("mk,mk->m", gap, apart).astype(np.float64) if clamped else both
    np.add(grown, 1.0, out=moved)
    np.divide(grown, moved, out=moved)
    moved *= grown
    moved *= 0.25
    np.log1p(moved, out=moved)  # 2 log cosh(d/2)
    gap *= 0.5
    least += gap  # the mean of p and q
    half = 0.5 * np.einsum("mk,mk->m", least, moved).astype(np.float64)
    return kl, 0.5 * both - half
