"""Helices and circles of abelian groups that are not cyclic."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import geomdiag as gd
from geomdiag.analyzers._characters import block_phases
from geomdiag.metrics.character_helix import character_helix_fit, generates
from geomdiag.metrics.circle import circle_fit, pizza_circularity
from geomdiag.metrics.helix import helix_fit


def drawn(spec: str, labels: list[str], noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """Return rows in which the token traces the circle of each of some characters."""
    basis = gd.task(spec).basis
    rng = np.random.default_rng(seed)
    chosen = np.isin(basis.block, [basis.labels.index(label) for label in labels])
    rows = basis.vectors[:, chosen] @ rng.standard_normal((chosen.sum(), 12))
    return rows + noise * rng.standard_normal(rows.shape)


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=3),
    st.lists(st.lists(st.integers(0, 5), min_size=3, max_size=3), max_size=4),
)
def test_generators_of_the_dual_tell_all_tokens_apart(
    periods: list[int], chosen: list[list[int]]
) -> None:
    frequencies = [[k % n for k, n in zip(one, periods, strict=False)] for one in chosen]
    places = {
        tuple(
            sum(
                k * x * math.lcm(*periods) // n for k, x, n in zip(one, token, periods, strict=True)
            )
            % math.lcm(*periods)
            for one in frequencies
        )
        for token in itertools.product(*map(range, periods))
    }
    assert generates(frequencies, periods) == (len(places) == math.prod(periods))


def test_generators_of_known_groups() -> None:
    assert generates([[3]], [113])
    assert not generates([[4], [6]], [12])
    assert generates([[4], [9]], [12])
    assert generates([[1, 0], [0, 1]], [6, 10])
    assert not generates([[1, 1]], [6, 10])  # of order 30
    assert generates([[1, 1]], [3, 5])  # of order 15, all of them
    assert not generates(np.empty((0, 2), dtype=int), [6, 10])
    with pytest.raises(ValueError, match="expected 2 each"):
        generates([[1], [2]], [6, 10])


@pytest.mark.parametrize(("m", "key"), [(13, [2, 5]), (12, [1, 6])])
def test_in_a_cyclic_group_it_is_the_helix_fit(m: int, key: list[int]) -> None:
    basis = gd.task(f"modadd:p={m}").basis
    rows = np.random.default_rng(0).standard_normal((m, 5))
    rows += (
        2
        * basis.vectors[:, np.isin(basis.block, key)]
        @ np.ones((np.isin(basis.block, key).sum(), 5))
    )
    found = character_helix_fit(rows, key, vectors=basis.vectors, block=basis.block)
    expected = helix_fit(rows, key)
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("labels", [["k=1,2"], ["k=3,0", "k=0,1"], ["k=3,5", "k=2,7"]])
def test_leave_one_out_is_that_of_refitting(labels: list[str]) -> None:
    basis = gd.task("group:Z6xZ10").basis
    rows = drawn("group:Z6xZ10", labels, noise=0.05)
    key = [basis.labels.index(label) for label in labels]
    found = character_helix_fit(rows, key, vectors=basis.vectors, block=basis.block, permutations=0)
    design = np.column_stack([np.ones(60), basis.vectors[:, np.isin(basis.block, key)]])
    fitted = design @ np.linalg.lstsq(design, rows)[0]
    spread = ((rows - rows.mean(axis=0)) ** 2).sum()
    assert found.r2 == pytest.approx(1 - ((rows - fitted) ** 2).sum() / spread, rel=1e-10)
    errors = bases = 0.0
    for left_out in range(60):
        rest = np.delete(np.arange(60), left_out)
        weights = np.linalg.lstsq(design[rest], rows[rest])[0]
        errors += ((rows[left_out] - design[left_out] @ weights) ** 2).sum()
        bases += ((rows[left_out] - rows[rest].mean(axis=0)) ** 2).sum()
    assert found.r2_loo == pytest.approx(1 - errors / bases, rel=1e-9)
    assert np.isnan(found.p_value)


def test_a_helix_is_told_from_noise() -> None:
    basis = gd.task("group:Z6xZ10").basis
    arguments = {"vectors": basis.vectors, "block": basis.block}
    key = [basis.labels.index(label) for label in ("k=1,2", "k=0,3")]
    rows = drawn("group:Z6xZ10", ["k=1,2", "k=0,3"], noise=0.02)
    assert character_helix_fit(rows, key, **arguments).p_value == pytest.approx(0.001)
    # in noise its own best characters are no better than those of relabelled tokens
    p_values = []
    for seed in range(40):
        noise = np.random.default_rng(seed).standard_normal((60, 8))
        power = (basis.vectors.T @ noise) ** 2
        blocks = np.bincount(basis.block, weights=power.sum(axis=1))[1:]
        best = 1 + np.argsort(-blocks)[:2]
        p_values.append(character_helix_fit(noise, best, permutations=99, **arguments).p_value)
    assert np.mean(np.array(p_values) <= 0.1) <= 0.25
    assert 0.3 < np.mean(p_values) < 0.7


def test_degenerate_helices() -> None:
    basis = gd.task("group:Z2xZ4").basis
    arguments = {"vectors": basis.vectors, "block": basis.block}
    rows = np.random.default_rng(0).standard_normal((8, 3))
    assert character_helix_fit(rows, [], **arguments) == (0.0, 0.0, 1.0, 0)
    assert np.isnan(character_helix_fit(np.full((8, 3), 0.1), [1], **arguments).r2)
    everything = range(1, len(basis.labels))
    whole = character_helix_fit(rows, everything, permutations=0, **arguments)
    assert whole.r2 == pytest.approx(1.0)
    assert np.isnan(whole.r2_loo)
    for wrong in ([0], [1, 1], [len(basis.labels)]):
        with pytest.raises(ValueError, match="expected different ones"):
            character_helix_fit(rows, wrong, **arguments)


def test_circles_by_phase_are_those_by_frequency() -> None:
    basis = gd.task("modadd:p=13").basis
    rows = np.random.default_rng(0).standard_normal((13, 6))
    expected = circle_fit(rows, [2, 5])
    found = circle_fit(rows, phases=block_phases(basis)[[2, 5]])
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10)
    pizza = pizza_circularity(rows, phases=block_phases(basis))
    assert pizza == pytest.approx(pizza_circularity(rows), rel=1e-10)
    four = gd.task("group:Z2xZ2").basis
    assert np.isnan(pizza_circularity(rows[:4], phases=block_phases(four)))


def test_a_character_of_a_product_traces_a_circle() -> None:
    task = gd.task("group:Z6xZ10")
    basis = task.basis
    blocks = [basis.labels.index(label) for label in ("k=1,2", "k=3,5", "k=0,1")]
    phases = block_phases(basis)[blocks]
    angle = phases[0]
    rows = np.stack([2 * np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    found = circle_fit(rows, phases=phases)
    assert found.axis_ratio[0] == pytest.approx(0.5)
    assert found.in_plane_share[0] == pytest.approx(1.0)
    assert found.phase_error[0] == pytest.approx(0.0, abs=1e-7)
    assert np.isnan(found.axis_ratio[1:]).all()  # a real character; one without power
    with pytest.raises(ValueError, match="a column for each of the 60 members"):
        circle_fit(rows, phases=phases[:, :5])
    with pytest.raises(ValueError, match="needs frequencies or phases"):
        circle_fit(rows)
