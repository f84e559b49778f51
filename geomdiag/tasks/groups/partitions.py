"""Characters and names of the irreducible representations of S_n and A_n, by partitions."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np

from geomdiag.tasks.contract import FloatArray, IntArray

__all__ = [
    "alternating_characters",
    "conjugate",
    "cycle_types",
    "murnaghan_nakayama",
    "partition_name",
    "partitions",
    "symmetric_characters",
]

Partition = tuple[int, ...]


def partitions(n: int, largest: int | None = None) -> Iterator[Partition]:
    """Yield the partitions of n, the largest first part first."""
    if n == 0:
        yield ()
        return
    for part in range(min(n, largest or n), 0, -1):
        for rest in partitions(n - part, part):
            yield (part, *rest)


def conjugate(partition: Partition) -> Partition:
    """Return the partition whose Young diagram has rows and columns exchanged."""
    return tuple(sum(part > i for part in partition) for i in range(partition[0]))


@cache
def murnaghan_nakayama(partition: Partition, cycles: Partition) -> int:
    """Return the character of S_n of a partition at a cycle type.

    Parameters
    ----------
    partition, cycles : tuple of int
        Partitions of the same n, parts in descending order.

    Returns
    -------
    int

    References
    ----------
    Murnaghan-Nakayama rule; see Sagan, The Symmetric Group, doi:10.1007/978-1-4757-6804-6,
    section 4.10.
    """
    if not cycles:
        return 1
    length, rest = cycles[0], cycles[1:]
    # Beads of the diagram: removing a border strip of k cells lowers one bead by k onto a free
    # place, and the strip has one more row than the beads it passes.
    rows = len(partition)
    beads = [part + rows - 1 - i for i, part in enumerate(partition)]
    total = 0
    for bead in beads:
        lower = bead - length
        if lower < 0 or lower in beads:
            continue
        passed = sum(lower < other < bead for other in beads)
        moved = sorted([lower if b == bead else b for b in beads], reverse=True)
        smaller = tuple(b - (rows - 1 - i) for i, b in enumerate(moved) if b > rows - 1 - i)
        total += (-1) ** passed * murnaghan_nakayama(smaller, rest)
    return total


def cycle_types(permutations: IntArray) -> list[Partition]:
    """Return the cycle type of each permutation, (m, n) → m partitions of n."""
    found = []
    for permutation in permutations.tolist():
        seen: set[int] = set()
        lengths = []
        for start in range(len(permutation)):
            point, length = start, 0
            while point not in seen:
                seen.add(point)
                point, length = permutation[point], length + 1
            if length:
                lengths.append(length)
        found.append(tuple(sorted(lengths, reverse=True)))
    return found


def partition_name(partition: Partition) -> str:
    """Return the conventional name of a representation of S_n, or its partition.

    ``trivial`` is [n], ``sign`` [1, ..., 1], ``standard`` [n-1, 1], ``standard_sign`` (standard
    times sign) [2, 1, ..., 1]; others are written such as ``[3,2]``.
    """
    n = sum(partition)
    names = {
        (2, *(1,) * (n - 2)): "standard_sign",
        (n - 1, 1): "standard",
        (1,) * n: "sign",
        (n,): "trivial",
    }
    return names.get(partition, f"[{','.join(str(part) for part in partition)}]")


def _ordered(n: int) -> list[Partition]:
    """Return the partitions of n, those with a name of their own first."""
    named = [(n,), (1,) * n, (n - 1, 1), (2, *(1,) * (n - 2))]
    return list(dict.fromkeys([*named, *partitions(n)]))


def symmetric_characters(permutations: IntArray) -> dict[str, FloatArray]:
    """Return the irreducible characters of S_n at its elements.

    Parameters
    ----------
    permutations : (n!, n) int array

    Returns
    -------
    dict of str to (n!,) float array
        By `partition_name`, exact whole numbers; trivial, sign, standard and standard_sign
        first, then from the largest first part down.
    """
    types = cycle_types(permutations)
    return {
        partition_name(partition): np.array(
            [float(murnaghan_nakayama(partition, cycles)) for cycles in types]
        )
        for partition in _ordered(permutations.shape[1])
    }


def alternating_characters(permutations: IntArray) -> dict[str, FloatArray]:
    """Return the irreducible real characters of A_n at its elements.

    A partition and its conjugate restrict to the same representation of A_n, which takes the
    name of the one that comes first. A self-conjugate partition λ restricts to the sum of two
    representations of half the dimension, whose characters differ on one cycle type only:
    the distinct odd hook lengths h₁ > h₂ > ... of the diagonal, where they are
    (ε ± √(ε h₁h₂...)) / 2 with ε = (-1)^((n-d)/2), d hooks. For ε = 1 the two are named
    ``λa`` and ``λb``, a having the larger value at the permutation
    (0 1 ... h₁-1)(h₁ ... h₁+h₂-1)...: for A5, ``[3,1,1]a`` has (1+√5)/2 at (0 1 2 3 4). For
    ε = -1 they are complex conjugates and one real representation, of the name of λ.

    Parameters
    ----------
    permutations : (n!/2, n) int array
        The even permutations.

    Returns
    -------
    dict of str to (n!/2,) float array
        χ, or χ + χ̄ where they differ, by name.

    References
    ----------
    James and Kerber, The Representation Theory of the Symmetric Group,
    doi:10.1017/CBO9781107340732, theorem 2.5.13.
    """
    n = permutations.shape[1]
    types = cycle_types(permutations)
    found: dict[str, FloatArray] = {}
    done: set[Partition] = set()
    for partition in _ordered(n):
        if partition in done:
            continue
        mirrored = conjugate(partition)
        done |= {partition, mirrored}
        character = np.array([float(murnaghan_nakayama(partition, cycles)) for cycles in types])
        name = partition_name(partition)
        if mirrored != partition:
            found[name] = character
            continue
        hooks = tuple(2 * (part - i) - 1 for i, part in enumerate(partition) if part > i)
        if (n - len(hooks)) // 2 % 2:
            found[name] = character
            continue
        split = np.array([cycles == hooks for cycles in types])
        sides = np.array(
            [_side(p, hooks) if s else 0 for p, s in zip(permutations, split, strict=True)]
        )
        half = np.sqrt(float(np.prod(hooks))) / 2
        found[f"{name}a"] = character / 2 + half * sides
        found[f"{name}b"] = character / 2 - half * sides
    return found


def _side(permutation: IntArray, hooks: Partition) -> int:
    """Return +1 for a permutation that an even one conjugates to the reference, else -1."""
    # Cycles of the same length cannot be confused: the hook lengths are distinct. Writing the
    # cycles one after the other in the reference's order gives the conjugating permutation.
    cycles = {}
    seen: set[int] = set()
    for start in range(len(permutation)):
        cycle = []
        point = start
        while point not in seen:
            seen.add(point)
            cycle.append(point)
            point = int(permutation[point])
        if cycle:
            cycles[len(cycle)] = cycle
    order = [point for length in hooks for point in cycles[length]]
    inversions = sum(a > b for i, a in enumerate(order) for b in order[i + 1 :])
    return 1 - 2 * (inversions % 2)
