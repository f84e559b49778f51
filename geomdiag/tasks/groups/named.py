"""Groups by name: cyclic, dihedral, symmetric and alternating groups, and their products."""

from __future__ import annotations

import itertools
import math
import re
from functools import reduce
from pathlib import Path

import numpy as np

from geomdiag.errors import TaskError
from geomdiag.tasks.contract import IntArray
from geomdiag.tasks.groups.finite import FiniteGroup, check_order, direct_product
from geomdiag.tasks.groups.tables import TABLE_SUFFIXES, read_table

__all__ = [
    "COSET_CHAINS",
    "ORDERS",
    "alternating",
    "cyclic",
    "dihedral",
    "finite_group",
    "symmetric",
]

#: In which the permutations of a group may be numbered.
ORDERS = ("coset", "lexicographic")

#: Coset order, in which the published models over S5 and A5 number their tokens. A list for
#: each point of a stabiliser chain: which permutation takes the point to each point of its
#: orbit, the orbit in ascending order. The element (…, c, b, a), the last list's choice running
#: slowest, is their product, the slowest acting first. The chains come from the generators
#: (0 1 2 3 4), (0 1) of S5 and (0 1 2 3 4), (1 2)(3 4) of A5 by the Schreier-Sims algorithm.
COSET_CHAINS: dict[str, tuple[tuple[tuple[int, ...], ...], ...]] = {
    "S5": (
        ((0, 1, 2, 3, 4), (1, 2, 3, 4, 0), (2, 3, 4, 0, 1), (3, 4, 0, 1, 2), (4, 1, 2, 3, 0)),
        ((0, 1, 2, 3, 4), (0, 2, 1, 4, 3), (0, 3, 4, 1, 2), (0, 4, 1, 2, 3)),
        ((0, 1, 4, 2, 3), (0, 1, 2, 3, 4), (0, 1, 2, 4, 3)),
        ((0, 1, 2, 3, 4), (0, 1, 4, 3, 2)),
    ),
    "A5": (
        ((0, 1, 2, 3, 4), (1, 2, 3, 4, 0), (2, 3, 4, 0, 1), (3, 4, 0, 1, 2), (4, 2, 1, 3, 0)),
        ((0, 1, 2, 3, 4), (0, 2, 1, 4, 3), (0, 3, 1, 2, 4), (0, 4, 2, 1, 3)),
        ((0, 1, 2, 3, 4), (0, 1, 3, 4, 2), (0, 1, 4, 2, 3)),
    ),
}


def finite_group(name: str, order: str = "") -> FiniteGroup:
    """Return the group of a name or of a file with its Cayley table.

    Parameters
    ----------
    name : str
        ``Zn`` or ``Cn`` (cyclic, n ≥ 1), ``Dn`` (dihedral of order 2n, n ≥ 3), ``Sn`` (n ≥ 3),
        ``An`` (n ≥ 4), products such as ``Z6xZ10`` or ``S3xZ2``; or the path of a table, see
        `read_table`.
    order : {"", "coset", "lexicographic"}
        How the permutations of symmetric and alternating groups are numbered. By default S5 and
        A5 in coset order, as the published models do (`COSET_CHAINS`), others
        lexicographically by their images of 0, 1, ....

    Returns
    -------
    FiniteGroup

    Raises
    ------
    TaskError
        If there is no such group, or it is too large.
    """
    if not isinstance(name, str) or not name.strip():
        raise TaskError(
            f"a group is named such as 'Z113', 'Z6xZ10', 'D59', 'S5' or 'table.csv', found "
            f"{name!r}." + (f" Did you mean 'Z{name}'?" if isinstance(name, int) else "")
        )
    if order not in ("", *ORDERS):
        raise TaskError(
            f"group {name}: the order of permutations is one of {', '.join(ORDERS)}, found "
            f"{order!r}."
        )
    if Path(name).suffix.lower() in TABLE_SUFFIXES:
        if order:
            raise TaskError(f"group {name}: a table says its own order; leave out 'order'.")
        return read_table(name)
    factors = [_factor(name, part, order) for part in re.split(r"[x×*]", name.strip())]
    if order and not any(factor.permutations is not None for factor in factors):
        raise TaskError(
            f"group {name}: only symmetric and alternating groups can be numbered in another "
            "order. Leave out 'order'."
        )
    return reduce(direct_product, factors)


def _factor(name: str, part: str, order: str) -> FiniteGroup:
    """Return one factor of a product."""
    found = re.fullmatch(r"([ZCDSA])([0-9]{1,6})", part.strip(), re.IGNORECASE)
    if not found:
        raise TaskError(
            f"group {name!r}: {part!r} is no known group. Known are Zn (also Cn), Dn, Sn and An, "
            "products such as Z6xZ10, and files with a Cayley table "
            f"({', '.join(TABLE_SUFFIXES)})."
        )
    kind, n = found[1].upper(), int(found[2])
    make, least, instead = {
        "Z": (cyclic, 1, ""),
        "C": (cyclic, 1, ""),
        "D": (dihedral, 3, "; D1 is Z2 and D2 is Z2xZ2"),
        "S": (symmetric, 3, "; S2 is Z2"),
        "A": (alternating, 4, "; A3 is Z3"),
    }[kind]
    if n < least:
        raise TaskError(f"group {name!r}: {kind}n needs n ≥ {least}, found {part}{instead}.")
    return make(n, order) if make in (symmetric, alternating) else make(n)


def cyclic(n: int) -> FiniteGroup:
    """Return Z_n, addition modulo n; its word metric is the distance on the cycle."""
    check_order(f"Z{n}", n)
    residues = np.arange(n, dtype=np.int64)
    return FiniteGroup(
        name=f"Z{n}",
        table=(residues[:, None] + residues) % n,
        elements=tuple(str(x) for x in range(n)),
        generators=(1 % n,),
        family="abelian",
        periods=(n,),
        coordinates=residues[:, None],
    )


def dihedral(n: int) -> FiniteGroup:
    """Return D_n, the symmetries of an n-gon, of order 2n.

    Element ``i < n`` is the rotation rⁱ, element ``n + i`` the reflection rⁱs, and
    ``s·r = r⁻¹·s``. Generators r and s.
    """
    check_order(f"D{n}", 2 * n)
    turn = np.tile(np.arange(n, dtype=np.int64), 2)
    flip = np.repeat(np.arange(2, dtype=np.int64), n)
    turned = turn[:, None] + np.where(flip[:, None] == 1, -1, 1) * turn
    names = ["1", "r", *(f"r{i}" for i in range(2, n))]
    return FiniteGroup(
        name=f"D{n}",
        table=turned % n + n * (flip[:, None] ^ flip),
        elements=(*names, "s", *(f"{r}s" for r in names[1:])),
        generators=(1, n),
        family="dihedral",
    )


def symmetric(n: int, order: str = "") -> FiniteGroup:
    """Return S_n; generators are the swaps of neighbours, (0 1), (1 2), ....

    ``x·y`` applies x first. A product with a swap from the right exchanges two values, so the
    word length of a permutation is its number of inversions.
    """
    _check_points("S", n)
    swaps = []
    for i in range(n - 1):
        swap = list(range(n))
        swap[i], swap[i + 1] = i + 1, i
        swaps.append(tuple(swap))
    return _of_permutations(f"S{n}", n, order, swaps, even=False)


def alternating(n: int, order: str = "") -> FiniteGroup:
    """Return A_n; generators are the three-cycles (0 1 2), (0 1 3), ..., (0 1 n-1)."""
    _check_points("A", n)
    cycles = []
    for i in range(2, n):
        cycle = list(range(n))
        cycle[0], cycle[1], cycle[i] = 1, i, 0
        cycles.append(tuple(cycle))
    return _of_permutations(f"A{n}", n, order, cycles, even=True)


def _check_points(kind: str, n: int) -> None:
    """Raise a `TaskError` if the permutations of n points are too many to be tabled."""
    if n > 20:  # the number itself would fill the screen
        raise TaskError(
            f"the group {kind}{n} has more elements than can be tabled. Take a smaller group."
        )
    check_order(f"{kind}{n}", math.factorial(n) // (2 if kind == "A" else 1))


def _of_permutations(
    name: str, n: int, order: str, generators: list[tuple[int, ...]], *, even: bool
) -> FiniteGroup:
    """Return the group of all (or all even) permutations of n points."""
    order = order or ("coset" if name in COSET_CHAINS else "lexicographic")
    if order == "coset":
        if name not in COSET_CHAINS:
            raise TaskError(
                f"group {name}: a coset order is known for {' and '.join(COSET_CHAINS)} only. "
                "Take order=lexicographic, or give the Cayley table as a file."
            )
        listed = np.arange(n)[None, :]
        for chain in reversed(COSET_CHAINS[name]):  # the slowest first; it also acts first
            then = np.array(chain)
            listed = np.array([after[first] for first in listed for after in then])
    else:
        listed = np.array(list(itertools.permutations(range(n))))
        if even:
            listed = listed[_signs(listed) > 0]
    permutations = np.asarray(listed, dtype=np.int64)
    products = permutations[np.arange(len(permutations))[None, :, None], permutations[:, None, :]]
    weights = n ** np.arange(n, dtype=np.int64)
    number = np.full(n**n, -1, dtype=np.int64)
    number[permutations @ weights] = np.arange(len(permutations))
    return FiniteGroup(
        name=name,
        table=number[products @ weights],
        elements=tuple(_cycles(p) for p in permutations.tolist()),
        generators=tuple(int(number[np.array(g) @ weights]) for g in generators),
        family="alternating" if even else "symmetric",
        permutations=permutations,
    )


def _signs(permutations: IntArray) -> IntArray:
    """Return the sign of each permutation, (m,): -1 for an odd number of inversions."""
    n = permutations.shape[1]
    i, j = np.triu_indices(n, 1)
    inversions = (permutations[:, i] > permutations[:, j]).sum(axis=1)
    return np.asarray(1 - 2 * (inversions % 2), dtype=np.int64)


def _cycles(permutation: list[int]) -> str:
    """Return a permutation in cycle notation, ``()`` for the identity."""
    seen: set[int] = set()
    words = []
    for start in range(len(permutation)):
        cycle = []
        point = start
        while point not in seen:
            seen.add(point)
            cycle.append(str(point))
            point = permutation[point]
        if len(cycle) > 1:
            words.append(f"({' '.join(cycle)})")
    return "".join(words) or "()"
