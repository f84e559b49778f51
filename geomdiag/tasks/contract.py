"""What a task must tell the rest of geomdiag: nothing else in the code knows what it is about."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "MAX_INPUTS",
    "MAX_TRIPLES",
    "SAMPLED_TRIPLES",
    "Composition",
    "Equivalence",
    "HarmonicBasis",
    "LogitGroup",
    "Symmetry",
    "Task",
    "operand_pairs",
    "specification",
]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

#: Largest number of inputs a task may have. Tables of this size take some 0.5 GB; the
#: logits over all inputs, many times as many, are out of reach long before.
MAX_INPUTS = 10_000_000
#: Compositions take all their instances up to this number, and a sample beyond it.
MAX_TRIPLES = 5_000_000
#: Size of that sample, drawn uniformly with replacement: the standard error of a mean is then
#: the standard deviation over its square root.
SAMPLED_TRIPLES = 1_000_000


@dataclass(frozen=True, eq=False, kw_only=True)
class Equivalence:
    """Inputs whose outputs must agree, possibly after a relabelling of the classes.

    The instances are every ordered pair of inputs inside one orbit (an input with itself
    included) and, beside them, every listed pair. Before two outputs are compared each is
    aligned: class ``k`` of the aligned output of input ``i`` is class
    ``relabelling[alignment[i], k]`` of its output.

    Attributes
    ----------
    name : str
        Standard name, e.g. ``"commutativity"``.
    orbits : (n,) int array or None
        Orbit label of every input, -1 for inputs that take no part. None: no orbits.
    pairs : (m, 2) int array or None
        Further instances, as rows of the task's inputs.
    alignment : (n,) int array or None
        Row of `relabelling` that aligns each input's output. None: identity for all.
    relabelling : (r, classes) int array or None
        Permutations of the classes.
    swaps_operands : bool
        True when every instance only exchanges the two operands of an input, so that a
        network that cannot tell their order has the symmetry by construction.
    definition : str
        One line for people.
    reference : str
        Source (DOI or arXiv id).
    """

    name: str
    orbits: IntArray | None = None
    pairs: IntArray | None = None
    alignment: IntArray | None = None
    relabelling: IntArray | None = None
    swaps_operands: bool = False
    definition: str = ""
    reference: str = ""

    def instances(self) -> int:
        """Return the number of instances (ordered pairs) the violation averages over."""
        count = 0 if self.pairs is None else len(self.pairs)
        if self.orbits is not None:
            sizes = np.bincount(self.orbits[self.orbits >= 0])
            count += int((sizes.astype(object) ** 2).sum()) if len(sizes) else 0
        return count

    def components(self, n: int) -> IntArray:
        """Return the class of each of the `n` inputs under the equivalence they generate.

        Returns
        -------
        (n,) int array
            Labels 0, 1, ...; an input without a partner is alone in its class.
        """
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        edges = [np.empty((0, 2), dtype=np.int64)]
        if self.pairs is not None:
            edges.append(self.pairs)
        if self.orbits is not None:
            members = np.flatnonzero(self.orbits >= 0)
            labels = self.orbits[members]
            order = np.argsort(labels, kind="stable")
            members, labels = members[order], labels[order]
            same = labels[1:] == labels[:-1]
            edges.append(np.stack([members[:-1][same], members[1:][same]], axis=1))
        links = np.concatenate(edges)
        graph = coo_array((np.ones(len(links)), (links[:, 0], links[:, 1])), shape=(n, n))
        return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


@dataclass(frozen=True, eq=False, kw_only=True)
class Composition:
    """Inputs whose output must follow from the outputs of two others.

    Attributes
    ----------
    name : str
        Standard name, e.g. ``"triangle"``.
    rule : {"convolution", "logit_sum"}
        ``convolution``: classes are distances 0, 1, ..., and the whole's distribution must be
        the convolution of the parts'. ``logit_sum``: the whole's log-odds must be the sum
        of the parts' log-odds between the two classes of `odds`.
    whole : (m,) int array
        Row of the task's inputs that is composed.
    parts : (m, 2) int array
        Rows of the two inputs it is composed of.
    odds : tuple of int or None
        ``(positive, negative)`` classes of the log-odds, for ``logit_sum``.
    sums : (classes, classes) int array or None
        Class of the sum of two classes' distances, -1 where there is none, for
        ``convolution``. None: class ``k`` is the distance ``k``.
    exact : bool
        Whether the instances are all there are, or a seeded uniform sample.
    """

    name: str
    rule: Literal["convolution", "logit_sum"]
    whole: IntArray
    parts: IntArray
    odds: tuple[int, int] | None = None
    sums: IntArray | None = None
    exact: bool = True
    definition: str = ""
    reference: str = ""


Symmetry = Equivalence | Composition


@dataclass(frozen=True, eq=False, kw_only=True)
class HarmonicBasis:
    """Real orthonormal basis of functions on the tokens (or classes), cut into blocks.

    Attributes
    ----------
    members : (m,) int array
        Tokens the functions live on, in the basis' own order; tokens left out (the zero of
        a multiplication) are missing.
    labels : tuple of str
        One label a block; block 0 is the trivial one (constants), e.g. ``"k=0"``.
    block : (m,) int array
        Block of each basis vector.
    vectors : (m, m) float array
        Column ``j`` is the ``j``-th basis vector over `members`.
    period : int or None
        Set when `members` run through a cyclic group in order, so that the FFT along them
        gives the same blocks: block ``k`` holds the characters ``±k``.
    coordinates : (blocks, axes) int array or None
        Of a finite abelian group: frequency of each block on the dual grid, the smaller of
        ``k`` and ``-k``. None where there is no such grid.
    periods : tuple of int or None
        Shape of that grid: the orders of the cyclic factors.
    """

    members: IntArray
    labels: tuple[str, ...]
    block: IntArray
    vectors: FloatArray
    period: int | None = None
    coordinates: IntArray | None = None
    periods: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class LogitGroup:
    """The finite group that inputs and classes of a task share.

    Attributes
    ----------
    order : int
        Order m of the group.
    inputs : (q,) int array
        Rows of the task's inputs that take part.
    result : (q,) int array
        Element that each of those inputs composes to.
    classes : (m,) int array
        Class that stands for each element 0 ... m-1; other classes are left out.
    left, right : (q,) int array
        Elements of the left and right operand: ``result = left · right``. An operand that
        the task inverts (y in x - y) stands here inverted.
    table : (m, m) int array or None
        Product of two elements. None: the cyclic group, addition modulo m.
    labels : tuple of str
        One label a block of irreducible representations (a representation and its complex
        conjugate are one block); block 0 is the trivial one. Empty: those of the cyclic group.
    characters : (blocks, m) float array or None
        Real character of each block: χ, or χ + χ̄ where they differ. None: of the cyclic group.
    degrees : (blocks,) int array or None
        Complex dimension of each block's representation, so that ``degree/m · χ(g h⁻¹)``
        projects functions on the group onto the block. None: all 1.
    """

    order: int
    inputs: IntArray
    result: IntArray
    classes: IntArray
    left: IntArray
    right: IntArray
    table: IntArray | None = None
    labels: tuple[str, ...] = ()
    characters: FloatArray | None = None
    degrees: IntArray | None = None


def operand_pairs(count: int) -> tuple[IntArray, IntArray]:
    """Return left and right operands of all ordered pairs of `count` symbols, (count²,) each.

    In lexicographic order: the pair (x, y) is row ``x·count + y``.
    """
    symbols = np.arange(count, dtype=np.int64)
    return np.repeat(symbols, count), np.tile(symbols, count)


def specification(family: str, parameters: Mapping[str, int | str]) -> str:
    """Return a specification with the first parameter's value alone, the others by name."""
    first, *others = parameters.items()
    return ",".join([f"{family}:{first[1]}", *(f"{key}={value}" for key, value in others)])


class Task(ABC):
    """What was to be learnt: inputs, answers, symmetries, harmonic basis, metric, orders.

    Subclasses are immutable and cheap to make; large tables are cached properties.
    """

    #: Family name, the part of a specification before the colon.
    family: str
    #: The rule for unsaid parameters, for listings, e.g. ``"x + y mod p"``.
    rule: ClassVar[str] = ""
    #: A complete specification to show and to try, e.g. ``"modadd:p=113"``.
    example: ClassVar[str] = ""
    #: Further specifications that the common tests try, for what `example` does not show.
    examples: ClassVar[tuple[str, ...]] = ()
    #: What each parameter means, in a few words.
    parameter_notes: ClassVar[Mapping[str, str]] = {}
    #: Parameter that is the number of tokens and of classes, so that the sizes of a
    #: checkpoint tell it; empty where there is none.
    size_parameter: ClassVar[str] = ""

    @property
    @abstractmethod
    def name(self) -> str:
        """Canonical specification, e.g. ``"modadd:p=113"``; ``task(name)`` gives it back."""

    @property
    @abstractmethod
    def parameters(self) -> Mapping[str, int | str]:
        """Parameters by name."""

    @property
    @abstractmethod
    def title(self) -> str:
        """The rule in mathematical notation, for people."""

    @property
    @abstractmethod
    def tokens(self) -> int:
        """Number of entity tokens; they are the first rows of a vocabulary."""

    @property
    def vocabulary(self) -> int:
        """Number of symbols that inputs are written in: the tokens, then further ones.

        Symbols beside the tokens (attributes, relations) are numbered from `tokens` on.
        """
        return self.tokens

    @property
    @abstractmethod
    def classes(self) -> int:
        """Number of answer classes."""

    @classmethod
    def fitting(cls, vocabulary: int | None, classes: int | None) -> tuple[str, ...]:  # noqa: ARG003
        """Return specifications of this family that fit a network of the given sizes.

        Parameters
        ----------
        vocabulary, classes : int or None
            Rows of the token embedding and of the read-out, where they are known.

        Returns
        -------
        tuple of str
            Most likely first; empty where nothing fits or the sizes do not tell.
        """
        return ()

    @cached_property
    @abstractmethod
    def inputs(self) -> IntArray:
        """All inputs as symbols, (n, arity), in lexicographic order."""

    @cached_property
    @abstractmethod
    def answers(self) -> IntArray:
        """Right class of each input, (n,)."""

    @cached_property
    @abstractmethod
    def symmetries(self) -> tuple[Symmetry, ...]:
        """Symmetries that hold for the right answers."""

    @cached_property
    def left_out(self) -> Mapping[str, str]:
        """Why a symmetry that the family may have is not among `symmetries`, by its name."""
        return {}

    @cached_property
    @abstractmethod
    def basis(self) -> HarmonicBasis:
        """Harmonic basis of functions on the tokens."""

    @cached_property
    def class_basis(self) -> HarmonicBasis | None:
        """Harmonic basis of functions on the classes, where they carry one."""
        return None

    @cached_property
    @abstractmethod
    def metric(self) -> FloatArray:
        """Distances between tokens, (tokens, tokens)."""

    @cached_property
    def degrees(self) -> IntArray | None:
        """Number of edges at each token, (tokens,), where edges differ in length.

        None: the edges are the pairs at the smallest distance that `metric` has.
        """
        return None

    @cached_property
    def class_distances(self) -> FloatArray | None:
        """Distance that each class stands for, (classes,), where answers are distances.

        Then the inputs are all ordered pairs of tokens. None: classes are no distances.
        """
        return None

    @cached_property
    def orders(self) -> Mapping[str, IntArray]:
        """Rank of each token by attribute, (tokens,) each; empty where nothing is ordered."""
        return {}

    @cached_property
    def logit_group(self) -> LogitGroup | None:
        """Cyclic group shared by inputs and classes, where there is one."""
        return None

    def metric_for(self, block: int) -> FloatArray | None:  # noqa: ARG002
        """Return the metric after re-ordering the tokens by a basis block, or None.

        For a cyclic group, a token's position on the circle of frequency ``k`` is ``k·x``:
        the cycle in that order is the geometry a network that uses ``k`` would draw.

        Parameters
        ----------
        block : int
            Block of `basis`.

        Returns
        -------
        (tokens, tokens) float array or None
            None where re-ordering has no meaning (the task is not cyclic, or ``k`` does not
            generate the group).
        """
        return None

    def __repr__(self) -> str:
        return f"<Task {self.name}: {self.title}>"
