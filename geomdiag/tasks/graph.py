"""Graph metric completion: two nodes of a graph, and how far apart they are.

The answer to the input (u, v) is the class of the geodesic distance d(u, v): for an
unweighted graph the distance itself, 0 ... diameter; for weighted edges its place among the
distinct distances. Source: arXiv 2603.01968.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from geomdiag.errors import TaskError
from geomdiag.tasks.contract import (
    SAMPLED_TRIPLES,
    Composition,
    Equivalence,
    FloatArray,
    HarmonicBasis,
    IntArray,
    Symmetry,
    Task,
    operand_pairs,
    specification,
)
from geomdiag.tasks.cyclic import cycle_distances, cyclic_basis
from geomdiag.tasks.graphs.automorphisms import MAX_VISITS, automorphism_generators, pair_orbits
from geomdiag.tasks.graphs.distances import TOLERANCE, Distances, geodesic_triples
from geomdiag.tasks.graphs.files import from_networkx, is_graph_file, read_graph
from geomdiag.tasks.graphs.sources import Graph, fitting_names, known_graphs, named_graph

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["GraphTask", "laplacian_basis"]

_PAPER = "arXiv:2603.01968"
_GIVEN = "given-"  # begins the name of a graph that was handed over in Python
_DEGENERATE = 1e-9  # of the largest eigenvalue


class GraphTask(Task):
    """Geodesic distance between two nodes of a connected undirected graph.

    Nodes are tokens 0 ... n-1. Named graphs number them as `geomdiag.tasks.graphs.sources`
    says (products in row-major order, trees level by level), files and NetworkX graphs as
    `geomdiag.tasks.graphs.files` says: by label where all labels are whole numbers, else in the
    order in which they appear.

    Parameters
    ----------
    graph : str or networkx.Graph
        The name of a graph (``"lattice-7x7"``), a file (``"edges.graphml"``), or a graph.
        With weighted edges (attribute ``weight``, their length) classes are the distinct
        geodesic distances, equal up to a relative difference of 1e-9.
    digest : str, optional
        What a file's graph must be, from `name`: results of another graph that
        has come to lie under the same path are not mixed up with it.

    Raises
    ------
    TaskError
        If there is no such graph, or it cannot be a task: directed, not connected, too
        large, lengths that are not positive, or not the graph that `digest` means.
    """

    family = "graph"
    rule: ClassVar[str] = "d(u, v), geodesic distance on a graph"
    example: ClassVar[str] = "graph:lattice-7x7"
    examples: ClassVar[tuple[str, ...]] = (
        "graph:path-9",
        "graph:cycle-12",
        "graph:lattice-2x3x3",
        "graph:cylinder-4x5",
        "graph:cylinder-2x4",
        "graph:torus-3x4",
        "graph:hypercube-3",
        "graph:tree-2x3",
    )
    parameter_notes: ClassVar[Mapping[str, str]] = {
        "graph": (
            f"one of {known_graphs()} with any sizes; or a file .graphml, .gml, .edgelist, .txt, "
            ".csv, .tsv, .npz"
        ),
        "digest": "for files, optional: the graph that must be found there",
    }

    def __init__(self, graph: str | nx.Graph[Any], digest: str = "") -> None:
        self._digest = ""
        if isinstance(graph, str) and not is_graph_file(graph):
            if graph.startswith(_GIVEN):
                raise TaskError(
                    f"graph: {graph!r} stands for a graph that was handed over in Python and "
                    "cannot be made from its name. Hand it over again, geomdiag.task('graph', "
                    "graph=G), or write it to a file, for example with networkx.write_graphml."
                )
            self._source, self._graph = named_graph(graph)
            if digest:
                raise TaskError(f"graph: {graph!r} is known by its name; leave out its digest.")
            return
        if isinstance(graph, str):
            if re.search("[,=]", graph):
                raise TaskError(
                    f"graph: the path {graph!r} holds a comma or an equals sign, which separate "
                    "the parameters of a task. Rename the file."
                )
            self._source, self._graph = graph, read_graph(graph)
            self._digest = self._graph.digest()
            if digest and digest != self._digest:
                raise TaskError(
                    f"graph: the file {graph!r} does not hold the graph that was meant: its digest "
                    f"is {self._digest}, expected {digest}. Bring back the graph, or leave out "
                    "the digest to take the one that is there."
                )
        elif hasattr(graph, "nodes") and hasattr(graph, "is_directed"):
            self._graph = from_networkx(graph)
            self._digest = self._graph.digest()
            self._source = f"{_GIVEN}{self._digest}"
            if digest and digest != self._digest:
                raise TaskError(
                    f"graph: the graph handed over has the digest {self._digest}, expected "
                    f"{digest}. Leave out the digest, or hand over the graph it belongs to."
                )
        else:
            raise TaskError(
                f"graph: expected the name of a graph, a file or a NetworkX graph, found "
                f"{graph!r} ({type(graph).__name__}). Write for example {self.example!r}."
            )
        if self._graph.weights is not None:
            # Worked out at once: too many distinct distances are told here.
            self.__dict__["distances"] = Distances.of(self._graph, f"the graph {self._source!r}")

    @property
    def name(self) -> str:
        """Canonical specification, e.g. ``"graph:lattice-7x7"``.

        A file's graph carries its digest, ``"graph:edges.gml,digest=…"``. A graph handed over in
        Python is named ``"graph:given-…"`` after it and cannot be made from that name.
        """
        return specification(self.family, self.parameters)

    @property
    def parameters(self) -> Mapping[str, int | str]:
        """The graph, ``{"graph": ...}``, and for a file ``"digest"``."""
        if self._digest and self._source != f"{_GIVEN}{self._digest}":
            return {"graph": self._source, "digest": self._digest}
        return {"graph": self._source}

    @property
    def title(self) -> str:
        """The rule for people, e.g. ``"d(u, v) on lattice-7x7 (49 nodes)"``."""
        weighted = ", weighted edges" if self._graph.weights is not None else ""
        return f"d(u, v) on {self._source} ({self.tokens} nodes{weighted})"

    @property
    def tokens(self) -> int:
        """Number of nodes, n."""
        return self._graph.nodes

    @property
    def classes(self) -> int:
        """Number of distinct distances: diameter + 1 where edges have no weights."""
        return len(self.distances.values)

    @property
    def edges(self) -> IntArray:
        """Edges of the graph, (m, 2), smaller node first."""
        return self._graph.edges

    @classmethod
    def fitting(cls, vocabulary: int | None, classes: int | None) -> tuple[str, ...]:
        """Return the named graphs that fit a network of the given sizes.

        Parameters
        ----------
        vocabulary, classes : int or None
            Rows of the token embedding (nodes, and at most two further symbols) and of the
            read-out (diameter + 1, or as many as the vocabulary).

        Returns
        -------
        tuple of str
            Graphs with equal sides first; see `geomdiag.tasks.graphs.sources.fitting_names`.
        """
        return tuple(f"{cls.family}:{name}" for name in fitting_names(vocabulary, classes))

    @cached_property
    def distances(self) -> Distances:
        """Geodesic distances, their classes, and which of them add up."""
        return Distances.of(self._graph, f"the graph {self._source!r}")

    @cached_property
    def inputs(self) -> IntArray:
        """All ordered pairs (u, v), u = v included, (n², 2): row ``u·n + v``."""
        return np.stack(operand_pairs(self.tokens), axis=1)

    @cached_property
    def answers(self) -> IntArray:
        """Class of d(u, v), (n²,)."""
        return self.distances.classes.ravel()

    @cached_property
    def symmetries(self) -> tuple[Symmetry, ...]:
        """Reversal, automorphism (where there is one beside the identity) and triangle."""
        automorphism = self._automorphism()
        return (
            self._reversal(),
            *(() if automorphism is None else (automorphism,)),
            self._triangle(),
        )

    @cached_property
    def left_out(self) -> Mapping[str, str]:
        """Why a symmetry that graphs may have is not among `symmetries`, by its name."""
        if self._generators is None:
            return MappingProxyType(
                {
                    "automorphism": (
                        f"{self._source}: its automorphisms were not found within {MAX_VISITS} "
                        "looks at pairs of nodes"
                    )
                }
            )
        if not self._generators:
            return MappingProxyType(
                {"automorphism": f"{self._source} has no automorphism but the identity"}
            )
        return MappingProxyType({})

    @cached_property
    def _generators(self) -> tuple[IntArray, ...] | None:
        if self._graph.generators is not None:
            return self._graph.generators
        return automorphism_generators(self.distances.classes)

    def _reversal(self) -> Equivalence:
        rows = np.arange(self.tokens**2, dtype=np.int64).reshape(self.tokens, self.tokens)
        return Equivalence(
            name="reversal",
            pairs=np.stack([rows.ravel(), rows.T.ravel()], axis=1),
            swaps_operands=True,
            definition="(u, v) ~ (v, u); mean over all n² inputs, u = v included",
            reference=_PAPER,
        )

    def _automorphism(self) -> Equivalence | None:
        if not self._generators:
            return None
        return Equivalence(
            name="automorphism",
            orbits=pair_orbits(self._generators, self.tokens),
            definition=(
                "(u, v) ~ (g(u), g(v)) for every permutation g of the nodes that keeps all "
                "distances; mean over all ordered pairs of inputs in one orbit"
            ),
            reference=_PAPER,
        )

    def _triangle(self) -> Composition:
        found = geodesic_triples(self.distances)
        n = self.tokens
        a, b, c = found.triples.T
        which = "all" if found.exact else f"a uniform sample of {SAMPLED_TRIPLES} of the"
        return Composition(
            name="triangle",
            rule="convolution",
            whole=a * n + c,
            parts=np.stack([a * n + b, b * n + c], axis=1),
            sums=self.distances.sums,
            exact=found.exact,
            definition=(
                "the distribution of d(a, c) is that of d(a, b) + d(b, c) for b on a shortest path "
                f"from a to c, its ends included; mean over {which} {found.total} triples"
            ),
            reference=_PAPER,
        )

    @cached_property
    def basis(self) -> HarmonicBasis:
        """Eigenspaces of the graph Laplacian; see `laplacian_basis`.

        Those of ``cycle-N`` are its characters ±k, with eigenvalue 2 - 2 cos(2πk/N): they are
        given as such, so that circles and helices of a frequency have a meaning.
        """
        if self._is_named_cycle:
            return cyclic_basis(np.arange(self.tokens, dtype=np.int64))
        return laplacian_basis(self._graph)

    @property
    def _is_named_cycle(self) -> bool:
        return self._source.startswith("cycle-") and not self._digest

    def metric_for(self, block: int) -> FloatArray | None:
        """Return the distance along the cycle on which ``u`` stands at ``block·u``.

        Parameters
        ----------
        block : int
            Frequency ``k`` of ``cycle-N``.

        Returns
        -------
        (n, n) float array or None
            None for other graphs, for the trivial block, and for frequencies that share a
            factor with N.
        """
        n = self.tokens
        if not self._is_named_cycle or not 0 < block <= n // 2 or math.gcd(block, n) != 1:
            return None
        return cycle_distances(np.arange(n, dtype=np.int64) * block % n, n)

    @cached_property
    def metric(self) -> FloatArray:
        """Geodesic distances between nodes, (n, n), in the unit of the edges' lengths."""
        return self.distances.lengths

    @cached_property
    def degrees(self) -> IntArray | None:
        """Number of edges at each node, (n,), without those longer than another path."""
        if self._graph.weights is None:
            return None
        u, v = self._graph.edges.T
        used = self._graph.weights <= self.metric[u, v] * (1 + TOLERANCE)
        ends = np.concatenate([u[used], v[used]])
        return np.asarray(np.bincount(ends, minlength=self.tokens), dtype=np.int64)

    @cached_property
    def class_distances(self) -> FloatArray | None:
        """The distinct distances, (classes,), in the unit of `metric`."""
        return self.distances.values

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GraphTask) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __getstate__(self) -> dict[str, Any]:
        # A name says all; another graph travels as its edges, for its file may be elsewhere.
        if not self._digest:
            return {"source": self._source}
        graph = self._graph
        return {
            "source": self._source,
            "digest": self._digest,
            "nodes": graph.nodes,
            "edges": graph.edges.astype(np.int16 if graph.nodes < 2**15 else np.int64),
            "weights": graph.weights,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._source = state["source"]
        self._digest = state.get("digest", "")
        if not self._digest:
            self._graph = named_graph(self._source)[1]
            return
        edges = state["edges"].astype(np.int64)
        self._graph = Graph(nodes=state["nodes"], edges=edges, weights=state["weights"])


def laplacian_basis(graph: Graph) -> HarmonicBasis:
    """Return the eigenspaces of a graph's Laplacian as a harmonic basis.

    ``L = D - W`` with ``W`` the adjacency matrix. A weighted edge of length ℓ enters ``W`` as
    1/ℓ, as a spring or a wire of that length would: near nodes are coupled strongly. Eigenvalues
    within 1e-9 of the largest one are one block.

    Parameters
    ----------
    graph : Graph
        Connected.

    Returns
    -------
    HarmonicBasis
        Blocks by ascending eigenvalue, labelled with it in as many digits (two at least) as
        tell all apart, e.g. ``λ=0.38``; block 0 holds the constants exactly.

    References
    ----------
    Chung 1997, Spectral Graph Theory.
    """
    n = graph.nodes
    u, v = graph.edges.T
    coupling = np.zeros((n, n))
    coupling[u, v] = coupling[v, u] = 1.0 if graph.weights is None else 1.0 / graph.weights
    degree = coupling.sum(axis=1)
    # No eigenvalue of L exceeds twice the largest degree: lifted above that, the constants
    # mix with nothing, however weakly the graph hangs together.
    lift = 4.0 * degree.max()
    values, vectors = np.linalg.eigh(np.diag(degree) - coupling + lift / n)
    values, vectors = np.roll(values, 1), np.roll(vectors, 1, axis=1)
    values[0], vectors[:, 0] = 0.0, 1.0 / np.sqrt(n)
    step = np.diff(values) > _DEGENERATE * values[-1]
    step[0] = True
    block = np.concatenate([[0], np.cumsum(step)]).astype(np.int64)
    means = np.bincount(block, weights=values) / np.bincount(block)
    for digits in range(2, 18):
        labels = tuple(f"λ={value:.{digits}g}" for value in means)
        if len(set(labels)) == len(labels):
            break
    return HarmonicBasis(
        members=np.arange(n, dtype=np.int64), labels=labels, block=block, vectors=vectors
    )
