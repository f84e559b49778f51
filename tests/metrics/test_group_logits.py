"""Logits over any finite group: closed forms against loops over the group."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from helpers.small_groups import GENERATORS, SmallGroup, small_group

from geomdiag.metrics.fit import cross_entropy
from geomdiag.metrics.group_logits import equivariance_error, logit_spectrum, translation_sums
from geomdiag.metrics.irreps import character_losses
from geomdiag.metrics.progress import progress_losses

NAMES = list(GENERATORS)
NON_ABELIAN = ["S3", "D4", "Q8", "A4"]


def noisy(group: SmallGroup, seed: int = 0, size: float = 2.0) -> np.ndarray:
    """Return logits by x, y and z that favour the right answer a little."""
    m = group.order
    noise = np.random.default_rng(seed).standard_normal((m, m, m))
    return size * noise + 3.0 * np.eye(m)[group.table]


def centred(logits: np.ndarray) -> np.ndarray:
    return logits - logits.mean(axis=-1, keepdims=True)


def flat(logits: np.ndarray) -> np.ndarray:
    return logits.reshape(-1, logits.shape[-1])


def moved(group: SmallGroup, logits: np.ndarray, g: int, h: int) -> np.ndarray:
    """Return L(gx, yh)[gzh] at (x, y, z)."""
    both = group.table[group.table[g], h]
    return logits[np.ix_(group.table[g], group.table[:, h], both)]


def quotient(group: SmallGroup) -> np.ndarray:
    """Return xyz⁻¹ at (x, y, z)."""
    return group.table[:, group.inverse][group.table]


def spectral(group: SmallGroup) -> dict[str, Any]:
    return {**group.arguments(), "characters": group.characters}


def on_product(group: SmallGroup) -> dict[str, Any]:
    keys = ("order", "inputs", "result", "classes", "table")
    return {name: group.arguments()[name] for name in keys} | {
        "characters": group.characters,
        "degrees": group.degrees,
    }


@pytest.mark.parametrize("name", NAMES)
def test_translation_errors_are_those_of_a_loop(name: str) -> None:
    group = small_group(name)
    logits = noisy(group)
    plain, e = centred(logits), group.identity
    others = [g for g in range(group.order) if g != e]
    found = equivariance_error(flat(logits), **group.arguments())
    for side in ("left", "right"):
        errors = []
        for g in others:
            there = moved(group, plain, g, e) if side == "left" else moved(group, plain, e, g)
            errors.append(((there - plain) ** 2).sum() / (2 * (plain**2).sum()))
        assert found[side] == pytest.approx(np.mean(errors), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_equivariant_share_is_that_of_the_mean_over_all_translations(name: str) -> None:
    """The projection on what a group leaves alone is the mean over the group."""
    group = small_group(name)
    logits = noisy(group)
    plain = centred(logits)
    everything = range(group.order)
    mean = np.mean(
        [moved(group, plain, g, h) for g, h in itertools.product(everything, everything)], axis=0
    )
    found = logit_spectrum(flat(logits), **spectral(group))
    assert found.equivariant_share == pytest.approx((mean**2).sum() / (plain**2).sum(), rel=1e-12)
    # what is left is equivariant, and only that has no error
    again = logit_spectrum(flat(mean), **spectral(group))
    assert again.equivariant_share == pytest.approx(1.0, rel=1e-12)
    errors = equivariance_error(flat(mean), **group.arguments())
    np.testing.assert_allclose(list(errors.values()), 0.0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_power_is_that_of_least_squares(name: str) -> None:
    group = small_group(name)
    logits = noisy(group)
    plain = centred(logits)
    waves = group.characters[1:][:, quotient(group)]
    found = logit_spectrum(flat(logits), **spectral(group))
    expected = [(plain * w).sum() ** 2 / (w * w).sum() / (plain**2).sum() for w in waves]
    np.testing.assert_allclose(found.power, expected, rtol=1e-12)
    assert found.power.sum() <= found.equivariant_share * (1 + 1e-12)


@pytest.mark.parametrize("name", NON_ABELIAN)
def test_characters_are_what_associativity_leaves(name: str) -> None:
    """Both translations leave m dimensions; seeing nothing but xy leaves the characters."""
    group = small_group(name)
    m, table, inverse = group.order, group.table, group.inverse
    x, y, z = np.indices((m, m, m))
    function = np.random.default_rng(1).standard_normal(m)
    logits = centred(function[table[table[inverse[x], z], inverse[y]]])
    found = logit_spectrum(flat(logits), **spectral(group))
    assert found.equivariant_share == pytest.approx(1.0, rel=1e-12)
    assert found.power.sum() < 0.9
    by_product = np.zeros((m, m))
    for g, h in itertools.product(range(m), repeat=2):
        by_product[table[g, h]] += logits[g, h] / m
    pure = by_product[table]
    again = logit_spectrum(flat(pure), **spectral(group))
    assert again.equivariant_share == pytest.approx(1.0, rel=1e-12)
    if name != "A4":  # all its characters are real but one pair's difference
        assert again.power.sum() == pytest.approx(1.0, rel=1e-12)


def test_a_table_of_the_cyclic_group_gives_the_same_numbers() -> None:
    m = 12
    left, right = (grid.ravel() for grid in np.indices((m, m)))
    cyclic: dict[str, Any] = {
        "order": m, "inputs": np.arange(m * m), "left": left, "right": right,
        "result": (left + right) % m, "classes": np.arange(m),
    }  # fmt: skip
    table = np.add.outer(np.arange(m), np.arange(m)) % m
    logits = np.random.default_rng(0).standard_normal((m * m, m))
    one, other = translation_sums(logits, **cyclic), translation_sums(logits, **cyclic, table=table)
    for first, second in zip(one, other, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-10, atol=1e-12)
    angles = 2 * np.pi * np.outer(np.arange(m // 2 + 1), np.arange(m)) / m
    chi = np.cos(angles) * np.where(np.arange(m // 2 + 1) % (m // 2) == 0, 1, 2)[:, None]
    train = np.random.default_rng(1).random(m * m) < 0.5
    on = {name: cyclic[name] for name in ("order", "inputs", "result", "classes")}
    plain = progress_losses(logits, [2, 6], train=train, **on)
    given = progress_losses(logits, [2, 6], train=train, table=table, characters=chi, **on)
    assert given == pytest.approx(plain, rel=1e-12)
    first = character_losses(logits, train=train, **cyclic)
    second = character_losses(logits, train=train, **cyclic, table=table, characters=chi)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("key", [[], [1], [1, -1]])
def test_progress_losses_against_least_squares(name: str, key: list[int]) -> None:
    group = small_group(name)
    blocks = sorted({k % len(group.characters) for k in key})
    logits = flat(noisy(group))
    train = np.random.default_rng(2).random(len(logits)) < 0.4
    # the functions χ(xy·h⁻¹) of the inputs, over all h, span what the block's coefficients do
    product = group.table.ravel()
    design = np.concatenate(
        [group.characters[b][group.table[:, group.inverse]][product] for b in blocks]
        or [np.zeros((len(product), 1))],
        axis=1,
    )
    component = design @ np.linalg.lstsq(design, logits, rcond=1e-10)[0]
    found = progress_losses(logits, blocks, train=train, **on_product(group))
    restricted = cross_entropy(component + logits.mean(axis=0), product).mean()
    assert found.restricted == pytest.approx(restricted, rel=1e-9)
    excluded = cross_entropy(logits - component, product)[train].mean()
    assert found.excluded == pytest.approx(excluded, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [2.0, 400.0])
def test_character_losses_against_the_definition(name: str, size: float) -> None:
    """At size 400 the exponentials leave the range of double precision."""
    group = small_group(name)
    logits = noisy(group, size=size)
    plain, train = centred(logits), np.random.default_rng(2).random(group.order**2) < 0.4
    product = group.table.ravel()
    waves = group.characters[1:][:, quotient(group)]
    parts = [(plain * w).sum() / (w * w).sum() * w for w in waves]
    found = character_losses(flat(logits), train=train, **spectral(group))
    for number, (part, wave) in enumerate(zip(parts, waves, strict=True)):
        cosine = (plain * wave).sum() / np.sqrt((plain**2).sum() * (wave**2).sum())
        assert found.similarity[number] == pytest.approx(cosine, rel=1e-11)
        kept = cross_entropy(flat(part), product).mean()
        assert found.restricted[number] == pytest.approx(kept, rel=1e-11)
        lost = cross_entropy(flat(logits - part), product)[train].mean()
        assert found.excluded[number] == pytest.approx(lost, rel=1e-11)
    together = character_losses(
        flat(logits), [range(1, len(waves) + 1), []], train=train, **spectral(group)
    )
    everything = np.sum(parts, axis=0)
    lost = cross_entropy(flat(logits - everything), product)[train].mean()
    assert together.excluded[0] == pytest.approx(lost, rel=1e-11)
    assert together.restricted[1] == pytest.approx(np.log(group.order), rel=1e-12)
    assert together.excluded[1] == pytest.approx(
        cross_entropy(flat(logits), product)[train].mean(), rel=1e-12
    )


@pytest.mark.parametrize("name", NON_ABELIAN)
def test_right_answers_are_a_sum_of_characters(name: str) -> None:
    """δ(xy = z) = Σ d/m χ(xyz⁻¹): shares d², and nothing is lost but what is removed."""
    group = small_group(name)
    logits = flat(5.0 * np.eye(group.order)[group.table])
    found = logit_spectrum(logits, **spectral(group))
    sizes = np.einsum("bg,bg->b", group.characters, group.characters) / group.order
    expected = (group.degrees**2 * sizes)[1:]
    np.testing.assert_allclose(found.power, expected / expected.sum(), rtol=1e-12)
    assert found.equivariant_share == pytest.approx(1.0)
    loss = cross_entropy(logits[:1], group.table.ravel()[:1])[0]
    blocks = range(1, len(group.characters))
    kept = progress_losses(logits, blocks, **on_product(group))
    assert kept.restricted == pytest.approx(loss, rel=1e-12)
    assert kept.excluded == pytest.approx(np.log(group.order), rel=1e-12)
    whole = character_losses(logits, [blocks], **spectral(group))
    assert whole.restricted[0] == pytest.approx(loss, rel=1e-12)
    assert whole.excluded[0] == pytest.approx(np.log(group.order), rel=1e-12)
    assert (whole.similarity > 0).all()


def test_one_sided_equivariance_is_told_apart() -> None:
    group = small_group("S3")
    m = group.order
    x, y, z = np.indices((m, m, m))
    anything = np.random.default_rng(0).standard_normal((m, m))
    logits = flat(centred(anything[x, group.table[z, group.inverse[y]]]))  # of x and z·y⁻¹
    errors = equivariance_error(logits, **group.arguments())
    assert errors["right"] == pytest.approx(0.0, abs=1e-12)
    assert errors["left"] > 0.5


def test_tiny_losses_and_silent_logits() -> None:
    group = small_group("D4")
    right = flat(40.0 * np.eye(8)[group.table])
    found = character_losses(right, [[]], **spectral(group))
    assert found.excluded[0] == pytest.approx(7 * np.exp(-40.0), rel=1e-9)
    flat_out = character_losses(np.ones((64, 8)), **spectral(group))
    assert np.isnan(flat_out.similarity).all()
    np.testing.assert_allclose(flat_out.restricted, np.log(8))
    assert np.isnan(logit_spectrum(np.ones((64, 8)), **spectral(group)).power).all()
    nothing = character_losses(right, train=np.zeros(64, dtype=bool), **spectral(group))
    assert np.isnan(nothing.excluded).all()
    broken = right.copy()
    broken[3, int(group.table.ravel()[3])] = np.nan
    assert np.isnan(character_losses(broken, **spectral(group)).excluded).all()


def test_what_is_no_group_is_refused() -> None:
    group = small_group("S3")
    logits = flat(noisy(group))
    with pytest.raises(ValueError, match="once in every row and column"):
        equivariance_error(logits, **{**group.arguments(), "table": np.zeros((6, 6), dtype=int)})
    with pytest.raises(ValueError, match="needs left, right and characters"):
        logit_spectrum(logits, **{**group.arguments(), "left": None})
    with pytest.raises(ValueError, match="left · right"):
        equivariance_error(logits, **{**group.arguments(), "result": np.zeros(36, dtype=int)})
    with pytest.raises(ValueError, match="the constant one first"):
        logit_spectrum(logits, **group.arguments(), characters=group.characters[1:])
    with pytest.raises(ValueError, match="numbers from 1 to 2"):
        character_losses(logits, [[3]], **spectral(group))
    with pytest.raises(ValueError, match="numbers from 1 to 2"):
        progress_losses(logits, [3], **on_product(group))
    with pytest.raises(ValueError, match="needs its characters"):
        progress_losses(logits, [1], **{**on_product(group), "characters": None})
