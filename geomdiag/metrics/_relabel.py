"""What the spectrum of a matrix becomes when its tokens are relabelled at random."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

__all__ = [
    "Relabellings",
    "cyclic_orders_powers",
    "cyclic_powers",
    "random_permutations",
    "relabelled_powers",
]

FloatArray = NDArray[np.float64]

_COLUMN = 0.02  # cost of a component, in units of looking up all inner products
_AT_ONCE = 65_536  # entries worked on at once
_ROUNDING = 1e-4  # single precision, with a wide margin


@lru_cache(maxsize=4)
def random_permutations(size: int, count: int, seed: int) -> NDArray[np.int64]:
    """Return `count` uniform permutations of ``range(size)``, (count, size), read-only."""
    keys = np.random.default_rng(seed).random((count, size))
    permutations = np.argsort(keys, axis=1)
    permutations.flags.writeable = False
    return permutations


@lru_cache(maxsize=8)
def _transform(order: int) -> FloatArray:
    """Return the (lags, blocks) matrix from cyclic autocorrelations to block powers."""
    half = order // 2
    lags, blocks = np.arange(half + 1), np.arange(half + 1)
    table = np.cos(2 * np.pi * np.outer(lags, blocks) / order)
    single = (lags == 0) | (2 * lags == order)
    table *= np.where(single, 1.0, 2.0)[:, None]
    paired = np.where((blocks == 0) | (2 * blocks == order), 1.0, 2.0)
    return np.asarray(table * paired / order)


def cyclic_powers(gram: FloatArray) -> FloatArray:
    """Return the power in each block k = 0 ... m//2 of tokens in cyclic order.

    Parameters
    ----------
    gram : (m, m) float array
        Inner products of the rows, in the group's order.

    Returns
    -------
    (m // 2 + 1,) float array
        ``‖Σ_x exp(-2πikx/m) A_x‖² / m`` with k and -k joined; the sum is ``‖A‖_F²``.
    """
    powers = cyclic_orders_powers(gram, np.arange(len(gram))[None])
    return np.asarray(powers[0])


def relabelled_powers(gram: FloatArray, permutations: int = 999, seed: int = 0) -> FloatArray:
    """Return the block powers of `permutations` random relabellings of cyclic tokens.

    The power of a block depends on the rows through their inner products only, so that
    one relabelling costs m²/2 look-ups whatever the number of columns.

    Parameters
    ----------
    gram : (m, m) float array
        Inner products of the (centred) rows.
    permutations : int
        Number of relabellings.
    seed : int
        Of the permutations; the same for the same (m, permutations, seed).

    Returns
    -------
    (permutations, m // 2 + 1) float array
        As `cyclic_powers`, one row a relabelling.
    """
    return cyclic_orders_powers(gram, random_permutations(len(gram), permutations, seed))


def cyclic_orders_powers(gram: FloatArray, orders: NDArray[np.int64]) -> FloatArray:
    """Return the block powers with the rows taken in each of the given cyclic orders.

    Parameters
    ----------
    gram : (m, m) float array
        Inner products of the (centred) rows.
    orders : (n, m) int array
        Permutations of the rows.

    Returns
    -------
    (n, m // 2 + 1) float array
        As `cyclic_powers`, one row an order.
    """
    order = len(gram)
    half = order // 2
    flat = np.ascontiguousarray(gram, dtype=np.float64).ravel()
    lagged = np.empty((len(orders), half + 1))
    lagged[:, 0] = np.trace(gram)
    if half:
        start_of_row = orders[:, :, None] * order
        wrapped = np.concatenate([orders, orders[:, :half]], axis=1)[:, 1:]
        following = sliding_window_view(wrapped, half, axis=1)  # the next tokens of each
        # Blocks small enough to stay in cache: the look-ups are all the work there is.
        step = max(1, 32_768 // (order * half))
        ones = np.ones(order)
        for start in range(0, len(orders), step):
            part = slice(start, start + step)
            index = start_of_row[part] + following[part]
            lagged[part, 1:] = ones @ flat.take(index, mode="clip")
    return np.asarray(lagged @ _transform(order))


@lru_cache(maxsize=4)
def _waves(order: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the orthonormal non-trivial waves over half a period.

    Cosines (half, half + 1) act on token 0 and the sums of the tokens at ±j, sines
    ((order - 1) // 2 square) on their differences: half the work of waves over all tokens.
    """
    half, pairs = order // 2, (order - 1) // 2
    angles = 2 * np.pi * (np.outer(np.arange(1, half + 1), np.arange(half + 1)) % order) / order
    cosines, sines = np.cos(angles), np.sin(angles[:pairs, 1 : pairs + 1])
    if order % 2 == 0:
        cosines[half - 1] *= np.sqrt(0.5)
    scale = np.sqrt(2.0 / order)
    return (scale * cosines).astype(np.float32), (scale * sines).astype(np.float32)


class Relabellings:
    """Random relabellings of cyclic tokens, worked out only where they could matter.

    In the basis of its principal components a matrix's power in a block is the sum of what
    its leading components and the rest have there. A block spans two dimensions, so that in
    any c blocks together the rest has at most the sum of its 2c largest eigenvalues, however
    the tokens are relabelled. Where the leading components' power and this bound stay below
    a level, so does the power.

    Parameters
    ----------
    gram : (m, m) float array
        Inner products of the centred rows, in the group's order.
    permutations, seed : int
        As in `relabelled_powers`, whose powers these are.
    """

    def __init__(self, gram: FloatArray, permutations: int = 999, seed: int = 0) -> None:
        self.gram = gram
        self.count = permutations
        self._orders = random_permutations(len(gram), permutations, seed)
        self._powers = np.empty((permutations, len(gram) // 2 + 1))
        self._known = np.zeros(permutations, dtype=bool)
        self._used = np.zeros(permutations, dtype=np.int64)  # components in `_leading`
        self._leading = np.zeros((permutations, len(gram) // 2), dtype=np.float32)
        self._ceiling = np.full(permutations, np.inf)  # no single block holds more

    @property
    def known(self) -> int:
        """Number of relabellings whose powers were worked out in full."""
        return int(self._known.sum())

    @cached_property
    def components(self) -> tuple[FloatArray, FloatArray]:
        """Eigenvalues of the Gram matrix, largest first, and its eigenvectors."""
        values, vectors = np.linalg.eigh(self.gram)
        return np.maximum(values[::-1], 0.0), vectors[:, ::-1]

    def best(
        self, blocks: int, at_least: float, first: int = 0, last: int | None = None
    ) -> FloatArray:
        """Return the power of each relabelling's own best non-trivial blocks, together.

        Parameters
        ----------
        blocks : int
            How many blocks each may choose.
        at_least : float
            Level that matters: where the power is sure to be less, 0 stands for it.
        first, last : int
            Relabellings to look at; all of them if left out.

        Returns
        -------
        (last - first,) float array
        """
        doubtful = np.arange(first, self.count if last is None else last)
        result = np.zeros(len(doubtful))
        doubtful = doubtful[self._known[doubtful] | self._may_reach(blocks, at_least, doubtful)]
        new = doubtful[~self._known[doubtful]]
        if len(new):
            self._powers[new] = cyclic_orders_powers(self.gram, self._orders[new])
            self._known[new] = True
        result[doubtful - first] = _largest(self._powers[doubtful, 1:], blocks)
        return result

    def _may_reach(self, blocks: int, level: float, chosen: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return whether each relabelling's best blocks may hold as much power as `level`."""
        everything = blocks * self._ceiling[chosen] >= level
        result, open_ = np.zeros(len(chosen), dtype=bool), np.flatnonzero(everything)
        order = len(self.gram)
        known = self._powers[self._known, 1:]
        if len(open_) * order < _AT_ONCE or 2 * len(known) > self.count or not len(known):
            return everything  # the decomposition would cost more than it saves
        values = self.components[0]
        sums = np.concatenate([[0.0], np.cumsum(values), np.full(2 * blocks, values.sum())])
        rest = (sums[2 * blocks :] - sums[: -2 * blocks])[: order // 2]
        # How many of those at hand reach the level less the bound tells what is left to do
        # after that many components: a few for all, some more for what these leave open.
        seen = np.sort(_largest(known, blocks))
        left = 1.0 - np.searchsorted(seen, level - rest) / len(seen)
        price = _COLUMN * np.arange(len(rest))
        cost = price[:, None] + left[:, None] * (price - price[:, None]) + left
        cost[np.tril_indices(len(rest), -1)] = np.inf
        # of equal costs the last: a first stage that leaves all of them open is none
        stages = np.unravel_index(cost.size - 1 - int(np.argmin(cost.ravel()[::-1])), cost.shape)
        if cost[stages] > 0.9:
            return everything
        for components in (0, *(int(stage) for stage in stages)):
            ones = chosen[open_]
            self._take_in(ones, components)
            best = _largest(self._leading[ones], blocks)
            bound = (1.0 + _ROUNDING) * (best + rest[self._used[ones]]) + _ROUNDING * level
            if blocks == 1:
                self._ceiling[ones] = np.minimum(self._ceiling[ones], bound)
            open_ = open_[bound >= level]
        result[open_] = True
        return result

    def _take_in(self, chosen: NDArray[np.int64], components: int) -> None:
        """Add the power of further components, up to that number, in each block."""
        used = self._used[chosen]
        for first in np.unique(used[used < components]).tolist():
            self._add(chosen[used == first], slice(first, components))
        self._used[chosen] = np.maximum(used, components)

    def _add(self, chosen: NDArray[np.int64], components: slice) -> None:
        values, vectors = self.components
        order, width = len(self.gram), components.stop - components.start
        half, pairs = order // 2, (order - 1) // 2
        factor = (vectors[:, components] * np.sqrt(values[components])).astype(np.float32)
        cosines, sines = _waves(order)
        ones = np.ones(width, dtype=np.float32)
        step = max(1, 2 * _AT_ONCE // (order * width))
        for start in range(0, len(chosen), step):
            part = chosen[start : start + step]
            moved = factor.take(self._orders[part].T.ravel(), axis=0, mode="clip")
            moved = moved.reshape(order, -1)
            ahead, behind = moved[1 : pairs + 1], moved[: order - pairs - 1 : -1]
            difference = ahead - behind
            ahead += behind
            power = cosines @ moved[: half + 1]
            odd = sines @ difference
            np.multiply(power, power, out=power)
            np.multiply(odd, odd, out=odd)
            power[:pairs] += odd
            self._leading[part] += (power.reshape(-1, width) @ ones).reshape(half, -1).T


def _largest(powers: NDArray[Any], blocks: int) -> NDArray[Any]:
    """Return the sum of the largest powers of each row, (rows,)."""
    if blocks == 1:
        return np.asarray(powers.max(axis=1))
    if blocks < powers.shape[1]:
        powers = np.partition(powers, powers.shape[1] - blocks, axis=1)[:, -blocks:]
    return np.asarray(powers.sum(axis=1))
