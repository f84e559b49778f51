"""The six operations of modular arithmetic whose learning is studied as grokking.

Two shapes of one story. ``x ± y``, ``(x + y)²`` and ``(x + y)³`` live on the cyclic group
Z_p; ``x·y`` and ``x + xy + y`` (which is ``x·y`` seen from ``x + 1``) live on the units of a
prime modulus, a cyclic group of order p - 1, beside one absorbing token that is no part of
the group.
"""

from __future__ import annotations

import math
import operator
from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from geomdiag.errors import TaskError
from geomdiag.tasks.contract import (
    MAX_INPUTS,
    Equivalence,
    FloatArray,
    HarmonicBasis,
    IntArray,
    LogitGroup,
    Task,
    operand_pairs,
)
from geomdiag.tasks.cyclic import cycle_distances, cyclic_basis, discrete_logarithms, is_prime

__all__ = [
    "MAX_INPUTS",
    "ModAdd",
    "ModAffine",
    "ModCube",
    "ModMul",
    "ModSquare",
    "ModSub",
    "Modular",
]

_PAPER = "arXiv:2603.01968"


class Modular(Task):
    """An operation on two residues modulo `p`; tokens and classes are 0 ... p-1.

    Parameters
    ----------
    p : int
        The modulus, at least 2, with at most `MAX_INPUTS` = p² inputs.

    Raises
    ------
    TaskError
        If `p` is no such modulus.
    """

    parameter_notes: ClassVar[Mapping[str, str]] = {"p": "modulus, a whole number ≥ 2"}
    size_parameter: ClassVar[str] = "p"

    def __init__(self, p: int) -> None:
        self.p = _modulus(self.family, p)

    @property
    def name(self) -> str:
        """Canonical specification, e.g. ``"modadd:p=113"``."""
        return f"{self.family}:p={self.p}"

    @property
    def parameters(self) -> Mapping[str, int | str]:
        """The modulus, ``{"p": p}``."""
        return {"p": self.p}

    @property
    def title(self) -> str:
        """The rule in mathematical notation."""
        return self.rule.replace("mod p", f"mod {self.p}")

    @property
    def tokens(self) -> int:
        """Number of residues, p."""
        return self.p

    @property
    def classes(self) -> int:
        """Number of answers, p."""
        return self.p

    @cached_property
    def inputs(self) -> IntArray:
        """All pairs (x, y), (p², 2), in lexicographic order: row ``x·p + y``."""
        x, y = self._operands
        return np.stack([x, y], axis=1)

    @property
    def _operands(self) -> tuple[IntArray, IntArray]:
        return operand_pairs(self.p)

    def _rows(self, x: IntArray, y: IntArray) -> IntArray:
        """Return the rows of the inputs (x, y), residues taken modulo p."""
        return np.asarray((x % self.p) * self.p + y % self.p, dtype=np.int64)

    def _commutativity(self) -> Equivalence:
        x, y = self._operands
        return Equivalence(
            name="commutativity",
            pairs=np.stack([self._rows(x, y), self._rows(y, x)], axis=1),
            swaps_operands=True,
            definition="(x, y) ~ (y, x); mean over all p² inputs, x = y included",
            reference=_PAPER,
        )

    @property
    @abstractmethod
    def _position(self) -> IntArray:
        """Place of each token on the group's cycle, (p,); -1 for a token that has none."""

    @property
    @abstractmethod
    def _order(self) -> int:
        """Order of the cyclic group."""

    @cached_property
    def basis(self) -> HarmonicBasis:
        """Characters of the cyclic group, its members in group order."""
        members = np.argsort(self._position, kind="stable")[self.p - self._order :]
        return cyclic_basis(members)

    @cached_property
    def metric(self) -> FloatArray:
        """Distance along the group's cycle, (p, p); see `cycle_distances`."""
        return cycle_distances(self._position, self._order)

    def metric_for(self, block: int) -> FloatArray | None:
        """Return the distance along the cycle on which ``x`` stands at ``block·x``.

        Parameters
        ----------
        block : int
            Frequency ``k``.

        Returns
        -------
        (p, p) float array or None
            None for the trivial block and for frequencies that share a factor with the
            group's order: they wind tokens onto each other.
        """
        if block <= 0 or block > self._order // 2 or math.gcd(block, self._order) != 1:
            return None
        position = self._position
        turned = np.where(position < 0, -1, position * block % self._order)
        return cycle_distances(turned, self._order)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Modular) and type(other) is type(self) and self.p == other.p

    def __hash__(self) -> int:
        return hash((type(self), self.p))

    def __getstate__(self) -> dict[str, Any]:
        return {"p": self.p}  # tables are made again where they are needed


class _OverSums(Modular):
    """Operations that see their operands only through a sum in Z_p."""

    @property
    def _order(self) -> int:
        return self.p

    @property
    def _position(self) -> IntArray:
        return np.arange(self.p, dtype=np.int64)

    @property
    def _sums(self) -> IntArray:
        """Inner sum of each input, (p²,)."""
        x, y = self._operands
        return (x + y) % self.p

    def _associativity(self, definition: str) -> Equivalence:
        return Equivalence(
            name="associativity", orbits=self._sums, definition=definition, reference=_PAPER
        )


class _Translated(_OverSums):
    """x + y and x - y: here a shifted operand shifts the answer."""

    @cached_property
    def answers(self) -> IntArray:
        """Right class of each input, (p²,)."""
        return self._sums

    @cached_property
    def class_basis(self) -> HarmonicBasis | None:
        """Characters of Z_p over the classes."""
        return cyclic_basis(np.arange(self.p, dtype=np.int64))

    @cached_property
    def logit_group(self) -> LogitGroup | None:
        """Z_p, shared by operands and classes."""
        x = self._operands[0]
        result = self._sums
        return LogitGroup(
            order=self.p,
            inputs=np.arange(self.p**2, dtype=np.int64),
            result=result,
            classes=np.arange(self.p, dtype=np.int64),
            left=x,
            right=(result - x) % self.p,
        )

    def _translation(self, definition: str) -> Equivalence:
        residues = np.arange(self.p, dtype=np.int64)
        return Equivalence(
            name="translation",
            orbits=np.zeros(self.p**2, dtype=np.int64),
            alignment=self._sums,
            relabelling=(residues[:, None] + residues[None, :]) % self.p,
            definition=definition,
        )


class ModAdd(_Translated):
    """Addition, ``x + y mod p``, for any modulus."""

    family = "modadd"
    rule: ClassVar[str] = "x + y mod p"
    example: ClassVar[str] = "modadd:p=113"

    @cached_property
    def symmetries(self) -> tuple[Equivalence, ...]:
        """Commutativity, associativity and translation."""
        return (
            self._commutativity(),
            self._associativity("(x + y, z) ~ (x, y + z); mean over all p³ triples"),
            self._translation("(x + g, y + h) ~ (x, y) with the answers shifted by g + h"),
        )


class ModSub(_Translated):
    """Subtraction, ``x - y mod p``, for any modulus.

    It does not commute, but ``x - y = (-y) - (-x)``; and ``(x - y) - z = x - (y + z)``.
    """

    family = "modsub"
    rule: ClassVar[str] = "x − y mod p"
    example: ClassVar[str] = "modsub:p=113"

    @property
    def _sums(self) -> IntArray:
        x, y = self._operands
        return (x - y) % self.p

    @cached_property
    def symmetries(self) -> tuple[Equivalence, ...]:
        """Commutativity of the negated operands, associativity and translation."""
        x, y = self._operands
        return (
            Equivalence(
                name="commutativity",
                pairs=np.stack([self._rows(x, y), self._rows(-y, -x)], axis=1),
                definition="(x, y) ~ (−y, −x); mean over all p² inputs",
                reference=_PAPER,
            ),
            self._associativity("(x − y, z) ~ (x, y + z); mean over all p³ triples"),
            self._translation("(x + g, y + h) ~ (x, y) with the answers shifted by g − h"),
        )


class _Power(_OverSums):
    """Powers of a sum: the classes carry no group, only the inner sum is shared.

    (Where cubing happens to permute the residues a translation could be declared through
    it; it is not, so that a family has the same symmetries for every modulus.)
    """

    exponent: ClassVar[int]

    @cached_property
    def answers(self) -> IntArray:
        """Right class of each input, (p²,)."""
        return self._sums**self.exponent % self.p

    @cached_property
    def symmetries(self) -> tuple[Equivalence, ...]:
        """Commutativity and associativity of the inner sum."""
        return (
            self._commutativity(),
            self._associativity(
                "(x + y, z) ~ (x, y + z): equal inner sums; mean over all p³ triples"
            ),
        )


class ModSquare(_Power):
    """Square of a sum, ``(x + y)² mod p``, for any modulus."""

    family = "modsquare"
    rule: ClassVar[str] = "(x + y)² mod p"
    example: ClassVar[str] = "modsquare:p=113"
    exponent: ClassVar[int] = 2


class ModCube(_Power):
    """Cube of a sum, ``(x + y)³ mod p``, for any modulus."""

    family = "modcube"
    rule: ClassVar[str] = "(x + y)³ mod p"
    example: ClassVar[str] = "modcube:p=113"
    exponent: ClassVar[int] = 3


class _OverUnits(Modular):
    """Multiplication of residues that stand for ``x + shift`` modulo a prime.

    The units are the group Z_{p-1} through the discrete logarithm to the smallest primitive
    root; the residue that stands for 0 absorbs everything and is left out of basis, classes
    and translation.
    """

    shift: ClassVar[int]
    parameter_notes: ClassVar[Mapping[str, str]] = {"p": "modulus, a prime number"}

    def __init__(self, p: int) -> None:
        super().__init__(p)
        if not is_prime(self.p):
            below = next((n for n in range(self.p - 1, 1, -1) if is_prime(n)), 2)
            above = next(n for n in range(self.p + 1, 2 * self.p + 2) if is_prime(n))
            raise TaskError(
                f"{self.family} needs a prime modulus, and p = {self.p} is not prime: only for "
                f"primes are the non-zero residues a cyclic group. Nearest primes: {below} and "
                f"{above}."
            )

    @property
    def _order(self) -> int:
        return self.p - 1

    @cached_property
    def _logarithms(self) -> tuple[IntArray, IntArray]:
        return discrete_logarithms(self.p)

    @property
    def _position(self) -> IntArray:
        logarithms = self._logarithms[1]
        return logarithms[(np.arange(self.p) + self.shift) % self.p]

    @cached_property
    def answers(self) -> IntArray:
        """Right class of each input, (p²,)."""
        x, y = self._operands
        return ((x + self.shift) * (y + self.shift) - self.shift) % self.p

    @property
    def _group(self) -> IntArray:
        """Group element each input composes to, (p²,); -1 where an operand absorbs."""
        left, right = (self._position[operand] for operand in self._operands)
        return np.where((left < 0) | (right < 0), -1, (left + right) % self._order)

    @cached_property
    def class_basis(self) -> HarmonicBasis | None:
        """Characters of the units over the classes; the absorbing answer is left out."""
        return self.basis

    @cached_property
    def logit_group(self) -> LogitGroup | None:
        """The group of units, Z_{p-1}, shared by operands and classes."""
        group = self._group
        inputs = np.flatnonzero(group >= 0)
        left, right = (self._position[operand[inputs]] for operand in self._operands)
        return LogitGroup(
            order=self._order,
            inputs=inputs,
            result=group[inputs],
            classes=self.basis.members,
            left=left,
            right=right,
        )

    @cached_property
    def symmetries(self) -> tuple[Equivalence, ...]:
        """Commutativity, associativity and translation by units."""
        return self._commutativity(), self._associativity(), self._translation()

    def _associativity(self) -> Equivalence:
        p, zero = self.p, -self.shift % self.p
        group = self._group
        x, y = self._operands
        # Triples of units give the orbits of equal result. With 0 standing for the absorbing
        # residue: (0, y, z) gives (0, z) ~ (0, yz), every pair of inputs (0, unit) once;
        # (x, y, 0) likewise every pair of inputs (unit, 0).
        orbits = group.copy()
        orbits[(x == zero) & (y != zero)] = self._order
        orbits[(x != zero) & (y == zero)] = self._order + 1
        # What is left: (x, 0, z) gives (0, z) ~ (x, 0), and triples that reach (0, 0).
        units = np.delete(np.arange(p, dtype=np.int64), zero)
        absorbing = np.full(p - 1, zero, dtype=np.int64)
        origin = self._rows(absorbing[:1], absorbing[:1])
        first = self._rows(absorbing, units)  # (0, z)
        second = self._rows(units, absorbing)  # (x, 0)
        pairs = np.concatenate(
            [
                np.stack([np.tile(first, p - 1), np.repeat(second, p - 1)], axis=1),
                np.stack([first, np.repeat(origin, p - 1)], axis=1),
                np.stack([np.repeat(origin, p - 1), second], axis=1),
                np.repeat(np.stack([origin, origin], axis=1), p, axis=0),
            ]
        )
        sign = "·" if self.shift == 0 else "∘"
        rule = "" if self.shift == 0 else ", x∘y = x + xy + y"
        return Equivalence(
            name="associativity",
            orbits=orbits,
            pairs=pairs,
            definition=f"(x{sign}y, z) ~ (x, y{sign}z){rule}; mean over all p³ triples",
            reference=_PAPER,
        )

    def _translation(self) -> Equivalence:
        powers, _ = self._logarithms
        classes = np.arange(self.p, dtype=np.int64) + self.shift
        group = self._group
        return Equivalence(
            name="translation",
            orbits=np.where(group >= 0, 0, -1),
            alignment=np.maximum(group, 0),  # inputs without an orbit need no alignment
            relabelling=(powers[:, None] * classes[None, :] - self.shift) % self.p,
            definition=(
                "composing an operand with a unit composes the answer with it; over all pairs "
                "of inputs whose operands are units"
            ),
        )


class ModMul(_OverUnits):
    """Multiplication, ``x·y mod p``, for a prime modulus; 0 is the absorbing token."""

    family = "modmul"
    rule: ClassVar[str] = "x·y mod p"
    example: ClassVar[str] = "modmul:p=113"
    shift: ClassVar[int] = 0


class ModAffine(_OverUnits):
    """``x + xy + y = (x + 1)(y + 1) - 1 mod p``, prime p; p - 1 is the absorbing token."""

    family = "modaffine"
    rule: ClassVar[str] = "x + xy + y mod p"
    example: ClassVar[str] = "modaffine:p=113"
    shift: ClassVar[int] = 1


def _modulus(family: str, p: object) -> int:
    """Return `p` as an int, or say why it is no modulus."""
    try:
        if isinstance(p, bool | np.bool_):
            raise TypeError
        modulus = operator.index(p)  # type: ignore[arg-type]
    except TypeError:
        raise TaskError(
            f"{family}: the modulus p must be a whole number ≥ 2, found {p!r} "
            f"({type(p).__name__}). Write for example '{family}:p=113'."
        ) from None
    if modulus < 2:
        raise TaskError(f"{family}: the modulus p must be at least 2, found {modulus}.")
    if modulus**2 > MAX_INPUTS:
        raise TaskError(
            f"{family}: p = {modulus} has {modulus**2} inputs, more than the {MAX_INPUTS} that "
            f"can be tabled (p ≤ {math.isqrt(MAX_INPUTS)}). Is {modulus} really the modulus?"
        )
    return modulus
