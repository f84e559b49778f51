"""Automorphisms of a finite metric space, and the orbits that permutations generate.

An automorphism of a connected unweighted graph is a permutation of its nodes that keeps all
geodesic distances, and the other way round. With weighted edges the permutations that keep
the distances are what a task about distances can have as a symmetry (an edge that no
shortest path uses is nobody's business), and are meant here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from geomdiag.tasks.contract import IntArray

__all__ = ["MAX_VISITS", "automorphism_generators", "pair_orbits"]

#: Pairs of nodes that a search may look at, some ten seconds; a stated bound rather than a
#: time, so that the same graph gives the same symmetries on every machine.
MAX_VISITS = 2_000_000_000

_DEPTH = 400  # base points after one another that a search goes down, well within the stack
_LINKS = 20_000_000  # pairs joined at once

_Hashes = NDArray[np.uint64]


def pair_orbits(generators: Sequence[IntArray], nodes: int) -> IntArray:
    """Return the orbits of ordered pairs of nodes under a group of permutations.

    Parameters
    ----------
    generators : sequence of (nodes,) int array
        Permutations that generate the group; it moves both ends of a pair at once.
    nodes : int
        Number of nodes.

    Returns
    -------
    (nodes², ) int array
        Orbit label 0, 1, ... of the pair (u, v), in row ``u·nodes + v``.
    """
    rows = np.arange(nodes * nodes, dtype=np.int64)
    orbit = rows
    links: list[tuple[IntArray, IntArray]] = []
    waiting = 0
    for generator in generators:
        image = (generator[:, None] * nodes + generator[None, :]).ravel()
        moved = np.flatnonzero(image != rows)
        links.append((rows[moved], image[moved]))
        waiting += len(moved)
        if waiting > _LINKS:
            orbit = _merged(orbit, links)
            links, waiting = [], 0
    return _merged(orbit, links)


def automorphism_generators(
    classes: IntArray, max_visits: int = MAX_VISITS
) -> tuple[IntArray, ...] | None:
    """Return permutations that generate all automorphisms, or None beyond the bound.

    Individualisation and refinement: nodes are told apart by the distances to nodes already
    singled out, until each is alone (a base). From the last base point to the first, for
    every node that might take the point's place while the earlier ones stay, an automorphism
    that does it is searched; one is enough for each orbit of those found before
    (Schreier-Sims). Every permutation is checked against all distances before it counts.

    Parameters
    ----------
    classes : (n, n) int array
        Class of the distance of each pair of nodes, symmetric.
    max_visits : int
        Pairs of nodes the search may look at.

    Returns
    -------
    tuple of (n,) int array, or None
        Empty when only the identity keeps the distances.

    References
    ----------
    McKay & Piperno 2014, doi:10.1016/j.jsc.2013.09.003.
    """
    try:
        return _Search(classes, max_visits).generators()
    except _OutOfBound:
        return None


class _OutOfBound(Exception):
    """The search looked at as many pairs as it may."""


def _mixed(values: _Hashes) -> _Hashes:
    """Scramble 64-bit words (the finaliser of SplitMix64)."""
    mixed = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))


class _Search:
    """One search under way."""

    def __init__(self, classes: IntArray, max_visits: int) -> None:
        self.classes = classes
        self.n = len(classes)
        self.left = max_visits
        # One word a distance. Hashes only steer: equal by chance, they cost time, not truth.
        self.words = _mixed(np.arange(1, int(classes.max()) + 2, dtype=np.uint64))[classes]

    def spend(self, visits: int) -> None:
        self.left -= visits
        if self.left < 0:
            raise _OutOfBound

    def refined(self, colours: _Hashes) -> _Hashes:
        """Return colours that tell apart what the colours around a node tell apart.

        They depend on distances and colours alone, not on how nodes are numbered.
        """
        count = len(np.unique(colours))
        while count < self.n:
            self.spend(self.n * self.n)
            seen = _mixed(self.words ^ colours[None, :]).sum(axis=1, dtype=np.uint64)
            finer = _mixed(seen ^ _mixed(colours))
            found = len(np.unique(finer))
            if found == count:
                return colours
            colours, count = finer, found
        return colours

    def singled_out(self, colours: _Hashes, node: int, level: int) -> _Hashes:
        """Return colours once a node is marked as the base point of that level."""
        marked = colours.copy()
        marked[node] = _mixed(marked[node : node + 1] + np.uint64(level + 1))[0]
        return self.refined(marked)

    def is_automorphism(self, image: IntArray) -> bool:
        self.spend(self.n * self.n)
        return bool((self.classes[np.ix_(image, image)] == self.classes).all())

    def generators(self) -> tuple[IntArray, ...]:
        chain = [self.refined(np.zeros(self.n, dtype=np.uint64))]
        base: list[int] = []
        while True:
            _, first, size = np.unique(chain[-1], return_index=True, return_counts=True)
            if (size == 1).all():
                break
            # The node that comes first of those not alone: any rule would do.
            base.append(int(first[size > 1].min()))
            chain.append(self.singled_out(chain[-1], base[-1], len(base) - 1))
        found: list[IntArray] = []
        nodes = np.arange(self.n, dtype=np.int64)
        orbit = nodes
        for level in range(len(base) - 1, -1, -1):
            point, colours = base[level], chain[level]
            refused: list[int] = []
            for node in np.flatnonzero(colours == colours[point]).tolist():
                if orbit[node] == orbit[point] or orbit[node] in orbit[refused]:
                    continue
                image = self.swap(point, node, base[:level])
                if image is None:
                    image = self.completed(base, chain, level, node, colours)
                if image is None:
                    refused.append(node)
                    continue
                found.append(image)
                self.spend(self.n)
                orbit = _merged(orbit, [(nodes, image)])
        return tuple(found)

    def swap(self, one: int, other: int, kept: Sequence[int]) -> IntArray | None:
        """Return the exchange of two nodes if that alone is an automorphism (leaves, twins)."""
        self.spend(self.n)
        differ = self.classes[one] != self.classes[other]
        differ[[one, other]] = False
        if differ.any() or one in kept or other in kept:
            return None
        image = np.arange(self.n, dtype=np.int64)
        image[[one, other]] = other, one
        return image

    def completed(
        self,
        base: Sequence[int],
        chain: Sequence[_Hashes],
        level: int,
        node: int,
        colours: _Hashes,
    ) -> IntArray | None:
        """Return an automorphism that takes base point `level` to a node, or None.

        Base points before `level` stay where they are: they are singled out in `colours`.
        """
        if len(base) - level > _DEPTH:
            raise _OutOfBound
        found = self.singled_out(colours, node, level)
        target = chain[level + 1]
        if not np.array_equal(np.sort(found), np.sort(target)):
            return None
        if level + 1 == len(base):
            image = np.empty(self.n, dtype=np.int64)
            image[np.argsort(target)] = np.argsort(found)
            return image if self.is_automorphism(image) else None
        following = target[base[level + 1]]
        for candidate in np.flatnonzero(found == following).tolist():
            image_or_none = self.completed(base, chain, level + 1, candidate, found)
            if image_or_none is not None:
                return image_or_none
        return None


def _merged(orbit: IntArray, links: Sequence[tuple[IntArray, IntArray]]) -> IntArray:
    """Return the labels of orbits after joining those that links connect."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    size = len(orbit)
    starts, ends = (
        orbit[np.concatenate([np.empty(0, dtype=np.int64), *(link[side] for link in links)])]
        for side in (0, 1)
    )
    graph = coo_array((np.ones(len(ends), dtype=np.int8), (starts, ends)), shape=(size, size))
    label = np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)[orbit]
    # Labels that no orbit has any more are left out.
    return np.asarray(np.unique(label, return_inverse=True)[1], dtype=np.int64)
