"""A finite group as its Cayley table, and what follows from the table alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from geomdiag.errors import TaskError
from geomdiag.tasks.contract import FloatArray, IntArray

__all__ = ["MAX_ORDER", "FiniteGroup", "cyclic_coordinates", "direct_product"]

#: Largest order of a group. A task has order² inputs, and ten million of them can be tabled.
MAX_ORDER = 3162


@dataclass(frozen=True, eq=False, kw_only=True)
class FiniteGroup:
    """A finite group whose elements are numbered 0 ... m-1.

    Attributes
    ----------
    name : str
        Canonical name, e.g. ``"Z6xZ10"``.
    table : (m, m) int array
        Cayley table: ``table[x, y]`` is the product x·y.
    elements : tuple of str
        What each element is called, e.g. ``"(0 1 2)"``; m of them.
    generators : tuple of int
        Generators whose word length is the group's metric; closed under inverses or not.
    family : {"abelian", "dihedral", "symmetric", "alternating", ""}
        How the irreducible representations are made and named; empty for anything else.
    periods : tuple of int
        For ``"abelian"``: orders of the cyclic factors. Empty otherwise.
    coordinates : (m, axes) int array or None
        For ``"abelian"``: residues of each element in those factors.
    permutations : (m, n) int array or None
        For ``"symmetric"`` and ``"alternating"``: ``permutations[x, i]`` is the image of point
        ``i``. Products act from left to right: ``x·y`` applies x first.
    """

    name: str
    table: IntArray
    elements: tuple[str, ...]
    generators: tuple[int, ...]
    family: Literal["abelian", "dihedral", "symmetric", "alternating", ""] = ""
    periods: tuple[int, ...] = ()
    coordinates: IntArray | None = None
    permutations: IntArray | None = None

    @property
    def order(self) -> int:
        """Number of elements, m."""
        return len(self.table)

    @cached_property
    def identity(self) -> int:
        """The neutral element."""
        return int(np.flatnonzero(self.table[:, 0] == 0)[0])

    @cached_property
    def inverses(self) -> IntArray:
        """Inverse of each element, (m,)."""
        return np.asarray(np.argmax(self.table == self.identity, axis=1), dtype=np.int64)

    @cached_property
    def is_abelian(self) -> bool:
        """Whether all elements commute."""
        return bool(np.array_equal(self.table, self.table.T))

    @cached_property
    def orders(self) -> IntArray:
        """Order of each element, (m,): the smallest n ≥ 1 with xⁿ = 1."""
        found = np.ones(self.order, dtype=np.int64)
        power = np.arange(self.order)
        while (open_ := power != self.identity).any():
            found[open_] += 1
            power[open_] = self.table[power[open_], np.flatnonzero(open_)]
        return found

    @cached_property
    def conjugacy_classes(self) -> IntArray:
        """Conjugacy class of each element, (m,): labels 0, 1, ... by smallest member."""
        if self.is_abelian:
            return np.arange(self.order, dtype=np.int64)
        label = np.full(self.order, -1, dtype=np.int64)
        everything = np.arange(self.order)
        for x in range(self.order):
            if label[x] < 0:
                label[self.table[self.table[everything, x], self.inverses]] = label.max() + 1
        return label

    @cached_property
    def word_length(self) -> IntArray:
        """Fewest generators and inverses of generators that multiply to each element, (m,)."""
        steps = np.unique([*self.generators, *self.inverses[list(self.generators)]]).astype(int)
        length = np.full(self.order, -1, dtype=np.int64)
        length[self.identity] = 0
        front = np.array([self.identity])
        while len(front):
            reached = np.unique(self.table[np.ix_(front, steps)])
            new = reached[length[reached] < 0]
            length[new] = length[front[0]] + 1
            front = new
        if (length < 0).any():
            raise TaskError(
                f"the generators of {self.name} reach only {(length >= 0).sum()} of its "
                f"{self.order} elements. Give generators of the whole group."
            )
        return length

    @cached_property
    def distances(self) -> FloatArray:
        """Word metric, (m, m): word length of x⁻¹·y, the distance in the Cayley graph."""
        distance: FloatArray = self.word_length[self.table[self.inverses]].astype(np.float64)
        return distance

    def __repr__(self) -> str:
        return f"<FiniteGroup {self.name}: order {self.order}>"


def direct_product(first: FiniteGroup, second: FiniteGroup) -> FiniteGroup:
    """Return the direct product of two groups.

    Element ``(x, y)`` has the number ``x·m₂ + y``. The generators are those of either factor,
    so that word lengths add.

    Parameters
    ----------
    first, second : FiniteGroup

    Returns
    -------
    FiniteGroup

    Raises
    ------
    TaskError
        If the product has more than `MAX_ORDER` elements.
    """
    m1, m2 = first.order, second.order
    name = f"{first.name}x{second.name}"
    check_order(name, m1 * m2)
    table = first.table[:, None, :, None] * m2 + second.table[None, :, None, :]
    abelian = first.family == second.family == "abelian"
    coordinates = None
    if abelian and first.coordinates is not None and second.coordinates is not None:
        coordinates = np.concatenate(
            [np.repeat(first.coordinates, m2, axis=0), np.tile(second.coordinates, (m1, 1))], axis=1
        )
    return FiniteGroup(
        name=name,
        table=table.reshape(m1 * m2, m1 * m2),
        elements=tuple(f"{a},{b}" for a in first.elements for b in second.elements),
        generators=tuple(
            [g * m2 + second.identity for g in first.generators]
            + [first.identity * m2 + g for g in second.generators]
        ),
        family="abelian" if abelian else "",
        periods=first.periods + second.periods if abelian else (),
        coordinates=coordinates,
    )


def check_order(name: str, order: int) -> None:
    """Raise a `TaskError` for a group that is too large to be tabled."""
    if order > MAX_ORDER:
        raise TaskError(
            f"the group {name} has {order} elements and {order**2} pairs of them, more than can "
            f"be tabled (at most {MAX_ORDER} elements). Take a smaller group."
        )


def cyclic_coordinates(table: IntArray) -> tuple[tuple[int, ...], IntArray]:
    """Return an abelian group as a product of cyclic groups.

    Greedily: an element of largest order among those whose powers meet what is already
    generated in the identity alone spans a direct factor (of a finite abelian group, the first
    such element spans a direct summand; in the quotient by it the argument repeats).

    Parameters
    ----------
    table : (m, m) int array
        Cayley table of an abelian group.

    Returns
    -------
    periods : tuple of int
        Orders of the factors, each dividing the one before; ``(1,)`` for the trivial group.
    coordinates : (m, axes) int array
        Residues of each element.
    """
    group = FiniteGroup(name="", table=table, elements=(), generators=())
    identity, orders = group.identity, group.orders
    members = np.array([identity])
    residues = np.zeros((1, 0), dtype=np.int64)
    periods: list[int] = []
    while len(members) < group.order:
        inside = np.zeros(group.order, dtype=bool)
        inside[members] = True
        inside[identity] = False
        powers = np.arange(group.order)
        free = ~inside
        free[identity] = False
        for _ in range(int(orders.max()) - 1):  # no power of the element lies inside
            powers = table[powers, np.arange(group.order)]
            free &= ~inside[powers]
        chosen = int(np.argmax(np.where(free, orders, 0)))
        period = int(orders[chosen])
        cosets = [members]
        for _ in range(period - 1):
            cosets.append(table[cosets[-1], chosen])
        residues = np.concatenate(
            [
                np.tile(residues, (period, 1)),
                np.repeat(np.arange(period), len(members))[:, None],
            ],
            axis=1,
        )
        members = np.concatenate(cosets)
        periods.append(period)
    if not periods:
        return (1,), np.zeros((1, 1), dtype=np.int64)
    if math.prod(periods) != group.order:
        raise TaskError(
            f"the table of {group.order} elements does not come apart into cyclic groups: it is "
            "not the table of an abelian group. Check it."
        )
    coordinates = np.empty((group.order, len(periods)), dtype=np.int64)
    coordinates[members] = residues
    return tuple(periods), coordinates
