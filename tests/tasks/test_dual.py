"""The dual group: characters as functions, and which of them tell elements apart."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import geomdiag as gd
from geomdiag.errors import TaskError
from geomdiag.tasks.groups import group_from_table

PERIODS = st.lists(st.integers(1, 12), min_size=1, max_size=3).filter(
    lambda ns: math.prod(ns) <= 90
)


def named(periods: list[int]) -> str:
    return "x".join(f"Z{n}" for n in periods)


@given(PERIODS, st.data())
def test_generating_is_being_injective(periods: list[int], data: st.DataObject) -> None:
    dual = gd.dual(named(periods))
    size = data.draw(st.integers(0, 4))
    chosen = [tuple(data.draw(st.integers(-15, 15)) for _ in periods) for _ in range(size)]
    # The embedding itself, in floating point: two elements are the same if all values are.
    grid = np.array(list(np.ndindex(*periods)))
    phase = np.array([(grid * np.array(k) / np.array(periods)).sum(axis=1) for k in chosen])
    values = np.exp(2j * np.pi * phase.reshape(size, len(grid)))
    apart = np.abs(values[:, :, None] - values[:, None, :]).max(axis=0, initial=0.0)
    injective = bool((apart[~np.eye(len(grid), dtype=bool)] > 1e-9).all())
    assert dual.generates(chosen) == injective
    np.testing.assert_allclose(dual.values(chosen), values, atol=1e-9)
    # What the chosen characters generate, by closure under addition.
    span, front = {(0,) * len(periods)}, [(0,) * len(periods)]
    while front:
        at = front.pop()
        for k in chosen:
            to = tuple((a + b) % n for a, b, n in zip(at, k, periods, strict=True))
            if to not in span:
                span.add(to)
                front.append(to)
    assert (len(span) == len(grid)) == injective
    assert len(dual.kernel(chosen)) * len(span) == len(grid)
    if len(periods) == 1:  # Proposition 7.1
        assert injective == (math.gcd(periods[0], *(k[0] for k in chosen)) == 1)


@given(PERIODS)
def test_characters(periods: list[int]) -> None:
    dual = gd.dual(named(periods))
    m = math.prod(periods)
    values = dual.values(dual.frequencies)
    np.testing.assert_allclose(values @ values.conj().T, m * np.eye(m), atol=1e-9)
    np.testing.assert_allclose(values[dual.conjugates], values.conj(), atol=1e-9)
    table = dual.group.table
    np.testing.assert_allclose(values[:, table], values[:, :, None] * values[:, None, :], atol=1e-9)
    for order, row in zip(dual.orders.tolist(), values, strict=True):
        assert len(set(np.round(row, 6) + 0.0)) == order
    assert len(set(dual.labels)) == m
    assert dual.generates(dual.labels)


def test_blocks_of_the_basis_are_conjugate_pairs() -> None:
    for spec in ("group:Z12", "group:Z6xZ10", "group:Z2xZ2xZ3", "modadd:p=7"):
        basis, dual = gd.task(spec).basis, gd.dual(spec)
        assert basis.coordinates is not None
        assert basis.periods == dual.periods
        assert basis.coordinates.shape == (len(basis.labels), len(dual.periods))
        values = dual.values(dual.frequencies)
        for i, block in enumerate(dual.blocks.tolist()):
            space = basis.vectors[:, basis.block == block]
            np.testing.assert_allclose(space @ (space.T @ values[i]), values[i], atol=1e-12)
            smaller = min(i, int(dual.conjugates[i]))
            assert basis.coordinates[block].tolist() == dual.frequencies[smaller].tolist()
            assert basis.labels[block] == dual.labels[smaller]


def test_ways_to_say_a_character() -> None:
    z12, product = gd.dual("Z12"), gd.dual("Z6xZ10")
    assert z12.generates(5)
    assert z12.generates("k=5")
    assert z12.generates([3, 4])
    assert z12.generates(np.array([3, 4]))
    assert not z12.generates([4, 6])
    assert not z12.generates([])
    assert not product.generates((1, 1))
    assert product.generates(["k=1,0", (0, 1)])
    assert product.kernel((1, 1)).tolist() == [0, 35]  # (3, 5)
    for wrong in ([(1, 2, 3)], ["k=1"], [1.5], "k=", [True], [None]):
        with pytest.raises(TaskError, match="no character of Z6xZ10"):
            product.generates(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["Z1", "Z12", "Z2xZ4", "Z6xZ10", "Z3xZ3xZ2"])
def test_spectra_are_laid_out_on_the_dual_grid(name: str) -> None:
    dual, basis = gd.dual(name), gd.task(f"group:{name}").basis
    assert basis.coordinates is not None
    values = np.arange(len(basis.labels), dtype=np.float64) + 0.5
    grid = dual.on_grid(values)
    assert grid.shape == dual.periods
    for place, value in zip(basis.coordinates.tolist(), values, strict=True):
        mirrored = tuple(-k % n for k, n in zip(place, dual.periods, strict=True))
        assert grid[tuple(place)] == grid[mirrored] == value
    rest = dual.on_grid(np.stack([values[1:], 2 * values[1:]]))
    assert np.isnan(rest[:, *[0] * len(dual.periods)]).all()
    assert np.array_equal(rest[1], 2 * rest[0], equal_nan=True)
    with pytest.raises(TaskError, match="blocks"):
        dual.on_grid(np.zeros(len(values) + 1))


def test_dual_of_a_task_or_a_table() -> None:
    assert gd.dual("modadd:p=23").periods == (23,)
    assert gd.dual("modmul:p=7").periods == (6,)  # the units
    assert gd.dual(gd.task("group:Z6xZ10")).periods == (6, 10)
    table = gd.finite_group("Z2xZ4").table
    assert gd.dual(group_from_table(table)).periods == (4, 2)
    assert "Z6xZ10" in repr(gd.dual("Z6xZ10"))


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ("S5", "irreducible representations"),
        ("group:D5", "not abelian"),
        ("modsquare:p=7", "no group"),
    ],
)
def test_no_dual(spec: str, word: str) -> None:
    with pytest.raises(TaskError, match=word):
        gd.dual(spec)
