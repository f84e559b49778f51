"""Composition in a finite group: inputs are pairs of elements, the answer is their product."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from geomdiag.errors import TaskError
from geomdiag.tasks.contract import (
    Equivalence,
    FloatArray,
    HarmonicBasis,
    IntArray,
    LogitGroup,
    Task,
    operand_pairs,
    specification,
)
from geomdiag.tasks.cyclic import cycle_distances, cyclic_basis
from geomdiag.tasks.groups.named import COSET_CHAINS, finite_group
from geomdiag.tasks.groups.representations import Irrep, irreps
from geomdiag.tasks.groups.tables import TABLE_SUFFIXES
from geomdiag.tasks.sizes import token_candidates

__all__ = ["GroupProduct"]

_PAPER = "arXiv:2603.01968"
_CHUGHTAI = "arXiv:2302.03025"


class GroupProduct(Task):
    """The product of two elements of a finite group.

    Parameters
    ----------
    group : str
        A name or the file of a Cayley table; see `geomdiag.tasks.groups.finite_group`.
    order : str
        Numbering of permutations, ``"coset"`` or ``"lexicographic"``. By default that of the
        published models where there are such models (S5, A5), else lexicographic.
    digest : str, optional
        For a file: the digest of the table that must be found there, as `name` gives it.

    Raises
    ------
    TaskError
        If there is no such group, or the file does not hold the table that `digest` means.
    """

    family = "group"
    rule: ClassVar[str] = "x·y in a finite group"
    example: ClassVar[str] = "group:S5"
    examples: ClassVar[tuple[str, ...]] = (
        "group:Z1",
        "group:Z2",
        "group:Z13",
        "group:Z6xZ10",
        "group:Z2xZ2xZ3",
        "group:D4",
        "group:D5",
        "group:S4",
        "group:A4",
        "group:A5",
        "group:S3xZ2",
    )
    parameter_notes: ClassVar[Mapping[str, str]] = {
        "group": "Z113, Z6xZ10, D59, S5, A5, S3xZ2, ... or the file of a Cayley table",
        "order": "numbering of permutations: coset (S5, A5) or lexicographic",
        "digest": "for files, optional: the table that must be found there",
    }

    def __init__(self, group: str, order: str = "", digest: str = "") -> None:
        self.group = finite_group(group, order)
        self._digest = ""
        if Path(self.group.name).suffix.lower() in TABLE_SUFFIXES:
            self._digest = _digest_of(self.group.table, self.group.name, digest)
        elif digest:
            raise TaskError(f"group: {group!r} is known by its name; leave out its digest.")
        # Only what differs from the default is part of the name.
        published = any(part in COSET_CHAINS for part in self.group.name.split("x"))
        self._order = order if order == "lexicographic" and published else ""

    @property
    def name(self) -> str:
        """Canonical specification, e.g. ``"group:S5"``.

        A table from a file carries its digest, ``"group:table.csv,digest=…"``: another table in
        the same file is another task.
        """
        return specification(self.family, self.parameters)

    @property
    def parameters(self) -> Mapping[str, int | str]:
        """The group's name, and where they say more, the order of its elements or its digest."""
        more = {"order": self._order, "digest": self._digest}
        return {"group": self.group.name} | {key: value for key, value in more.items() if value}

    @property
    def title(self) -> str:
        """The rule in mathematical notation."""
        return f"x·y in {self.group.name}"

    @property
    def tokens(self) -> int:
        """Number of elements, m."""
        return self.group.order

    @property
    def classes(self) -> int:
        """Number of answers, m."""
        return self.group.order

    @classmethod
    def fitting(cls, vocabulary: int | None, classes: int | None) -> tuple[str, ...]:
        """Return the named groups of the orders that the sizes allow, most likely first.

        Symmetric and alternating groups go first: few sizes fit them by chance.
        """
        orders = token_candidates(vocabulary, classes)
        factorials = {math.factorial(n): n for n in range(4, 7)}
        rare = [f"group:S{factorials[m]}" for m in orders if m in factorials]
        rare += [f"group:A{factorials[2 * m]}" for m in orders if 2 * m in factorials]
        common = []
        for m in orders:
            if m % 2 == 0 and m >= 6:
                common.append(f"group:D{m // 2}")
            common.append(f"group:Z{m}")
        return (*rare, *common)

    @cached_property
    def inputs(self) -> IntArray:
        """All pairs (x, y), (m², 2), in lexicographic order: row ``x·m + y``."""
        left, right = self._operands
        return np.stack([left, right], axis=1)

    @property
    def _operands(self) -> tuple[IntArray, IntArray]:
        return operand_pairs(self.group.order)

    @cached_property
    def answers(self) -> IntArray:
        """Product of each input, (m²,)."""
        return np.array(self.group.table.reshape(-1))

    @cached_property
    def symmetries(self) -> tuple[Equivalence, ...]:
        """Associativity, translations and, where the group is abelian, commutativity.

        Translation of both operands at once in an abelian group; from the left and from the
        right on their own in others, where what one does to the answer depends on the other.
        """
        left, right = self._operands
        table, products = self.group.table, self.answers
        associativity = Equivalence(
            name="associativity",
            # Every ordered pair of inputs of equal product comes from exactly one triple:
            # (a, b) ~ (c, d) from x = c, y = c⁻¹·a, z = b.
            orbits=products,
            definition="(x·y, z) ~ (x, y·z); mean over all triples",
            reference=_PAPER,
        )
        if not self.group.is_abelian:
            return (
                associativity,
                Equivalence(
                    name="left_translation",
                    orbits=right,
                    alignment=left,
                    relabelling=table,
                    definition="(g·x, y) ~ (x, y) with the answers multiplied by g from the left",
                    reference=_CHUGHTAI,
                ),
                Equivalence(
                    name="right_translation",
                    orbits=left,
                    alignment=right,
                    relabelling=table.T.copy(),
                    definition="(x, y·g) ~ (x, y) with the answers multiplied by g from the right",
                    reference=_CHUGHTAI,
                ),
            )
        m = self.group.order
        return (
            Equivalence(
                name="commutativity",
                pairs=np.stack([left * m + right, right * m + left], axis=1),
                swaps_operands=True,
                definition="(x, y) ~ (y, x); mean over all inputs, x = y included",
                reference=_PAPER,
            ),
            associativity,
            Equivalence(
                name="translation",
                orbits=np.zeros(m * m, dtype=np.int64),
                alignment=products,
                relabelling=table,
                definition="(g·x, h·y) ~ (x, y) with the answers multiplied by g·h",
            ),
        )

    @cached_property
    def _irreps(self) -> tuple[Irrep, ...]:
        return irreps(self.group)

    @property
    def _position(self) -> IntArray | None:
        """Place of each element on the cycle, (m,), if the group is cyclic as it is given."""
        if len(self.group.periods) != 1 or self.group.coordinates is None:
            return None
        return self.group.coordinates[:, 0]

    @cached_property
    def basis(self) -> HarmonicBasis:
        """Matrix coefficients of the irreducible representations, one block each.

        For a cyclic group the same as for `modadd`. See `geomdiag.tasks.groups.irreps` for the
        names of the blocks.
        """
        if self._position is not None:
            return cyclic_basis(np.argsort(self._position, kind="stable"))
        members = np.arange(self.group.order, dtype=np.int64)
        sizes = [each.functions.shape[1] for each in self._irreps]
        abelian = self.group.family == "abelian"
        return HarmonicBasis(
            members=members,
            labels=tuple(each.label for each in self._irreps),
            block=np.repeat(np.arange(len(sizes), dtype=np.int64), sizes),
            vectors=np.concatenate([each.functions for each in self._irreps], axis=1),
            coordinates=np.array([each.coordinates for each in self._irreps]) if abelian else None,
            periods=self.group.periods if abelian else None,
        )

    @cached_property
    def class_basis(self) -> HarmonicBasis | None:
        """The same functions, over the answers."""
        return self.basis

    @cached_property
    def metric(self) -> FloatArray:
        """Word metric: edges between x and y in the Cayley graph of the group's generators.

        Cyclic factors: 1 (the distance on the cycle); Dn: r and s; Sn: swaps of neighbours; An:
        the three-cycles (0 1 i); products: those of the factors, so that distances add; a
        table of a non-abelian group: the first elements that generate it. Inverses count as one
        step, too. Multiplying both elements by a third from the left changes no distance.
        """
        return self.group.distances

    @cached_property
    def logit_group(self) -> LogitGroup | None:
        """The group, shared by operands and answers."""
        m = self.group.order
        left, right = self._operands
        inputs = np.arange(m * m, dtype=np.int64)
        place = self._position
        if place is not None:
            return LogitGroup(
                order=m,
                inputs=inputs,
                result=place[self.answers],
                classes=self.basis.members,
                left=place[left],
                right=place[right],
            )
        return LogitGroup(
            order=m,
            inputs=inputs,
            result=self.answers,
            classes=np.arange(m, dtype=np.int64),
            left=left,
            right=right,
            table=self.group.table,
            labels=tuple(each.label for each in self._irreps),
            characters=np.stack([each.character for each in self._irreps]),
            degrees=np.array([each.degree for each in self._irreps], dtype=np.int64),
        )

    def metric_for(self, block: int) -> FloatArray | None:
        """Return the distance along the cycle on which ``x`` stands at ``block·x``.

        Parameters
        ----------
        block : int
            Frequency ``k`` of a cyclic group.

        Returns
        -------
        (m, m) float array or None
            None for other groups, for the trivial block, and for frequencies that share a
            factor with the group's order.
        """
        m = self.group.order
        place = self._position
        if place is None or not 0 < block <= m // 2 or math.gcd(block, m) != 1:
            return None
        return cycle_distances(place * block % m, m)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, GroupProduct)
            and self.name == other.name
            and np.array_equal(self.group.table, other.group.table)
        )

    def __hash__(self) -> int:
        return hash((type(self), self.name))

    def __getstate__(self) -> dict[str, Any]:
        if Path(self.group.name).suffix.lower() in TABLE_SUFFIXES:
            # the file may be out of reach
            return {"group": self.group, "_order": "", "_digest": self._digest}
        return {"spec": dict(self.parameters)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "spec" in state:
            self.__init__(**state["spec"])  # type: ignore[misc]
        else:
            self.__dict__.update(state)


def _digest_of(table: IntArray, path: str, expected: str) -> str:
    """Return 20 hexadecimal digits of the SHA-256 of a table, held against those expected."""
    if re.search("[,=]", path):
        raise TaskError(
            f"group: the path {path!r} holds a comma or an equals sign, which separate the "
            "parameters of a task. Rename the file."
        )
    found = hashlib.sha256(np.ascontiguousarray(table, dtype="<i8").tobytes()).hexdigest()[:20]
    if expected and expected != found:
        raise TaskError(
            f"group: the file {path!r} does not hold the table that was meant: its digest is "
            f"{found}, expected {expected}. Bring back the table, or leave out the digest to take "
            "the one that is there."
        )
    return found
