"""Graphs by name: products of paths and cycles, hypercubes and balanced trees.

Nodes of a product are numbered in row-major order of their coordinates, those of a tree
level by level from the root. Generators of the automorphism group are known in closed form.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from geomdiag.errors import TaskError
from geomdiag.tasks.contract import FloatArray, IntArray

__all__ = ["MAX_NODES", "Graph", "GraphKind", "fitting_names", "known_graphs", "named_graph"]

#: Largest number of nodes; n² inputs, and n² numbers for each table of a task.
MAX_NODES = 2000


@dataclass(frozen=True, eq=False, kw_only=True)
class Graph:
    """A connected undirected graph, as arrays.

    Attributes
    ----------
    nodes : int
        Number of nodes, 0 ... nodes-1.
    edges : (m, 2) int array
        Each edge once, smaller node first, in lexicographic order.
    weights : (m,) float array or None
        Positive lengths of the edges; None: all 1.
    generators : tuple of (nodes,) int array, or None
        Permutations that generate the automorphism group; None: not known.
    """

    nodes: int
    edges: IntArray
    weights: FloatArray | None = None
    generators: tuple[IntArray, ...] | None = None

    def digest(self) -> str:
        """Return 20 hexadecimal digits of the SHA-256 of nodes, edges and weights."""
        content = hashlib.sha256(f"{self.nodes} nodes".encode())
        content.update(np.ascontiguousarray(self.edges, dtype="<i8").tobytes())
        if self.weights is not None:
            content.update(np.ascontiguousarray(self.weights, dtype="<f8").tobytes())
        return content.hexdigest()[:20]


@dataclass(frozen=True)
class GraphKind:
    """A family of named graphs.

    Attributes
    ----------
    form : str
        How its names are written.
    example : str
        A name.
    meaning : str
        What it is, in a few words.
    refusal : callable
        Why these sizes make no such graph, or an empty string.
    nodes, diameter : callable
        Number of nodes, and largest distance, of given sizes.
    make : callable
        The graph of given sizes.
    """

    form: str
    example: str
    meaning: str
    refusal: Callable[[Sequence[int]], str]
    nodes: Callable[[Sequence[int]], int]
    diameter: Callable[[Sequence[int]], int]
    make: Callable[[Sequence[int]], Graph]


def known_graphs() -> str:
    """Return the names of graphs that can be made, in words."""
    return ", ".join(kind.example for kind in _KINDS.values())


def named_graph(name: str) -> tuple[str, Graph]:
    """Return a graph by its name.

    Parameters
    ----------
    name : str
        ``kind-sizes``, e.g. ``"lattice-7x7"``.

    Returns
    -------
    str
        The name as it is written canonically.
    Graph

    Raises
    ------
    TaskError
        If there is no such graph, or it is too large.
    """
    word, _, rest = name.strip().lower().partition("-")
    kind = _KINDS.get(word)
    if kind is None:
        close = difflib.get_close_matches(word, _KINDS, n=1, cutoff=0.5)
        hint = f" Did you mean {_KINDS[close[0]].example!r}?" if close else ""
        raise TaskError(
            f"graph: unknown graph {name!r}.{hint} Known: {known_graphs()}; or a file that ends in "
            ".graphml, .gml, .edgelist, .txt, .csv, .tsv or .npz."
        )
    if not re.fullmatch(r"[0-9]{1,9}(x[0-9]{1,9})*", rest):
        raise TaskError(
            f"graph: {name!r} does not say its size as in {kind.example!r} ({kind.form}: "
            f"{kind.meaning})."
        )
    sizes = [int(part) for part in rest.split("x")]
    if reason := kind.refusal(sizes):
        raise TaskError(
            f"graph: {name!r} is no {word}: {reason}. Write for example {kind.example!r} "
            f"({kind.form}: {kind.meaning})."
        )
    if (count := kind.nodes(sizes)) > MAX_NODES:
        raise TaskError(
            f"graph: {name!r} has {count} nodes, more than the {MAX_NODES} whose pairs can be "
            "tabled. Choose a smaller one."
        )
    return f"{word}-{'x'.join(map(str, sizes))}", kind.make(sizes)


def fitting_names(vocabulary: int | None, classes: int | None) -> tuple[str, ...]:
    """Return named graphs that a network of the given sizes can have been trained on.

    Parameters
    ----------
    vocabulary : int or None
        Rows of the token embedding: the nodes and at most two further symbols.
    classes : int or None
        Rows of the read-out: diameter + 1, or as many as the vocabulary has.

    Returns
    -------
    tuple of str
        Graphs with equal sides before others, as many nodes as the vocabulary has rows
        first. Empty without a vocabulary: the classes alone do not tell the nodes. When the
        read-out says nothing of the diameter, graphs with unequal sides are left out. Stars are
        always: one fits every network of three classes.
    """
    if vocabulary is None:
        return ()
    # As many classes as symbols may be a read-out over the whole vocabulary, or a path's.
    told = classes is not None and classes != vocabulary
    found: list[tuple[bool, int, str]] = []
    for extra in range(3):
        count = vocabulary - extra
        if not 2 <= count <= MAX_NODES:
            continue
        for word, sizes in _sizes_of(count):
            kind = _KINDS[word]
            if kind.refusal(sizes):
                continue
            answers = kind.diameter(sizes) + 1
            unequal = word not in ("path", "cycle", "hypercube", "tree") and len(set(sizes)) > 1
            fits = answers == classes if told else not unequal and answers <= (classes or answers)
            if fits:
                found.append((unequal, extra, f"{word}-{'x'.join(map(str, sizes))}"))
    found.sort(key=lambda entry: entry[:2])
    return tuple(name for _, _, name in found)


def _sizes_of(nodes: int) -> list[tuple[str, tuple[int, ...]]]:
    """Return every kind and sizes with that many nodes; products of up to three factors."""
    pairs = [(a, nodes // a) for a in range(2, nodes // 2 + 1) if nodes % a == 0]
    triples = [
        (a, b, rest // b)
        for a, rest in pairs
        for b in range(a, math.isqrt(rest) + 1)
        if rest % b == 0
    ]
    ascending = [(a, b) for a, b in pairs if a <= b]
    found: list[tuple[str, tuple[int, ...]]] = [("path", (nodes,)), ("cycle", (nodes,))]
    found += [("lattice", sizes) for sizes in (*ascending, *triples)]
    found += [("cylinder", sizes) for sizes in pairs]
    found += [("torus", sizes) for sizes in (*ascending, *triples)]
    if nodes == 1 << (nodes.bit_length() - 1):
        found.append(("hypercube", (nodes.bit_length() - 1,)))
    for branching in range(2, nodes - 1):
        height = next(h for h in itertools.count(1) if _tree_size((branching, h)) >= nodes)
        if _tree_size((branching, height)) == nodes:
            found.append(("tree", (branching, height)))
    return found


# Products of paths and cycles.


def _product(sizes: Sequence[int], periodic: Sequence[bool]) -> Graph:
    """Return the Cartesian product of paths and, where periodic, cycles."""
    nodes = math.prod(sizes)
    index = np.arange(nodes, dtype=np.int64).reshape(sizes)
    edges = []
    for axis, closed in enumerate(periodic):
        lines = np.moveaxis(index, axis, 0).reshape(sizes[axis], -1)
        ends = [(lines[:-1].ravel(), lines[1:].ravel())]
        if closed:
            ends.append((lines[0], lines[-1]))
        edges += [np.stack(pair, axis=1) for pair in ends]
    joined = np.concatenate(edges)
    joined = joined[np.lexsort((joined[:, 1], joined[:, 0]))]
    return Graph(nodes=nodes, edges=joined, generators=_product_generators(sizes, periodic))


def _product_generators(sizes: Sequence[int], periodic: Sequence[bool]) -> tuple[IntArray, ...]:
    """Return generators of the automorphism group of a product of paths and cycles.

    The group of a Cartesian product of connected graphs is generated by those of its prime
    factors and the exchanges of equal ones (Sabidussi 1960, Math. Z. 72, 446-457). Paths and
    cycles are prime, except the cycle of four nodes: the product of two paths of two.
    """
    coordinates = np.indices(tuple(sizes)).reshape(len(sizes), -1)
    digits: list[IntArray] = []
    factors: list[tuple[bool, int]] = []
    for axis, (size, closed) in enumerate(zip(sizes, periodic, strict=True)):
        x = coordinates[axis]
        if closed and size == 4:
            digits += [x >> 1, (x >> 1) ^ (x & 1)]
            factors += [(False, 2), (False, 2)]
        else:
            digits.append(x)
            factors.append((closed, size))

    def nodes(moved: Sequence[IntArray]) -> IntArray:
        remaining = list(moved)
        back = []
        for size, closed in zip(sizes, periodic, strict=True):
            x = remaining.pop(0)
            back.append(2 * x + (x ^ remaining.pop(0)) if closed and size == 4 else x)
        return np.asarray(np.ravel_multi_index(tuple(back), tuple(sizes)), dtype=np.int64)

    generators = []
    for place, (closed, size) in enumerate(factors):
        moves = [(digits[place] + 1) % size, -digits[place] % size]
        generators += [
            nodes([*digits[:place], moved, *digits[place + 1 :]])
            for moved in (moves if closed else [size - 1 - digits[place]])
        ]
        # Exchanges with the next equal factor reach every order of them.
        equal = next((i for i in range(place + 1, len(factors)) if factors[i] == (closed, size)), 0)
        if equal:
            swapped = list(digits)
            swapped[place], swapped[equal] = digits[equal], digits[place]
            generators.append(nodes(swapped))
    return tuple(generators)


# Balanced trees.


def _tree_size(sizes: Sequence[int]) -> int:
    branching, height = sizes
    return int((branching ** (height + 1) - 1) // (branching - 1))


def _tree(sizes: Sequence[int]) -> Graph:
    """Return the balanced tree; the children of node i are b·i + 1 ... b·i + b."""
    branching, height = sizes
    nodes = _tree_size(sizes)
    child = np.arange(1, nodes, dtype=np.int64)
    edges = np.stack([(child - 1) // branching, child], axis=1)
    generators = []
    for depth in range(height):
        # Exchanges of neighbouring subtrees under the first node of each depth; those under
        # the other nodes are conjugate to them.
        first = branching * _level_start(branching, depth) + 1
        below = height - depth - 1
        for left in range(first, first + branching - 1):
            one, other = (_subtree(branching, root, below) for root in (left, left + 1))
            image = np.arange(nodes, dtype=np.int64)
            image[one], image[other] = other, one
            generators.append(image)
    return Graph(nodes=nodes, edges=edges, generators=tuple(generators))


def _level_start(branching: int, depth: int) -> int:
    return int((branching**depth - 1) // (branching - 1))


def _subtree(branching: int, root: int, height: int) -> IntArray:
    """Return the nodes of a subtree, level by level."""
    levels = [
        np.arange(branching**h, dtype=np.int64) + root * branching**h + _level_start(branching, h)
        for h in range(height + 1)
    ]
    return np.concatenate(levels)


# The kinds.


def _needs(count: int | None, least: int) -> Callable[[Sequence[int]], str]:
    """Return a check for `count` sizes (None: two or more), none below `least`."""

    def refusal(sizes: Sequence[int]) -> str:
        if count is None and len(sizes) < 2:
            return "it needs two sizes or more"
        if count is not None and len(sizes) != count:
            return f"it needs {count} size{'s' if count > 1 else ''}, found {len(sizes)}"
        if min(sizes) < least:
            return f"no size may be below {least}, found {min(sizes)}"
        return ""

    return refusal


def _cylinder_refusal(sizes: Sequence[int]) -> str:
    if reason := _needs(2, 2)(sizes):
        return reason
    return "" if sizes[1] >= 3 else f"the length around must be at least 3, found {sizes[1]}"


def _hypercube_refusal(sizes: Sequence[int]) -> str:
    # Asked before 2^d is worked out, which nobody wants of a number with nine digits.
    if reason := _needs(1, 1)(sizes):
        return reason
    limit = MAX_NODES.bit_length() - 1
    return "" if sizes[0] <= limit else f"2^{sizes[0]} nodes are more than {MAX_NODES}"


def _tree_refusal(sizes: Sequence[int]) -> str:
    if reason := _needs(2, 1)(sizes):
        return reason
    if sizes[0] < 2:
        return "a branching of 1 gives a path; write path-N"
    if sizes[1] * math.log(sizes[0]) > math.log(MAX_NODES):
        return f"it has more than {MAX_NODES} nodes"
    return ""


_KINDS = {
    "path": GraphKind(
        form="path-N",
        example="path-64",
        meaning="N nodes in a row",
        refusal=_needs(1, 2),
        nodes=math.prod,
        diameter=lambda sizes: sizes[0] - 1,
        make=lambda sizes: _product(sizes, [False]),
    ),
    "cycle": GraphKind(
        form="cycle-N",
        example="cycle-64",
        meaning="N nodes in a ring, N ≥ 3",
        refusal=_needs(1, 3),
        nodes=math.prod,
        diameter=lambda sizes: sizes[0] // 2,
        make=lambda sizes: _product(sizes, [True]),
    ),
    "lattice": GraphKind(
        form="lattice-AxB or lattice-AxBxC",
        example="lattice-7x7",
        meaning="product of paths",
        refusal=_needs(None, 2),
        nodes=math.prod,
        diameter=lambda sizes: sum(sizes) - len(sizes),
        make=lambda sizes: _product(sizes, [False] * len(sizes)),
    ),
    "cylinder": GraphKind(
        form="cylinder-AxB",
        example="cylinder-7x7",
        meaning="A rings of B nodes each: open along A, periodic along B",
        refusal=_cylinder_refusal,
        nodes=math.prod,
        diameter=lambda sizes: sizes[0] - 1 + sizes[1] // 2,
        make=lambda sizes: _product(sizes, [False, True]),
    ),
    "torus": GraphKind(
        form="torus-AxB or torus-AxBxC",
        example="torus-7x7",
        meaning="product of cycles",
        refusal=_needs(None, 3),
        nodes=math.prod,
        diameter=lambda sizes: sum(size // 2 for size in sizes),
        make=lambda sizes: _product(sizes, [True] * len(sizes)),
    ),
    "hypercube": GraphKind(
        form="hypercube-D",
        example="hypercube-7",
        meaning="2^D nodes, joined where one binary digit differs",
        refusal=_hypercube_refusal,
        nodes=lambda sizes: 1 << sizes[0],
        diameter=lambda sizes: sizes[0],
        make=lambda sizes: _product([2] * sizes[0], [False] * sizes[0]),
    ),
    "tree": GraphKind(
        form="tree-BxH",
        example="tree-2x5",
        meaning="balanced tree: every node above height H has B children",
        refusal=_tree_refusal,
        nodes=_tree_size,
        diameter=lambda sizes: 2 * sizes[1],
        make=_tree,
    ),
}
