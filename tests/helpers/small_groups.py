"""Small finite groups from their permutations, with characters found from first principles."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

Permutation = tuple[int, ...]

#: Generators, as permutations; Q8 acts on itself by multiplication from the left.
GENERATORS: dict[str, tuple[Permutation, ...]] = {
    "S3": ((1, 0, 2), (1, 2, 0)),
    "D4": ((1, 2, 3, 0), (0, 3, 2, 1)),
    "Q8": ((2, 3, 1, 0, 6, 7, 5, 4), (4, 5, 7, 6, 1, 0, 2, 3)),
    "A4": ((1, 2, 0, 3), (1, 0, 3, 2)),
    "Z2xZ4": ((1, 0, 2, 3, 4, 5), (0, 1, 3, 4, 5, 2)),
    "Z3": ((1, 2, 0),),
}


@dataclass(frozen=True, eq=False)
class SmallGroup:
    """Table, real characters by block (χ, or χ + χ̄) and degrees; the identity comes anywhere."""

    table: np.ndarray
    characters: np.ndarray
    degrees: np.ndarray

    @property
    def order(self) -> int:
        return len(self.table)

    @property
    def inverse(self) -> np.ndarray:
        return (self.table == self.identity).argmax(axis=1)

    @property
    def identity(self) -> int:
        return int(next(e for e in range(self.order) if self.table[e, e] == e))

    def arguments(self) -> dict[str, Any]:
        """Return the group as the metrics of logits take it, every pair of elements an input."""
        left, right = (grid.ravel() for grid in np.indices(self.table.shape))
        return {
            "order": self.order,
            "inputs": np.arange(self.order**2),
            "left": left,
            "right": right,
            "result": self.table[left, right],
            "classes": np.arange(self.order),
            "table": self.table,
        }


def small_group(name: str) -> SmallGroup:
    """Return the group of that name; its elements are in a shuffled order."""
    generators = GENERATORS[name]
    elements = {tuple(range(len(generators[0])))}
    while True:
        more = {tuple(g[i] for i in h) for g in generators for h in elements} | elements
        if more == elements:
            break
        elements = more
    ordered = sorted(elements)
    np.random.default_rng(4).shuffle(ordered)
    index = {g: i for i, g in enumerate(ordered)}
    table = np.array([[index[tuple(g[i] for i in h)] for h in ordered] for g in ordered])
    return SmallGroup(table, *characters(table))


def characters(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return real characters and degrees by Burnside's method: eigenvectors of class sums."""
    m = len(table)
    identity = next(e for e in range(m) if table[e, e] == e)
    inverse = (table == identity).argmax(axis=1)
    conjugacy = [frozenset(int(table[table[g, x], inverse[g]]) for g in range(m)) for x in range(m)]
    classes = sorted(set(conjugacy), key=min)
    number = {c: i for i, c in enumerate(classes)}
    of = np.array([number[c] for c in conjugacy])
    sizes = np.array([len(c) for c in classes])
    mixed = np.zeros((len(classes), len(classes)))
    rng = np.random.default_rng(0)
    for c in classes:
        weight = rng.random()
        for j, k in itertools.product(range(len(classes)), repeat=2):
            target = min(classes[k])
            mixed[j, k] += weight * sum(of[table[inverse[x], target]] == j for x in c)
    values, vectors = np.linalg.eig(mixed.astype(complex))
    assert len(set(np.round(values, 6))) == len(classes)
    rows: list[tuple[int, np.ndarray]] = []
    for vector in vectors.T:
        # the eigenvectors are the central characters |C| χ(C) / χ(1)
        central = vector / vector[of[identity]]
        degree = np.sqrt(m / np.sum(np.abs(central) ** 2 / sizes))
        rows.append((round(float(degree)), (degree * central / sizes)[of]))
    rows.sort(key=lambda row: (row[0], tuple(-np.round(row[1].real, 6)), row[1].imag.tolist()))
    rows.sort(key=lambda row: np.abs(row[1] - 1).max() > 1e-6)  # the trivial one first
    kept: list[tuple[int, np.ndarray]] = []
    for degree, chi in rows:
        real = np.abs(chi.imag).max() < 1e-6
        joined = chi.real if real else 2 * chi.real
        if not any(np.allclose(joined, other) for _, other in kept):
            kept.append((degree, joined))
    return np.array([chi for _, chi in kept]), np.array([degree for degree, _ in kept])
