"""Irreducible representations: homomorphism, orthogonality, completeness, known characters."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import geomdiag as gd
from geomdiag.errors import TaskError
from geomdiag.tasks.groups import FiniteGroup, finite_group, group_from_table, irreps
from geomdiag.tasks.groups.partitions import conjugate, murnaghan_nakayama, partitions

#: SL(2, 3) has real, complex and quaternionic representations, of which a pair is both.
NAMES = (
    *("Z1", "Z7", "Z6xZ10", "Z2xZ2xZ3", "D4", "D5", "D6", "D59", "S3", "S4", "S5", "A4", "A5"),
    *("Q8", "SL(2,3)", "7:3", "S3xZ2", "A4xZ3"),
)


def matrices_mod(p: int) -> np.ndarray:
    """Cayley table of SL(2, p)."""
    elements = [
        m for m in itertools.product(range(p), repeat=4) if (m[0] * m[3] - m[1] * m[2]) % p == 1
    ]
    number = {m: i for i, m in enumerate(elements)}

    def product(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
        return (
            (a[0] * b[0] + a[1] * b[2]) % p,
            (a[0] * b[1] + a[1] * b[3]) % p,
            (a[2] * b[0] + a[3] * b[2]) % p,
            (a[2] * b[1] + a[3] * b[3]) % p,
        )

    return np.array([[number[product(a, b)] for b in elements] for a in elements])


def frobenius21() -> np.ndarray:
    """Cayley table of the maps x ↦ ax + b modulo 7 with a in {1, 2, 4}."""
    maps = [(a, b) for a in (1, 2, 4) for b in range(7)]
    return np.array([[maps.index((a * c % 7, (a * d + b) % 7)) for c, d in maps] for a, b in maps])


def quaternions() -> np.ndarray:
    """Q8: the elements of SL(2, 3) whose order divides 4."""
    table = matrices_mod(3)
    group = group_from_table(table)
    inside = np.flatnonzero(4 % group.orders == 0)
    return np.searchsorted(inside, table[np.ix_(inside, inside)])


def made(name: str) -> FiniteGroup:
    tables = {"Q8": quaternions, "SL(2,3)": lambda: matrices_mod(3), "7:3": frobenius21}
    return group_from_table(tables[name](), name=name) if name in tables else finite_group(name)


def check(group: FiniteGroup) -> None:
    m, table = group.order, group.table
    found = irreps(group)
    assert found[0].label in ("trivial", "k=0", "k=" + ",".join("0" * len(group.periods)))
    np.testing.assert_array_equal(found[0].character, np.ones(m))
    assert len({each.label for each in found}) == len(found)
    # As many complex representations as conjugacy classes; squares of degrees sum to m.
    pairs = [2 if each.kind == "complex" else 1 for each in found]
    assert sum(pairs) == len(set(group.conjugacy_classes.tolist()))
    assert sum(n * each.degree**2 for n, each in zip(pairs, found, strict=True)) == m
    # A real representation of a quaternionic or complex kind holds χ twice or χ and χ̄.
    norms = {"real": 1, "complex": 2, "quaternionic": 4}
    x, y = np.random.default_rng(0).integers(0, m, (2, 300))
    for each in found:
        rho = each.matrices
        d = each.dimension
        assert rho.shape == (m, d, d)
        assert np.abs(rho[table[x, y]] - rho[x] @ rho[y]).max() < 1e-12
        assert np.abs(rho @ rho.swapaxes(1, 2) - np.eye(d)).max() < 1e-12
        trace = np.trace(rho, axis1=1, axis2=2)
        assert (
            np.abs(trace - each.character * (2 if each.kind == "quaternionic" else 1)).max() < 1e-12
        )
        assert np.mean(trace**2) == pytest.approx(norms[each.kind], abs=1e-12)
        # Frobenius-Schur: the mean of χ(g²) tells the kind.
        squares = each.character[table[np.arange(m), np.arange(m)]].mean()
        indicator = {"real": 1, "complex": 0, "quaternionic": -1}[each.kind]
        assert squares == pytest.approx(indicator, abs=1e-12)
        # degree/m · χ(g h⁻¹) projects onto the block.
        kernel = each.degree / m * each.character[table[:, group.inverses]]
        assert np.abs(kernel - each.functions @ each.functions.T).max() < 1e-12
        # Schur: coefficients of a real representation are orthogonal.
        if each.kind == "real":
            flat = rho.reshape(m, -1)
            gram = flat.T @ flat * d / m
            assert np.abs(gram - np.eye(d * d)).max() < 1e-11
    for one, other in itertools.combinations(found[:8], 2):
        cross = one.matrices.reshape(m, -1).T @ other.matrices.reshape(m, -1) / m
        assert np.abs(cross).max() < 1e-12
    everything = np.concatenate([each.functions for each in found], axis=1)
    assert np.abs(everything.T @ everything - np.eye(m)).max() < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_representations(name: str) -> None:
    check(made(name))


@pytest.mark.parametrize("name", ["S6", "A6", "S5xZ3"])
def test_large_representations(name: str) -> None:
    check(finite_group(name))


def test_known_kinds() -> None:
    def kinds(name: str) -> list[tuple[int, str]]:
        return sorted((each.degree, each.kind) for each in irreps(made(name)))

    assert kinds("Q8") == [(1, "real")] * 4 + [(2, "quaternionic")]
    assert kinds("SL(2,3)") == [
        (1, "complex"), (1, "real"), (2, "complex"), (2, "quaternionic"), (3, "real"),
    ]  # fmt: skip
    assert kinds("7:3") == [(1, "complex"), (1, "real"), (3, "complex")]
    assert kinds("A4") == [(1, "complex"), (1, "real"), (3, "real")]


def test_labels() -> None:
    def labels(name: str) -> list[str]:
        return [each.label for each in irreps(made(name))]

    assert labels("Z6") == ["k=0", "k=1", "k=2", "k=3"]
    assert labels("Z2xZ3") == ["k=0,0", "k=0,1", "k=1,0", "k=1,1"]
    assert labels("D5") == ["trivial", "sign", "k=1", "k=2"]
    assert labels("D6") == ["trivial", "sign", "parity", "parity_sign", "k=1", "k=2"]
    assert labels("S3") == ["trivial", "sign", "standard"]
    assert labels("S5") == [
        "trivial", "sign", "standard", "standard_sign", "[3,2]", "[3,1,1]", "[2,2,1]",
    ]  # fmt: skip
    assert labels("A5") == ["trivial", "standard", "[3,2]", "[3,1,1]a", "[3,1,1]b"]
    assert labels("A4") == ["trivial", "standard", "[2,2]"]
    assert labels("Q8") == ["trivial", "1a", "1b", "1c", "2a"]


@pytest.mark.parametrize("n", [3, 4, 5, 6, 7])
def test_murnaghan_nakayama(n: int) -> None:
    shapes = list(partitions(n))
    table = np.array([[murnaghan_nakayama(a, c) for c in shapes] for a in shapes])
    size = [
        math.factorial(n)
        // math.prod(part**count * math.factorial(count) for part, count in
                     ((p, c.count(p)) for p in set(c)))
        for c in shapes
    ]  # fmt: skip
    assert sum(size) == math.factorial(n)
    gram = (table * np.array(size)) @ table.T
    assert (gram == math.factorial(n) * np.eye(len(shapes), dtype=int)).all()
    sign = np.array([(-1) ** (n - len(c)) for c in shapes])
    fixed = np.array([c.count(1) for c in shapes])
    assert (table[shapes.index((1,) * n)] == sign).all()
    assert (table[shapes.index((n - 1, 1))] == fixed - 1).all()
    for row, shape in zip(table, shapes, strict=True):
        assert (table[shapes.index(conjugate(shape))] == row * sign).all()


def test_known_characters_of_s5() -> None:
    # Classes: 1⁵, 2·1³, 2²·1, 3·1², 3·2, 4·1, 5.
    classes = [(1,) * 5, (2, 1, 1, 1), (2, 2, 1), (3, 1, 1), (3, 2), (4, 1), (5,)]
    known = {
        (4, 1): [4, 2, 0, 1, -1, 0, -1],
        (3, 2): [5, 1, 1, -1, 1, -1, 0],
        (3, 1, 1): [6, 0, -2, 0, 0, 0, 1],
        (2, 2, 1): [5, -1, 1, -1, -1, 1, 0],
    }
    for shape, values in known.items():
        assert [murnaghan_nakayama(shape, c) for c in classes] == values


def test_the_two_icosahedral_representations() -> None:
    golden = (1 + math.sqrt(5)) / 2
    for order in ("coset", "lexicographic"):
        group = finite_group("A5", order)
        five = group.elements.index("(0 1 2 3 4)")
        square = group.table[five, five]
        a, b = (each for each in irreps(group) if each.degree == 3)
        assert a.character[five] == pytest.approx(golden)
        assert a.character[square] == pytest.approx(1 - golden)
        assert b.character[five] == pytest.approx(1 - golden)
        # A rotation by a fifth and by two fifths of a turn.
        assert np.trace(a.matrices[five]) == pytest.approx(1 + 2 * math.cos(2 * math.pi / 5))
        assert np.trace(b.matrices[five]) == pytest.approx(1 + 2 * math.cos(4 * math.pi / 5))


def test_standard_representation_is_the_permutation_matrices() -> None:
    group = finite_group("S5")
    assert group.permutations is not None
    fixed = (group.permutations == np.arange(5)).sum(axis=1)
    standard = next(each for each in irreps(group) if each.label == "standard")
    np.testing.assert_array_equal(standard.character, fixed - 1.0)


def test_numbering_does_not_matter() -> None:
    def power(order: str) -> list[float]:
        group = finite_group("S4", order) if order else finite_group("S4")
        assert group.permutations is not None
        values = np.sin(group.permutations @ np.array([1.0, 2.0, 5.0, 11.0]))
        return [float(((each.functions.T @ values) ** 2).sum()) for each in irreps(group)]

    table = finite_group("S4").table
    new = np.random.default_rng(1).permutation(24)
    moved = np.empty_like(table)
    moved[np.ix_(new, new)] = new[table]
    by_table = irreps(group_from_table(moved))
    permutations = finite_group("S4").permutations
    assert permutations is not None
    values = np.empty(24)
    values[new] = np.sin(permutations @ np.array([1.0, 2.0, 5.0, 11.0]))
    found = sorted(float(((each.functions.T @ values) ** 2).sum()) for each in by_table)
    np.testing.assert_allclose(found, sorted(power("")), atol=1e-12)


def test_too_large_a_group_is_told() -> None:
    with pytest.raises(TaskError, match="up to order"):
        irreps(finite_group("S5xZ20"))
    assert gd.irreps is irreps
