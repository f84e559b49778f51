"""Real irreducible representations of a finite group, and the functions on it they span.

A representation is kept as an orthonormal basis of functions on the group that span it: the
left translations (L_g f)(x) = f(g⁻¹x) map that space to itself, and their matrices in the
basis are the orthogonal matrices of the representation. All functions of one kind together,
the isotypic component, are what a spectrum sums up as one block (Peter-Weyl).

Three ways lead there. Abelian and dihedral groups have closed forms. All others: the operator
``(S f)(x) = Σ_y c(x⁻¹y) f(y)`` with c(h) = c(h⁻¹) otherwise random is symmetric and commutes
with every left translation, so its eigenspaces are invariant; for almost every c they are
irreducible over the reals, which is checked by ⟨χ, χ⟩ = 1, 2 or 4 (Dixon 1970,
doi:10.1090/S0025-5718-1970-0280611-6, with one operator in place of his averages).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from geomdiag.errors import TaskError
from geomdiag.tasks.contract import FloatArray, IntArray
from geomdiag.tasks.groups.finite import FiniteGroup
from geomdiag.tasks.groups.named import finite_group
from geomdiag.tasks.groups.partitions import alternating_characters, symmetric_characters

__all__ = ["MAX_DECOMPOSED", "Irrep", "irreps"]

#: Largest group without a closed form whose representations are computed: the dense
#: eigenproblem grows with the third power of the order.
MAX_DECOMPOSED = 1500

#: Seeds tried for the random operator, and the gap between its eigenvalues, as a share of the
#: largest, from which no further seed is tried. Eigenspaces are exact to about 1e-15 / gap.
_SEEDS, _WIDE_GAP, _SAME = 12, 2e-4, 1e-9

Kind = Literal["real", "complex", "quaternionic"]
_KINDS: dict[int, Kind] = {1: "real", 2: "complex", 4: "quaternionic"}


@dataclass(frozen=True, eq=False, kw_only=True)
class Irrep:
    """A real irreducible representation: a complex one, or a pair χ, χ̄ of them, as one block.

    Attributes
    ----------
    label : str
        Name of the block.
    kind : {"real", "complex", "quaternionic"}
        Frobenius-Schur type of the complex representation χ.
    degree : int
        Dimension of χ. The real representation has that dimension if χ is real, twice that
        otherwise.
    character : (m,) float array
        χ, or χ + χ̄ where they differ.
    functions : (m, f) float array
        Orthonormal basis of the isotypic component over the reals: degree² functions,
        2·degree² for the complex kind. The first `dimension` span one real representation.
    coordinates : tuple of int
        For an abelian group, the frequency on the dual grid; empty otherwise.
    group : FiniteGroup
        The group it represents.
    """

    label: str
    kind: Kind
    degree: int
    character: FloatArray
    functions: FloatArray
    coordinates: tuple[int, ...] = ()
    group: FiniteGroup

    @property
    def dimension(self) -> int:
        """Dimension of the real representation."""
        return self.degree if self.kind == "real" else 2 * self.degree

    @cached_property
    def matrices(self) -> FloatArray:
        """Orthogonal matrix of each element, (m, dimension, dimension): ρ(xy) = ρ(x)ρ(y)."""
        space = self.functions[:, : self.dimension]
        back = self.group.table[self.group.inverses]  # row g: where g⁻¹ sends each element
        return np.stack([space.T @ space[row] for row in back])


def irreps(group: FiniteGroup | str) -> tuple[Irrep, ...]:
    """Return the real irreducible representations of a finite group.

    Parameters
    ----------
    group : FiniteGroup or str
        A group, or its name; see `finite_group`.

    Returns
    -------
    tuple of Irrep
        The trivial one first. Labels: ``k=3`` and ``k=1,2`` for cyclic groups and their
        products (the smaller of k and -k); ``trivial``, ``sign`` (the determinant),
        ``parity`` and ``parity_sign`` (even n; r ↦ -1, and s ↦ 1 or -1), ``k=1`` ... for
        dihedral groups; for symmetric and alternating groups see `partition_name` and
        `alternating_characters`; for any other group ``trivial`` and then the degree and a
        letter, such as ``3b``, in the order of the characters.

    Raises
    ------
    TaskError
        If the group has no closed form and more than `MAX_DECOMPOSED` elements.
    """
    if isinstance(group, str):
        group = finite_group(group)
    if group.family == "abelian":
        return _abelian(group)
    if group.family == "dihedral":
        return _dihedral(group)
    return _labelled(group, _decomposed(group))


def _abelian(group: FiniteGroup) -> tuple[Irrep, ...]:
    """Return the characters, k and -k joined."""
    if group.coordinates is None:
        raise TaskError(f"{group.name}: an abelian group needs the coordinates of its elements.")
    common = math.lcm(*group.periods)
    weights = common // np.array(group.periods)
    found = []
    # Frequencies are elements of the same grid; each pair is kept at its smaller member.
    for frequency in np.ndindex(*group.periods):
        mirrored = tuple((-k) % n for k, n in zip(frequency, group.periods, strict=True))
        if mirrored < frequency:
            continue
        # Reduced in whole numbers first: the angle is exact however large k·x is.
        turn = group.coordinates @ (np.array(frequency) * weights) % common
        angle = 2 * np.pi * turn / common
        m = group.order
        if mirrored == frequency:
            character = np.where(turn == 0, 1.0, -1.0)
            functions = character[:, None] / math.sqrt(m)
        else:
            character = 2 * np.cos(angle)
            functions = np.stack([np.cos(angle), np.sin(angle)], axis=1) * math.sqrt(2 / m)
        found.append(
            Irrep(
                label="k=" + ",".join(str(k) for k in frequency),
                kind="real" if mirrored == frequency else "complex",
                degree=1,
                character=character,
                functions=functions,
                coordinates=frequency,
                group=group,
            )
        )
    return tuple(found)


def _dihedral(group: FiniteGroup) -> tuple[Irrep, ...]:
    """Return the characters and the rotation-reflection representations."""
    n = group.order // 2
    turn = np.tile(np.arange(n), 2)
    flip = np.repeat([1.0, -1.0], n)
    signs = {"trivial": np.ones(2 * n), "sign": flip}
    if n % 2 == 0:
        signs["parity"] = np.where(turn % 2 == 0, 1.0, -1.0)
        signs["parity_sign"] = signs["parity"] * flip
    found = [
        Irrep(
            label=label,
            kind="real",
            degree=1,
            character=values,
            functions=values[:, None] / math.sqrt(2 * n),
            group=group,
        )
        for label, values in signs.items()
    ]
    for k in range(1, (n + 1) // 2):
        angle = 2 * np.pi * (k * turn % n) / n
        cos, sin = np.cos(angle), np.sin(angle)
        # ρ(rⁱ) turns by the angle, ρ(s) = diag(1, -1); columns of the matrix one by one.
        coefficients = np.stack([cos, sin, -flip * sin, flip * cos], axis=1)
        found.append(
            Irrep(
                label=f"k={k}",
                kind="real",
                degree=2,
                character=np.where(flip > 0, 2 * cos, 0.0),
                functions=coefficients * math.sqrt(1 / n),
                group=group,
            )
        )
    return tuple(found)


def _decomposed(group: FiniteGroup) -> list[tuple[Kind, int, FloatArray, FloatArray]]:
    """Return kind, degree, character and functions of every isotypic component."""
    if group.order > MAX_DECOMPOSED:
        raise TaskError(
            f"{group.name} has {group.order} elements; representations of groups that are neither "
            f"abelian nor dihedral are computed up to order {MAX_DECOMPOSED}. Take a smaller one."
        )
    spaces: list[tuple[FloatArray, FloatArray, int]] = []
    for space in _eigenspaces(group):
        character = _character(group, space)
        norm = float(np.mean(character**2))
        if round(norm) not in _KINDS or abs(norm - round(norm)) > 1e-6:
            raise TaskError(
                f"{group.name}: the regular representation did not come apart into irreducible "
                f"ones (a part of dimension {space.shape[1]} has ⟨χ, χ⟩ = {norm:.6g}, expected "
                "1, 2 or 4). Please report this group."
            )
        spaces.append((character, space, round(norm)))
    found: list[tuple[Kind, int, FloatArray, FloatArray]] = []
    while spaces:
        character, first, norm = spaces[0]
        # Equal representations have ⟨χ, χ'⟩ = norm, different ones 0.
        same = [float(np.mean(character * other)) > norm / 2 for other, _, _ in spaces]
        together = [space for (_, space, _), alike in zip(spaces, same, strict=True) if alike]
        spaces = [each for each, alike in zip(spaces, same, strict=True) if not alike]
        kind = _KINDS[norm]
        degree = first.shape[1] // (1 if kind == "real" else 2)
        functions = np.concatenate(together, axis=1)
        if functions.shape[1] != degree**2 * (2 if kind == "complex" else 1):
            raise TaskError(
                f"{group.name}: a representation of degree {degree} was found "
                f"{functions.shape[1]} functions. Please report this group."
            )
        found.append((kind, degree, character / (2 if kind == "quaternionic" else 1), functions))
    return found


def _eigenspaces(group: FiniteGroup) -> list[FloatArray]:
    """Return the eigenspaces of the random operator whose eigenvalues stand furthest apart."""
    quotients = group.table[group.inverses]  # (x, y) → x⁻¹y
    best: tuple[float, int] = (-1.0, 0)
    for seed in range(_SEEDS):
        gap = min(
            (gap for gap in _gaps(_operator(group, quotients, seed)) if gap > _SAME), default=1.0
        )
        best = max(best, (gap, -seed))
        if gap >= _WIDE_GAP:
            break
    operator = _operator(group, quotients, -best[1])
    values, vectors = np.linalg.eigh(operator)
    scale = float(np.abs(values).max())
    cuts = np.flatnonzero(np.diff(values) > _SAME * scale) + 1
    return [np.asarray(part) for part in np.split(vectors, cuts, axis=1)]


def _operator(group: FiniteGroup, quotients: IntArray, seed: int) -> FloatArray:
    weights = np.random.default_rng(seed).standard_normal(group.order)
    operator: FloatArray = ((weights + weights[group.inverses]) / 2)[quotients]
    return operator


def _gaps(operator: FloatArray) -> FloatArray:
    """Return distances between neighbouring eigenvalues as shares of the largest."""
    values = np.linalg.eigvalsh(operator)
    gaps: FloatArray = np.diff(values) / np.abs(values).max()
    return gaps


def _character(group: FiniteGroup, space: FloatArray) -> FloatArray:
    """Return the trace of each left translation on a space of functions, (m,)."""
    back = group.table[group.inverses]
    projector = space @ space.T
    trace = projector[np.arange(group.order), back].sum(axis=1)
    # Constant on conjugacy classes: the average over one is the same with less rounding.
    classes = group.conjugacy_classes
    mean: FloatArray = np.bincount(classes, weights=trace) / np.bincount(classes)
    return mean[classes]


def _labelled(
    group: FiniteGroup, components: list[tuple[Kind, int, FloatArray, FloatArray]]
) -> tuple[Irrep, ...]:
    """Return the components as representations, named and in order."""
    if group.family in ("symmetric", "alternating") and group.permutations is not None:
        named = (
            symmetric_characters(group.permutations)
            if group.family == "symmetric"
            else alternating_characters(group.permutations)
        )
    else:
        named = _by_degree(components)
    found = []
    for label, character in named.items():
        kind, degree, _, functions = next(
            each for each in components if np.abs(each[2] - character).max() < 1e-6
        )
        if label == "trivial":  # constant to the last digit
            functions = np.full_like(functions, 1 / math.sqrt(group.order))
        found.append(
            Irrep(
                label=label,
                kind=kind,
                degree=degree,
                character=character,
                functions=functions,
                group=group,
            )
        )
    return tuple(found)


def _by_degree(
    components: list[tuple[Kind, int, FloatArray, FloatArray]],
) -> dict[str, FloatArray]:
    """Return the characters named by degree and letter, the trivial one first."""
    order = sorted(
        components,
        key=lambda each: (
            each[1],
            list(_KINDS.values()).index(each[0]),
            # Rounded, and without a negative zero: rounding errors must not decide.
            tuple(-np.round(each[2], 6) + 0.0),
        ),
    )
    names: dict[str, FloatArray] = {}
    count: dict[int, int] = {}
    for _, degree, character, _ in order:
        if np.abs(character - 1).max() < 1e-6:
            names["trivial"] = np.ones_like(character)
            continue
        count[degree] = count.get(degree, 0) + 1
        names[f"{degree}{_letters(count[degree])}"] = character
    return names


def _letters(number: int) -> str:
    """Return 1, 2, ... as a, b, ..., z, aa, ab, ...."""
    word = ""
    while number:
        number, rest = divmod(number - 1, 26)
        word = chr(ord("a") + rest) + word
    return word
