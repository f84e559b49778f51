"""Comparison: which of two entities is the greater in an attribute.

The entities are the points of a grid, one axis an attribute ``x1``, ``x2``, ...; an entity's
rank in an attribute is its coordinate. Entities are tokens 0 ... n-1 in C order of the grid
(the last coordinate runs fastest). The symbols after them name what is asked:

- form ``three``: token ``n + k`` is the attribute k; the input (e_i, attribute, e_j) is
  answered 0 (<), 1 (=) or 2 (>);
- form ``binary``: tokens ``n + 3k``, ``n + 3k + 1``, ``n + 3k + 2`` are the relations <, =
  and > in the attribute k; the input (e_i, relation, e_j) is answered 1 if the relation
  holds, else 0.

All inputs belong to the task, tied and identical entities included. Source: arXiv 2603.01968.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from geomdiag.errors import TaskError
from geomdiag.tasks.contract import (
    MAX_INPUTS,
    MAX_TRIPLES,
    SAMPLED_TRIPLES,
    Composition,
    Equivalence,
    FloatArray,
    HarmonicBasis,
    IntArray,
    Symmetry,
    Task,
)

__all__ = ["MAX_INPUTS", "MAX_TRIPLES", "SAMPLED_TRIPLES", "Comparison"]

SEED = 0  # of the sample of triples
_PAPER = "arXiv:2603.01968"
_FORMS = ("three", "binary")
_LESS, _EQUAL, _GREATER = 0, 1, 2


class Comparison(Task):
    """Order of two entities on a grid, by one of its attributes.

    Parameters
    ----------
    grid : str, int or sequence of int
        Number of ranks of each attribute, e.g. ``"7x7"``; a whole number for one attribute.
    form : {"three", "binary"}
        ``three``: the attribute is asked, the answer is <, = or >. ``binary``: a relation is
        asked, the answer is whether it holds.

    Raises
    ------
    TaskError
        If an attribute has fewer than 2 ranks, there are more than `MAX_INPUTS` inputs, or
        the form is unknown.
    """

    family = "comparison"
    rule: ClassVar[str] = "e_i <, = or > e_j in one attribute"
    example: ClassVar[str] = "comparison:7x7"
    examples: ClassVar[tuple[str, ...]] = (
        "comparison:7",
        "comparison:2x2",
        "comparison:3x4",
        "comparison:3x3x3",
        "comparison:5,form=binary",
        "comparison:2x2,form=binary",
        "comparison:4x3,form=binary",
        "comparison:2x3x2,form=binary",
    )
    parameter_notes: ClassVar[Mapping[str, str]] = {
        "grid": "ranks of each attribute, e.g. 20, 7x7 or 3x3x3",
        "form": "three: answer <, = or >; binary: does the relation that is asked hold",
    }

    def __init__(self, grid: str | int | Sequence[int], form: str = "three") -> None:
        if form not in _FORMS:
            raise TaskError(
                f"comparison: the form is {form!r}; expected 'three' (answers <, =, >) or "
                "'binary' (does a relation hold). Write for example "
                "'comparison:7x7,form=binary'."
            )
        self.form = form
        self.sizes = _sizes(grid)
        count = self.tokens**2 * self._asked
        if count > MAX_INPUTS:
            raise TaskError(
                f"comparison: the grid {_spelled(self.sizes)} has {count} inputs, more than the "
                f"{MAX_INPUTS} that can be tabled. Choose a smaller grid."
            )

    @property
    def name(self) -> str:
        """Canonical specification, e.g. ``"comparison:7x7"``; the form only if not three."""
        return _specification(self.sizes, self.form)

    @property
    def parameters(self) -> Mapping[str, int | str]:
        """Grid, e.g. ``"7x7"``, and form."""
        return {"grid": _spelled(self.sizes), "form": self.form}

    @property
    def title(self) -> str:
        """The rule, for people."""
        asked = "e_i <, = or > e_j" if self.form == "three" else "whether e_i <, = or > e_j holds"
        return f"{asked}, in one attribute of the grid {_spelled(self.sizes)}"

    @property
    def tokens(self) -> int:
        """Number of entities, the points of the grid."""
        return math.prod(self.sizes)

    @property
    def _asked(self) -> int:
        """Number of symbols that say what is asked: attributes, or relations in them."""
        return len(self.sizes) * (1 if self.form == "three" else 3)

    @property
    def vocabulary(self) -> int:
        """Number of entities and of attributes (or relations)."""
        return self.tokens + self._asked

    @property
    def classes(self) -> int:
        """3 (<, =, >), or 2 (the relation fails, holds)."""
        return 3 if self.form == "three" else 2

    @classmethod
    def fitting(cls, vocabulary: int | None, classes: int | None) -> tuple[str, ...]:
        """Return comparisons that fit a network's sizes: squares and cubes first, then lines.

        The vocabulary may hold up to two rows beside the task's symbols (one of them "="); the
        read-out is over the answers, or over the whole vocabulary.
        """
        if vocabulary is None:
            return ()
        forms = [
            form
            for form, answers in (("three", 3), ("binary", 2))
            if classes in (None, answers, vocabulary)
        ]
        equal: list[str] = []
        line: list[str] = []
        other: list[str] = []
        for form in forms:
            for extra in (1, 0, 2):
                for attributes in range(1, max(2, vocabulary.bit_length())):
                    asked = attributes * (1 if form == "three" else 3)
                    points = vocabulary - extra - asked
                    if points < 2 or points**2 * asked > MAX_INPUTS:
                        continue
                    side = round(points ** (1 / attributes))
                    if attributes == 1:
                        line.append(_specification((points,), form))
                    elif side >= 2 and side**attributes == points:
                        # 2x2x2x2 fits by chance too often to be told first
                        kind = equal if side > 2 else other
                        kind.append(_specification((side,) * attributes, form))
                    elif attributes == 2:
                        sides = (b for b in range(math.isqrt(points), 1, -1) if points % b == 0)
                        other += [_specification((b, points // b), form) for b in sides][:1]
        return tuple(dict.fromkeys(equal + line + other))

    @cached_property
    def _coordinates(self) -> IntArray:
        """Rank of each token in each attribute, (attributes, tokens)."""
        return np.indices(self.sizes, dtype=np.int64).reshape(len(self.sizes), -1)

    def _rows(self, left: IntArray, asked: IntArray | int, right: IntArray) -> IntArray:
        """Return the rows of inputs; `asked` counts from 0."""
        return np.asarray((left * self._asked + asked) * self.tokens + right, dtype=np.int64)

    @cached_property
    def inputs(self) -> IntArray:
        """All (e_i, attribute or relation, e_j), (n·asked·n, 3), in lexicographic order."""
        table = np.indices((self.tokens, self._asked, self.tokens), dtype=np.int64)
        table = table.reshape(3, -1).T.copy()
        table[:, 1] += self.tokens
        return table

    @cached_property
    def answers(self) -> IntArray:
        """Right class of each input."""
        ranks = self._coordinates
        order = np.sign(ranks[:, :, None] - ranks[:, None, :]) + _EQUAL  # (attributes, n, n)
        if self.form == "binary":
            relations = np.array([_LESS, _EQUAL, _GREATER])[:, None, None]
            holds = order[:, None] == relations
            order = holds.reshape(-1, self.tokens, self.tokens)
        return np.ascontiguousarray(order.transpose(1, 0, 2), dtype=np.int64).ravel()

    @cached_property
    def symmetries(self) -> tuple[Symmetry, ...]:
        """Antisymmetry; and transitivity, where an attribute has three ranks."""
        found: tuple[Symmetry, ...] = (
            self._antisymmetry() if self.form == "three" else self._converse(),
        )
        # Nothing composes where no attribute has three ranks.
        return (*found, self._transitivity()) if max(self.sizes) >= 3 else found

    @cached_property
    def left_out(self) -> Mapping[str, str]:
        """Why there is no transitivity, where there is none."""
        if max(self.sizes) >= 3:
            return {}
        return {"transitivity": f"no attribute of {_spelled(self.sizes)} has three ranks"}

    def _antisymmetry(self) -> Equivalence:
        first, second = np.triu_indices(self.tokens, 1)
        pairs = [
            np.stack([self._rows(first, k, second), self._rows(second, k, first)], axis=1)
            for k in range(self._asked)
        ]
        left, _, right = self.inputs.T
        return Equivalence(
            name="antisymmetry",
            pairs=np.concatenate(pairs),
            alignment=np.where(left > right, 1, 0),
            relabelling=np.array([[_LESS, _EQUAL, _GREATER], [_GREATER, _EQUAL, _LESS]]),
            definition=(
                "(a, attribute, b) ~ (b, attribute, a) with < and > exchanged; mean over all pairs "
                "of different entities and all attributes. (a, attribute, a) against itself with < "
                "and > exchanged is left out"
            ),
            reference=_PAPER,
        )

    def _converse(self) -> Equivalence:
        every, other = (axis.ravel() for axis in np.indices((self.tokens, self.tokens)))
        first, second = np.triu_indices(self.tokens, 1)
        pairs = []
        for k in range(len(self.sizes)):
            less, equal, greater = 3 * k + _LESS, 3 * k + _EQUAL, 3 * k + _GREATER
            pairs.append([self._rows(every, less, other), self._rows(other, greater, every)])
            pairs.append([self._rows(first, equal, second), self._rows(second, equal, first)])
        return Equivalence(
            name="antisymmetry",
            pairs=np.concatenate([np.stack(pair, axis=1) for pair in pairs]),
            definition=(
                "(a, <, b) ~ (b, >, a), a = b included, and (a, =, b) ~ (b, =, a) for a ≠ b; mean "
                "over all of them, each pair of inputs once, and all attributes"
            ),
            reference=_PAPER,
        )

    def _transitivity(self) -> Composition:
        binary = self.form == "binary"
        kinds = [  # attribute, what is asked in it
            (k, 3 * k + relation if binary else k)
            for k in range(len(self.sizes))
            for relation in ((_LESS, _GREATER) if binary else (0,))
        ]
        counts = [math.comb(self.sizes[k], 3) * self._level(k) ** 3 for k, _ in kinds]
        exact = sum(counts) <= MAX_TRIPLES
        chains = self._all_chains(kinds) if exact else self._some_chains(kinds, counts)
        low, middle, high, asked = chains
        return Composition(
            name="transitivity",
            rule="logit_sum",
            whole=self._rows(low, asked, high),
            parts=np.stack(
                [self._rows(low, asked, middle), self._rows(middle, asked, high)], axis=1
            ),
            odds=(1, 0) if binary else (_GREATER, _LESS),
            exact=exact,
            definition=(
                "a < b < c in an attribute: σ(ℓ_ac) against σ(ℓ_ab + ℓ_bc), "
                + (
                    "ℓ the log-odds that a relation holds: once with > (its odds stand for > "
                    "against <) and once with < (the same with the sign turned)"
                    if binary
                    else "ℓ = logit of > minus logit of <"
                )
                + ("; all triples and attributes" if exact else "; a uniform sample of the triples")
            ),
            reference=_PAPER,
        )

    def _level(self, attribute: int) -> int:
        """Return the number of entities that share a rank."""
        return self.tokens // self.sizes[attribute]

    def _at_rank(self, attribute: int) -> IntArray:
        """Return the entities of each rank, (ranks, entities that share it)."""
        order = np.argsort(self._coordinates[attribute], kind="stable")
        return order.reshape(self.sizes[attribute], -1)

    def _all_chains(self, kinds: Sequence[tuple[int, int]]) -> tuple[IntArray, ...]:
        """Return all a < b < c in each attribute, and what is asked of them."""
        found = []
        for attribute, asked in kinds:
            entities = self._at_rank(attribute)
            ranks = np.arange(len(entities))
            below = (ranks[:, None, None] < ranks[:, None]) & (ranks[:, None] < ranks)
            low, middle, high = (entities[level] for level in np.nonzero(below))
            parts = np.broadcast_arrays(
                low[:, :, None, None], middle[:, None, :, None], high[:, None, None, :], asked
            )
            found.append([part.ravel() for part in parts])
        return tuple(np.concatenate(column) for column in zip(*found, strict=True))

    def _some_chains(
        self, kinds: Sequence[tuple[int, int]], counts: Sequence[int]
    ) -> tuple[IntArray, ...]:
        """Return a uniform sample, with replacement, of what `_all_chains` lists."""
        rng = np.random.default_rng(SEED)
        shares = rng.multinomial(SAMPLED_TRIPLES, np.array(counts) / sum(counts))
        found = []
        for (attribute, asked), size in zip(kinds, shares.tolist(), strict=True):
            if not size:
                continue
            entities = self._at_rank(attribute)
            levels, shared = entities.shape
            # three different ranks: each is drawn from those that are left, then sorted
            ranks = np.stack([rng.integers(levels - taken, size=size) for taken in range(3)])
            ranks[1] += ranks[1] >= ranks[0]
            for taken in np.sort(ranks[:2], axis=0):
                ranks[2] += ranks[2] >= taken
            chosen = entities[np.sort(ranks, axis=0), rng.integers(shared, size=(3, size))]
            found.append([*chosen, np.full(size, asked)])
        return tuple(np.concatenate(column) for column in zip(*found, strict=True))

    @cached_property
    def basis(self) -> HarmonicBasis:
        """Products of the cosine bases (DCT-II) of path graphs, one vector a block.

        Block ``k=1,0`` is the first cosine along x1 and constant along x2.
        """
        vectors: FloatArray = np.ones((1, 1))
        for size in self.sizes:
            vectors = np.asarray(np.kron(vectors, _cosines(size)), dtype=np.float64)
        frequencies = self._coordinates.T.tolist()
        return HarmonicBasis(
            members=np.arange(self.tokens, dtype=np.int64),
            labels=tuple("k=" + ",".join(map(str, each)) for each in frequencies),
            block=np.arange(self.tokens, dtype=np.int64),
            vectors=vectors,
        )

    @cached_property
    def metric(self) -> FloatArray:
        """Geodesic (city-block) distance on the grid, (n, n)."""
        result = np.zeros((self.tokens, self.tokens))
        for ranks in self._coordinates:
            result += np.abs(ranks[:, None] - ranks[None, :])
        return result

    @cached_property
    def orders(self) -> Mapping[str, IntArray]:
        """Rank of each token in the attributes ``x1``, ``x2``, ..."""
        return {f"x{k}": ranks for k, ranks in enumerate(self._coordinates, start=1)}

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, Task) and other.name == self.name

    def __hash__(self) -> int:
        return hash((type(self), self.name))

    def __getstate__(self) -> dict[str, Any]:
        # tables are made again where they are needed
        return {"sizes": self.sizes, "form": self.form}


def _cosines(size: int) -> FloatArray:
    """Return the orthonormal DCT-II basis of a path, (size, size); column k has k sign changes."""
    place, frequency = np.arange(size)[:, None], np.arange(size)[None, :]
    vectors = np.cos(np.pi * frequency * (place + 0.5) / size) * math.sqrt(2 / size)
    vectors[:, 0] = 1 / math.sqrt(size)
    return vectors


def _spelled(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def _specification(sizes: Sequence[int], form: str) -> str:
    return f"comparison:{_spelled(sizes)}" + ("" if form == "three" else f",form={form}")


def _sizes(grid: object) -> tuple[int, ...]:
    """Return the ranks of each attribute, or say why `grid` is no grid."""
    sides: list[object]
    if isinstance(grid, str):
        parts = [part.strip() for part in re.split("[xX×]", grid)]
        sides = [int(part) if re.fullmatch("[0-9]{1,9}", part) else part for part in parts]
    elif isinstance(grid, Sequence):
        sides = list(grid)
    else:
        sides = [grid]
    try:
        if not sides or any(isinstance(side, bool | np.bool_) for side in sides):
            raise TypeError
        sizes = tuple(operator.index(side) for side in sides)  # type: ignore[arg-type]
    except TypeError:
        raise TaskError(
            f"comparison: the grid is {grid!r}; expected the number of ranks of each attribute, "
            "whole numbers joined by x. Write for example 'comparison:20' or 'comparison:7x7'."
        ) from None
    if min(sizes) < 2:
        raise TaskError(
            f"comparison: the grid {_spelled(sizes)} has an attribute with {min(sizes)} ranks; "
            "each needs at least 2. Leave an attribute out that does not vary."
        )
    return sizes
