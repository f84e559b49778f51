"""The Pontryagin dual of a finite abelian group: its characters, and what they tell apart."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geomdiag.errors import TaskError
from geomdiag.tasks.contract import FloatArray, IntArray, Task
from geomdiag.tasks.families import TASKS, task
from geomdiag.tasks.groups.finite import FiniteGroup
from geomdiag.tasks.groups.named import cyclic, finite_group
from geomdiag.tasks.groups.tables import group_from_table

__all__ = ["Dual", "dual"]

#: A character: its residues, or its label such as ``"k=1,2"``; for a cyclic group one number.
Frequency = int | str | Sequence[int]


@dataclass(frozen=True, eq=False)
class Dual:
    """All characters χ_k(x) = exp(2πi Σ_j k_j·x_j / n_j) of Z_n1 × ... × Z_nr.

    They multiply to a group of the same shape, the dual group; character number i has the
    residues ``frequencies[i]``, so that the dual is shown on a grid of shape `periods`.

    Attributes
    ----------
    group : FiniteGroup
        The abelian group the characters are functions on.
    """

    group: FiniteGroup

    @property
    def periods(self) -> tuple[int, ...]:
        """Shape of the dual grid: orders of the group's cyclic factors."""
        return self.group.periods

    @cached_property
    def frequencies(self) -> IntArray:
        """Residues k of every character, (m, axes), in lexicographic order."""
        grid = np.indices(self.periods, dtype=np.int64)
        return grid.reshape(len(self.periods), -1).T.copy()

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Label of every character, such as ``"k=1,2"``."""
        return tuple("k=" + ",".join(map(str, k)) for k in self.frequencies.tolist())

    @cached_property
    def orders(self) -> IntArray:
        """Order of every character, (m,): how many values it takes."""
        periods = np.array(self.periods)
        each = periods // np.gcd(self.frequencies, periods)
        return np.asarray(np.lcm.reduce(each, axis=1), dtype=np.int64)

    @cached_property
    def conjugates(self) -> IntArray:
        """Number of the complex conjugate of every character, (m,): that of -k."""
        mirrored = -self.frequencies % np.array(self.periods)
        return np.asarray(np.ravel_multi_index(tuple(mirrored.T), self.periods), dtype=np.int64)

    @cached_property
    def blocks(self) -> IntArray:
        """Block of the group's harmonic basis that every character is part of, (m,)."""
        smaller = np.minimum(np.arange(len(self.conjugates)), self.conjugates)
        return np.asarray(np.unique(smaller, return_inverse=True)[1], dtype=np.int64)

    @property
    def coordinates(self) -> IntArray:
        """Residues x of every element of the group, (m, axes)."""
        if self.group.coordinates is None:
            raise TaskError(f"{self.group.name}: the group says no coordinates of its elements.")
        return self.group.coordinates

    def on_grid(self, values: ArrayLike) -> FloatArray:
        """Return what belongs to each block of the harmonic basis, laid out on the dual grid.

        Parameters
        ----------
        values : (..., blocks) or (..., blocks - 1) array
            One value a block, such as the result variable ``power`` along ``block``; without the
            trivial block its place holds NaN.

        Returns
        -------
        (..., n1, ..., nr) float array
            Both characters of a conjugate pair carry the value of their block.

        Raises
        ------
        TaskError
            If there are more or fewer values than blocks.
        """
        given = np.asarray(values, dtype=np.float64)
        blocks = int(self.blocks.max()) + 1
        if not given.ndim or given.shape[-1] not in (blocks - 1, blocks):
            raise TaskError(
                f"{self.group.name}: its dual has {blocks} blocks, the trivial one included; "
                f"expected as many values along the last axis, or one less, found the shape "
                f"{given.shape}."
            )
        if given.shape[-1] < blocks:
            trivial = np.full((*given.shape[:-1], 1), np.nan)
            given = np.concatenate([trivial, given], axis=-1)
        grid: FloatArray = given[..., self.blocks].reshape(*given.shape[:-1], *self.periods)
        return grid

    def phases(self, frequencies: Frequency | Sequence[Frequency]) -> FloatArray:
        """Return the angles of characters at every element.

        Parameters
        ----------
        frequencies : character or sequence of characters
            See `generates`.

        Returns
        -------
        (r, m) float array
            Radians in [0, 2π): χ = exp(i·phase).
        """
        turns, common = self._turns(frequencies)
        phases: FloatArray = 2 * np.pi * turns / common
        return phases

    def values(self, frequencies: Frequency | Sequence[Frequency]) -> NDArray[np.complex128]:
        """Return characters at every element, (r, m) complex; see `generates`."""
        return np.asarray(np.exp(1j * self.phases(frequencies)))

    def kernel(self, frequencies: Frequency | Sequence[Frequency]) -> IntArray:
        """Return the elements that every one of the characters sends to 1.

        Two elements have the same values under all of them exactly when they differ by one of
        these.

        Parameters
        ----------
        frequencies : character or sequence of characters
            See `generates`.

        Returns
        -------
        (q,) int array
            A subgroup, in ascending numbers.
        """
        turns, _ = self._turns(frequencies)
        return np.asarray(np.flatnonzero((turns == 0).all(axis=0)), dtype=np.int64)

    def generates(self, frequencies: Frequency | Sequence[Frequency]) -> bool:
        """Return whether characters generate the dual group.

        Equivalently: no element but the identity is sent to 1 by all of them, and the embedding
        x ↦ (χ_1(x), ..., χ_r(x)) tells all elements apart. For Z_n: gcd(k_1, ..., k_r, n) = 1.
        Decided in whole numbers.

        Parameters
        ----------
        frequencies : character or sequence of characters
            Each a tuple of residues, one an axis, taken modulo the periods; a whole number if
            there is one axis; or a label such as ``"k=1,2"``. A flat sequence of numbers is
            several characters of a cyclic group, one character of a product.

        Returns
        -------
        bool

        Raises
        ------
        TaskError
            If a frequency has another number of axes, or is none.

        References
        ----------
        arXiv:2603.01968, Proposition 7.1.
        """
        return len(self.kernel(frequencies)) == 1

    def _turns(self, frequencies: Frequency | Sequence[Frequency]) -> tuple[IntArray, int]:
        """Return how many of `common` parts of a full turn each character makes, (r, m)."""
        chosen = self._parsed(frequencies)
        common = math.lcm(*self.periods)
        weights = common // np.array(self.periods)
        turns = (chosen * weights) @ self.coordinates.T % common
        return np.asarray(turns, dtype=np.int64), common

    def _parsed(self, frequencies: Frequency | Sequence[Frequency]) -> IntArray:
        """Return characters as residues, (r, axes)."""
        axes = len(self.periods)
        if isinstance(frequencies, np.ndarray):
            frequencies = frequencies.tolist()
        if isinstance(frequencies, str | int | np.integer):
            listed: list[object] = [frequencies]
        else:
            listed = list(frequencies)
            if axes > 1 and listed and all(isinstance(k, int | np.integer) for k in listed):
                listed = [tuple(listed)]
        chosen = np.empty((len(listed), axes), dtype=np.int64)
        for row, frequency in enumerate(listed):
            said = frequency
            if isinstance(said, str):
                found = re.fullmatch(r"(?:k=)?(-?[0-9]{1,9}(?:,-?[0-9]{1,9})*)", said.strip())
                said = [int(k) for k in found[1].split(",")] if found else None
            if isinstance(said, int | np.integer) and not isinstance(said, bool):
                said = [said]
            if (
                not isinstance(said, Sequence | np.ndarray)
                or len(said) != axes
                or not all(isinstance(k, int | np.integer) for k in said)
            ):
                raise TaskError(
                    f"{frequency!r} is no character of {self.group.name}: expected {axes} whole "
                    f"number{'s' if axes > 1 else ''}, such as {self.labels[-1]!r} or "
                    f"{tuple(self.frequencies[-1].tolist())}."
                )
            chosen[row] = [int(k) % n for k, n in zip(said, self.periods, strict=True)]
        return chosen

    def __repr__(self) -> str:
        return f"<Dual of {self.group.name}: {self.group.order} characters>"


def dual(group: str | Task | FiniteGroup) -> Dual:
    """Return the Pontryagin dual of a finite abelian group.

    Parameters
    ----------
    group : str, Task or FiniteGroup
        A group's name such as ``"Z6xZ10"`` or the path of its Cayley table; a task whose inputs
        and answers share a group, or its specification, such as ``"modadd:p=113"``. Element i
        is then what the task's `LogitGroup` calls i: for `modmul` a power of the generator.

    Returns
    -------
    Dual

    Raises
    ------
    TaskError
        If the group is not abelian, or the task has none.

    Examples
    --------
    >>> dual("Z6xZ10").generates([(1, 0), (0, 1)])
    True
    >>> dual("Z12").generates([4, 6])
    False
    """
    found = group if isinstance(group, FiniteGroup) else _group_of(group)
    if not found.is_abelian:
        raise TaskError(
            f"{found.name} is not abelian: its characters alone do not tell its elements apart, "
            "and there is no dual group. Its irreducible representations take their place: "
            "geomdiag.irreps(group), and the blocks of the task's basis."
        )
    if found.coordinates is None:  # an abelian group that was not built as one
        found = group_from_table(found.table, name=found.name)
    return Dual(found)


def _group_of(spec: str | Task) -> FiniteGroup:
    """Return the group of a task or of a name."""
    if isinstance(spec, str) and ":" not in spec and spec not in TASKS:
        return finite_group(spec)
    made = task(spec)
    own = getattr(made, "group", None)
    if isinstance(own, FiniteGroup):
        return own
    shared = made.logit_group
    if shared is None:
        raise TaskError(
            f"the inputs and answers of {made.name} share no group, so there is no dual. Name a "
            "group, such as 'Z113', or a task over one."
        )
    if shared.table is None:
        return cyclic(shared.order)
    return group_from_table(shared.table, name=made.name)
