"""Geodesic distances as classes, and the triples of nodes that lie on a shortest path."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geomdiag.errors import TaskError
from geomdiag.tasks.contract import MAX_TRIPLES, SAMPLED_TRIPLES, FloatArray, IntArray
from geomdiag.tasks.graphs.sources import Graph

__all__ = ["MAX_CLASSES", "TOLERANCE", "Distances", "GeodesicTriples", "geodesic_triples"]

#: Distances whose relative difference is at most this are one class.
TOLERANCE = 1e-9
#: Largest number of distinct distances.
MAX_CLASSES = 2000


@dataclass(frozen=True, eq=False)
class Distances:
    """Geodesic distances of all pairs of nodes.

    Attributes
    ----------
    lengths : (n, n) float array
        Length of a shortest path, symmetric.
    classes : (n, n) int array
        Place of that length among the distinct ones, 0 on the diagonal.
    values : (K,) float array
        The distinct lengths, ascending; equal up to `TOLERANCE` counts as one, their mean.
    sums : (K, K) int array or None
        Class of the sum of two distances, -1 where no two nodes are that far apart. None when
        class k is k times the smallest distance.
    """

    lengths: FloatArray
    classes: IntArray
    values: FloatArray
    sums: IntArray | None

    @classmethod
    def of(cls, graph: Graph, name: str) -> Distances:
        """Return the distances of a graph.

        Parameters
        ----------
        graph : Graph
            Connected.
        name : str
            What error messages call it.

        Raises
        ------
        TaskError
            If there are more than `MAX_CLASSES` distinct distances.
        """
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import shortest_path

        lengths = np.ones(len(graph.edges)) if graph.weights is None else graph.weights
        rows, columns = graph.edges.T
        links = csr_array((lengths, (rows, columns)), shape=(graph.nodes, graph.nodes))
        found = np.asarray(shortest_path(links, method="D", directed=False), dtype=np.float64)
        if graph.weights is None:
            classes = found.astype(np.int64)
            return cls(found, classes, np.arange(classes.max() + 1, dtype=np.float64), None)
        # A path's length summed from either end may differ in the last digit.
        found = np.minimum(found, found.T)
        distinct = np.unique(found)
        first = np.concatenate([[True], np.diff(distinct) > TOLERANCE * distinct[1:]])
        if (count := int(first.sum())) > MAX_CLASSES:
            raise TaskError(
                f"{name} has {count} distinct distances, more than the {MAX_CLASSES} classes that "
                "can be told apart. Round the lengths of its edges."
            )
        label = np.cumsum(first) - 1
        values = np.bincount(label, weights=distinct) / np.bincount(label)
        classes = label[np.searchsorted(distinct, found)].astype(np.int64)
        return cls(found, classes, values, _sums(values))


def _sums(values: FloatArray) -> IntArray | None:
    """Return the class of the sum of two classes, or None where classes simply add."""
    total = values[:, None] + values[None, :]
    above = np.minimum(np.searchsorted(values, total), len(values) - 1)
    below = np.maximum(above - 1, 0)
    nearest = np.where(np.abs(values[below] - total) < np.abs(values[above] - total), below, above)
    sums = np.where(np.abs(values[nearest] - total) <= TOLERANCE * total, nearest, -1)
    place = np.arange(len(values), dtype=np.int64)
    plain = place[:, None] + place[None, :]
    if np.array_equal(sums, np.where(plain < len(values), plain, -1)):
        return None
    return sums.astype(np.int64)


@dataclass(frozen=True, eq=False)
class GeodesicTriples:
    """Triples (a, b, c) of nodes with b on a shortest path from a to c.

    Attributes
    ----------
    triples : (m, 3) int array
        In lexicographic order.
    total : int
        Number of all such triples.
    exact : bool
        Whether these are all; otherwise a uniform sample, with replacement.
    """

    triples: IntArray
    total: int
    exact: bool


def geodesic_triples(
    distances: Distances, *, limit: int = MAX_TRIPLES, sample: int = SAMPLED_TRIPLES, seed: int = 0
) -> GeodesicTriples:
    """Return all triples (a, b, c) with ``d(a, b) + d(b, c) = d(a, c)``, or a sample of them.

    The ends of a path lie on it: b = a and b = c count, and a = c with b = a. These are the
    intervals of metric graph theory, and what the degenerate ones ask (that adding the
    distance of a node to itself changes nothing) is part of the equality.

    Parameters
    ----------
    distances : Distances
        Of n nodes; takes n³ comparisons.
    limit : int
        More triples than this are sampled.
    sample : int
        Size of the sample: uniform, with replacement.
    seed : int
        Of the sample.

    Returns
    -------
    GeodesicTriples
    """
    n = len(distances.classes)
    small = np.int16 if 2 * len(distances.values) < np.iinfo(np.int16).max else np.int32
    classes = distances.classes.astype(small)
    sums = None if distances.sums is None else distances.sums.astype(small)

    def between(a: int) -> IntArray:
        """Return ``b·n + c`` of the triples that start in a."""
        row = classes[a]
        whole = row[:, None] + classes if sums is None else sums[row[:, None], classes]
        return np.flatnonzero(whole == row[None, :])

    counts = np.zeros(n, dtype=np.int64)
    kept: list[IntArray] = []
    for a in range(n):
        found = between(a)
        counts[a] = len(found)
        if counts[: a + 1].sum() <= limit:
            kept.append(found)
        else:
            kept.clear()
    total = int(counts.sum())
    if total <= limit:
        starts = np.repeat(np.arange(n, dtype=np.int64), counts)
    else:
        ends = np.cumsum(counts)
        ranks = np.sort(np.random.default_rng(seed).integers(0, total, size=sample))
        starts = np.searchsorted(ends, ranks, side="right").astype(np.int64)
        cuts = np.searchsorted(starts, np.arange(n + 1))
        inside = ranks - (ends - counts)[starts]
        kept = [between(a)[inside[cuts[a] : cuts[a + 1]]] for a in range(n)]
    rest = np.concatenate(kept)
    return GeodesicTriples(np.stack([starts, rest // n, rest % n], axis=1), total, total <= limit)
