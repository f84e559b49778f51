"""Closed forms against loops over every instance, in places where rounding matters."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geomdiag.metrics._buffers import Buffers
from geomdiag.metrics._distances import Distances
from geomdiag.metrics._orbits import centred
from geomdiag.metrics._quantiles import Weighted, weighted_quantiles
from geomdiag.metrics.fit import log_softmax
from geomdiag.metrics.symmetry import (
    PARTS,
    STATISTICS,
    directed_kl,
    equivalence_violation,
    jensen_shannon,
    mean_pair_violation,
    mean_violation,
    symmetric_kl,
)

LEVELS = {name: level for name, level in STATISTICS.items() if level is not None}


class Sum:
    """Addition modulo p, written out: inputs in lexicographic order."""

    def __init__(self, p: int) -> None:
        self.p = p
        self.x, self.y = (grid.ravel() for grid in np.indices((p, p)))
        self.result = (self.x + self.y) % p
        self.swap = np.stack([np.arange(p * p), self.y * p + self.x], axis=1)
        self.shift = (np.arange(p)[:, None] + np.arange(p)) % p
        self.translation: dict[str, Any] = {
            "orbits": np.zeros(p * p, dtype=int),
            "alignment": self.result,
            "relabelling": self.shift,
        }

    def logits(self, scale: float, noise: float, margin: float = 0.0, seed: int = 0) -> np.ndarray:
        """Exactly symmetric logits, and noise."""
        rng = np.random.default_rng(seed)
        profile = scale * rng.standard_normal(self.p)
        profile[0] += margin
        exact = profile[(np.arange(self.p) - self.result[:, None]) % self.p]
        return exact + noise * rng.standard_normal(exact.shape)


def kl_of(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return 0.5 * ((np.exp(first) - np.exp(second)) * (first - second)).sum(axis=1)


def statistics_of(values: np.ndarray) -> dict[str, float]:
    return {"mean": values.mean(), **{s: np.quantile(values, q) for s, q in LEVELS.items()}}


def triples(p: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of (x + y, z) and (x, y + z) for every triple."""
    rows = [
        (((x + y) % p) * p + z, x * p + (y + z) % p)
        for x, y, z in itertools.product(range(p), repeat=3)
    ]
    first, second = np.array(rows).T
    return first, second


def exact_js(rows: np.ndarray) -> float:
    """Generalised Jensen-Shannon divergence in extended precision."""
    log_p = rows.astype(np.longdouble)
    p = np.exp(log_p)
    mean = p.mean(axis=0)
    return float(((p * log_p).mean(axis=0) - mean * np.log(mean)).sum())


@pytest.mark.parametrize(
    ("scale", "noise", "margin"),
    [(0.0, 1.0, 0.0), (3.0, 3.0, 20.0), (2.0, 0.1, 5.0), (30.0, 10.0, 100.0), (0.5, 1e-3, 0.0)],
)
def test_every_triple_at_p_11(scale: float, noise: float, margin: float) -> None:
    task = Sum(11)
    log_p = log_softmax(task.logits(scale, noise, margin))
    first, second = triples(11)
    expected = statistics_of(kl_of(log_p[first], log_p[second]))
    found = equivalence_violation(log_p, orbits=task.result)
    assert found.instances == 11**3
    assert all(found.exact.values())
    assert found.kl == pytest.approx(expected, rel=1e-10)
    expected_js = [exact_js(log_p[task.result == r]) for r in range(11)]
    assert found.js["mean"] == pytest.approx(np.mean(expected_js), rel=1e-10)
    assert found.js["max"] == pytest.approx(np.max(expected_js), rel=1e-10)


@pytest.mark.parametrize("spread", [0.0, 1.0, 50.0])
def test_violations_of_1e_12_keep_five_digits(spread: float) -> None:
    task = Sum(11)
    log_p = log_softmax(task.logits(0.3 * spread, 1e-6, 0.5 * spread))
    first, second = triples(11)
    expected = statistics_of(kl_of(log_p[first], log_p[second]))
    found = equivalence_violation(log_p, orbits=task.result)
    assert expected["mean"] < 3e-12
    assert found.kl == pytest.approx(expected, rel=1e-5, abs=0)
    assert found.js["mean"] == pytest.approx(
        np.mean([exact_js(log_p[task.result == r]) for r in range(11)]), rel=1e-4, abs=0
    )
    swapped = equivalence_violation(log_p, pairs=task.swap)
    pairs = kl_of(log_p[task.swap[:, 0]], log_p[task.swap[:, 1]])
    assert swapped.kl == pytest.approx(statistics_of(pairs), rel=1e-5, abs=0)
    assert swapped.js["mean"] == pytest.approx(swapped.kl["mean"] / 4, rel=1e-4)


def test_tight_clusters_far_apart_are_resolved() -> None:
    """Half of the pairs are 1e-12 apart, half of order 1: the median lies in between."""
    rng = np.random.default_rng(0)
    centres = 3.0 * rng.standard_normal((2, 9))
    # a third of each kind: medians fall among the close pairs
    log_p = log_softmax(centres[[0] * 30 + [1] * 6] + 1e-7 * rng.standard_normal((36, 9)))
    found = equivalence_violation(log_p, orbits=np.zeros(36, dtype=int))
    i, j = (grid.ravel() for grid in np.indices((36, 36)))
    assert found.kl == pytest.approx(statistics_of(kl_of(log_p[i], log_p[j])), rel=1e-6, abs=0)
    assert found.kl["p50"] < 1e-12 < 1e-2 < found.kl["max"]


def test_one_wrong_answer_does_not_blur_the_others() -> None:
    rng = np.random.default_rng(1)
    logits = np.zeros((50, 9))
    logits[:, 0] = 20.0
    logits += 1e-4 * rng.standard_normal(logits.shape)
    logits[7, [0, 3]] = [0.0, 20.0]
    log_p = log_softmax(logits)
    found = equivalence_violation(log_p, orbits=np.zeros(50, dtype=int))
    i, j = (grid.ravel() for grid in np.indices((50, 50)))
    assert found.kl == pytest.approx(statistics_of(kl_of(log_p[i], log_p[j])), rel=1e-6, abs=0)


def test_symmetric_outputs_have_none() -> None:
    task = Sum(7)
    log_p = log_softmax(task.logits(4.0, 0.0))
    for arguments in ({"orbits": task.result}, {"pairs": task.swap}, task.translation):
        found = equivalence_violation(log_p, train=task.x < 3, **arguments)
        assert max(found.kl.values()) <= 1e-12
        assert max(found.js.values()) <= 1e-12
        assert found.by_part is not None
        assert all(found.by_part[part]["max"] <= 1e-12 for part in PARTS)


def test_translation_is_associativity_and_what_differs_between_classes() -> None:
    """Law of total covariance (METHOD, section 2)."""
    task = Sum(13)
    log_p = log_softmax(task.logits(2.0, 1.5))
    inside = equivalence_violation(log_p, orbits=task.result, statistics=("mean",)).kl["mean"]
    whole = equivalence_violation(log_p, statistics=("mean",), **task.translation).kl["mean"]
    aligned = np.take_along_axis(log_p, task.shift[task.result], axis=1)
    classes = [aligned[task.result == r] for r in range(13)]
    p_means = np.array([np.exp(rows).mean(axis=0) for rows in classes])
    log_means = np.array([rows.mean(axis=0) for rows in classes])
    between = ((p_means - p_means.mean(axis=0)) * (log_means - log_means.mean(axis=0))).mean(axis=0)
    assert whole == pytest.approx(inside + between.sum(), rel=1e-12)
    assert whole > inside


@pytest.mark.parametrize("noise", [1.0, 1e-6])
def test_translation_against_all_pairs(noise: float) -> None:
    task = Sum(7)
    log_p = log_softmax(task.logits(2.0, noise))
    aligned = np.take_along_axis(log_p, task.shift[task.result], axis=1)
    i, j = (grid.ravel() for grid in np.indices((49, 49)))
    found = equivalence_violation(log_p, **task.translation)
    tolerance = 1e-10 if noise == 1.0 else 1e-5
    expected = statistics_of(kl_of(aligned[i], aligned[j]))
    assert found.kl == pytest.approx(expected, rel=tolerance, abs=0)
    assert found.js["mean"] == pytest.approx(exact_js(aligned), rel=10 * tolerance, abs=0)
    assert found.js["p50"] == found.js["max"] == found.js["mean"]


@pytest.mark.parametrize("statistics", [tuple(STATISTICS), ("mean",)])
@pytest.mark.parametrize("symmetry", ["swap", "association", "translation"])
def test_parts_of_the_data(symmetry: str, statistics: tuple[str, ...]) -> None:
    task = Sum(7)
    rng = np.random.default_rng(3)
    log_p = log_softmax(task.logits(2.0, 2.0))
    train = rng.random(49) < 0.4
    rows = log_p
    if symmetry == "swap":
        arguments: dict[str, Any] = {"pairs": task.swap}
        first, second = task.swap.T
    elif symmetry == "association":
        arguments = {"orbits": task.result}
        first, second = np.nonzero(task.result[:, None] == task.result)
    else:
        arguments = task.translation
        first, second = (grid.ravel() for grid in np.indices((49, 49)))
        rows = np.take_along_axis(log_p, task.shift[task.result], axis=1)
    values = kl_of(rows[first], rows[second])
    found = equivalence_violation(log_p, train=train, statistics=statistics, **arguments)
    assert found.by_part is not None
    touching = train[first].astype(int) + train[second]
    for part, code in (("train", 2), ("heldout", 0), ("mixed", 1)):
        chosen = values[touching == code]
        expected = {s: v for s, v in statistics_of(chosen).items() if s in statistics}
        assert found.by_part[part] == pytest.approx(
            {**expected, "instances": len(chosen)}, rel=1e-10
        )
    assert found.kl["mean"] == pytest.approx(values.mean(), rel=1e-12)


def test_orbits_and_pairs_together() -> None:
    """Instances of both kinds weigh the same; repeated pairs count as often as listed."""
    rng = np.random.default_rng(0)
    log_p = log_softmax(2.0 * rng.standard_normal((12, 5)))
    orbits = np.array([0, 0, 0, 1, 1, -1, -1, 2, -1, -1, -1, -1])
    pairs = np.array([[5, 6], [6, 5], [8, 9], [9, 9], [0, 10], [5, 6]])
    inside = [(i, j) for i in range(12) for j in range(12) if orbits[i] == orbits[j] >= 0]
    first, second = np.array(inside + pairs.tolist()).T
    values = kl_of(log_p[first], log_p[second])
    found = equivalence_violation(log_p, orbits=orbits, pairs=pairs)
    assert found.instances == len(values) == 9 + 4 + 1 + 6
    assert found.kl == pytest.approx(statistics_of(values), rel=1e-12)
    divergences = [exact_js(log_p[orbits == o]) for o in range(3)]
    of_pairs = [exact_js(log_p[pair]) for pair in pairs]
    expected = np.concatenate([np.repeat(divergences, [9, 4, 1]), of_pairs])
    assert found.js == pytest.approx(statistics_of(expected), rel=1e-9, abs=1e-15)


def test_too_many_pairs_are_sampled_and_said_so() -> None:
    task = Sum(23)
    log_p = log_softmax(task.logits(1.0, 1.0))
    whole = equivalence_violation(log_p, **task.translation)
    some = equivalence_violation(log_p, max_pairs=60_000, seed=1, **task.translation)
    assert all(whole.exact.values())
    assert some.exact == {"mean": True, "p50": False, "p95": False, "max": False}
    assert some.kl["mean"] == pytest.approx(whole.kl["mean"], rel=1e-13)
    assert some.kl["p50"] == pytest.approx(whole.kl["p50"], rel=0.1)
    assert some.kl["p95"] == pytest.approx(whole.kl["p95"], rel=0.1)
    assert some.kl["max"] <= whole.kl["max"]
    again = equivalence_violation(log_p, max_pairs=60_000, seed=1, **task.translation)
    assert again == some
    other = equivalence_violation(log_p, max_pairs=60_000, seed=2, **task.translation)
    assert other.kl["p50"] != some.kl["p50"]
    orbits = equivalence_violation(log_p, orbits=task.result, max_pairs=3_000, train=task.x < 9)
    exact = equivalence_violation(log_p, orbits=task.result, train=task.x < 9)
    assert not orbits.exact["p50"]
    assert orbits.kl["p95"] == pytest.approx(exact.kl["p95"], rel=0.25)
    assert orbits.by_part is not None
    assert exact.by_part is not None
    for part in PARTS:
        assert orbits.by_part[part]["mean"] == pytest.approx(exact.by_part[part]["mean"], rel=1e-12)


def test_large_orbits_go_through_in_tiles() -> None:
    rng = np.random.default_rng(0)
    log_p = log_softmax(rng.standard_normal((700, 4)))
    train = rng.random(700) < 0.55
    found = equivalence_violation(log_p, orbits=np.zeros(700, dtype=int), train=train)
    i, j = (grid.ravel() for grid in np.indices((700, 700)))
    values = kl_of(log_p[i], log_p[j])
    assert found.kl == pytest.approx(statistics_of(values), rel=1e-10)
    assert found.by_part is not None
    mixed = values[train[i] != train[j]]
    assert found.by_part["mixed"] == pytest.approx(
        {**statistics_of(mixed), "instances": len(mixed)}, rel=1e-10
    )


def test_probabilities_below_the_clamp() -> None:
    rng = np.random.default_rng(0)
    log_p = log_softmax(60.0 * rng.standard_normal((40, 6)))
    assert log_p.min() < -60
    found = equivalence_violation(log_p, orbits=np.arange(40) // 8)
    first, second = np.nonzero((np.arange(40) // 8)[:, None] == np.arange(40) // 8)
    assert found.kl == pytest.approx(statistics_of(kl_of(log_p[first], log_p[second])), rel=1e-10)
    expected = [exact_js(log_p[8 * o : 8 * o + 8]) for o in range(5)]
    assert found.js["mean"] == pytest.approx(np.mean(expected), rel=1e-10)
    assert found.js["max"] <= np.log(8)


def test_single_precision_is_good_to_its_own_rounding() -> None:
    task = Sum(23)
    exact = log_softmax(task.logits(1.0, 1e-3, 5.0))
    for arguments in ({"orbits": task.result}, {"pairs": task.swap}, task.translation):
        found = equivalence_violation(exact.astype(np.float32), **arguments)
        expected = equivalence_violation(exact, **arguments)
        assert found.kl == pytest.approx(expected.kl, rel=1e-4, abs=0)
        assert found.js == pytest.approx(expected.js, rel=1e-4, abs=0)


@pytest.mark.parametrize("kind", ["memorised", "swap-invariant", "generalised", "uniform"])
def test_single_precision_against_double_by_part(kind: str) -> None:
    """Tight clusters, outliers and masses of close pairs: the same stored numbers, both ways."""
    task = Sum(29)
    rng = np.random.default_rng(0)
    train = rng.random(29**2) < 0.4
    logits = task.logits(0.5, 3.0)
    if kind == "memorised":  # trained inputs are alike, the others are not
        logits = np.where(train[:, None], task.logits(3.0, 1e-3, 25.0), logits)
    elif kind == "swap-invariant":
        logits = logits + logits[task.swap[:, 1]]
    elif kind == "generalised":  # all alike but for a few
        wrong = rng.random(29**2) < 0.02
        logits = np.where(wrong[:, None], logits, task.logits(8.0, 0.3, 60.0))
    else:
        logits = 1e-3 * logits
    stored = log_softmax(logits.astype(np.float32))
    shared: tuple[dict[object, Any], dict[object, Any]] = ({}, {})
    for arguments in ({"orbits": task.result}, task.translation):
        found = equivalence_violation(stored, train=train, shared=shared[0], **arguments)
        expected = equivalence_violation(
            stored.astype(np.float64), train=train, shared=shared[1], **arguments
        )
        assert found.kl == pytest.approx(expected.kl, rel=2e-4, abs=0)
        assert found.js == pytest.approx(expected.js, rel=2e-4, abs=0)
        assert found.by_part is not None
        assert expected.by_part is not None
        for part in PARTS:
            assert found.by_part[part] == pytest.approx(expected.by_part[part], rel=2e-4, abs=0)


def test_what_is_shared_changes_nothing() -> None:
    task = Sum(13)
    log_p = log_softmax(task.logits(2.0, 1.5))
    train = task.x < 5
    for split in (None, train):
        shared: dict[object, Any] = {}
        for arguments in ({"orbits": task.result}, {"pairs": task.swap}, task.translation):
            found = equivalence_violation(log_p, train=split, shared=shared, **arguments)
            assert found == equivalence_violation(log_p, train=split, **arguments)
        assert len(shared) == 1  # translation took up what associativity left


def test_torch_gives_the_same() -> None:
    task = Sum(7)
    log_p = log_softmax(task.logits(2.0, 1.0))
    for arguments in ({"orbits": task.result}, {"pairs": task.swap}, task.translation):
        tensors = {name: torch.from_numpy(value) for name, value in arguments.items()}
        expected = equivalence_violation(log_p, **arguments)
        assert equivalence_violation(torch.from_numpy(log_p), **tensors) == expected
        as_numpy = mean_violation(log_p, **arguments)
        as_torch = mean_violation(torch.from_numpy(log_p), **tensors)
        assert float(as_numpy) == pytest.approx(expected.kl["mean"], rel=1e-12)
        assert float(as_torch) == pytest.approx(expected.kl["mean"], rel=1e-12)


def test_stacked_networks_are_kept_apart() -> None:
    task = Sum(5)
    stack = np.stack([log_softmax(task.logits(scale, 1.0)) for scale in (0.5, 2.0, 30.0)])
    both = {"orbits": task.result, "pairs": task.swap}
    for values in (stack, torch.from_numpy(stack)):
        for arguments in ({"orbits": task.result}, {"pairs": task.swap}, task.translation, both):
            found = mean_violation(values, **arguments)
            expected = [float(mean_violation(one, **arguments)) for one in values]
            assert found.tolist() == pytest.approx(expected, rel=1e-12)
        ends = values[:, task.swap[:, 0]], values[:, task.swap[:, 1]]
        apart = mean_pair_violation(*ends, axis=-1)
        assert apart.tolist() == pytest.approx(
            [float(mean_violation(one, pairs=task.swap)) for one in values], rel=1e-12
        )
        assert float(mean_pair_violation(*ends)) == pytest.approx(float(apart.mean()), rel=1e-12)


def test_the_mean_is_differentiable() -> None:
    task = Sum(3)
    logits = torch.from_numpy(task.logits(1.0, 1.0)).requires_grad_()

    def everything(values: torch.Tensor) -> torch.Tensor:
        log_p = values.log_softmax(-1)
        pairs = mean_pair_violation(log_p[task.swap[:, 0]], log_p[task.swap[:, 1]])
        return pairs + sum(
            mean_violation(log_p, **arguments)
            for arguments in ({"orbits": task.result}, {"pairs": task.swap}, task.translation)
        )

    assert torch.autograd.gradcheck(everything, logits)
    assert torch.autograd.gradcheck(
        lambda x: jensen_shannon(x[:4].log_softmax(-1), x[4:8].log_softmax(-1)), logits
    )


@given(st.integers(0, 2**32 - 1), st.permutations(range(5)))
def test_what_changes_nothing(seed: int, names: list[int]) -> None:
    """A constant per input, names of the classes, order of the inputs."""
    task = Sum(5)
    rng = np.random.default_rng(seed)
    logits = task.logits(1.0, rng.choice([1e-3, 1.0, 10.0]), seed=seed)
    train = rng.random(25) < 0.5
    expected = equivalence_violation(log_softmax(logits), orbits=task.result, train=train)
    shifted = logits + 100.0 * rng.standard_normal((25, 1))
    order = rng.permutation(25)
    variants = [
        equivalence_violation(log_softmax(shifted), orbits=task.result, train=train),
        equivalence_violation(log_softmax(logits[:, names]), orbits=task.result, train=train),
        equivalence_violation(
            log_softmax(logits)[order], orbits=task.result[order] + 3, train=train[order]
        ),
    ]
    for found in variants:
        assert found.kl == pytest.approx(expected.kl, rel=1e-7)
        assert found.js == pytest.approx(expected.js, rel=1e-7)
        assert found.by_part is not None
        assert expected.by_part is not None
        for part in PARTS:
            assert found.by_part[part] == pytest.approx(
                expected.by_part[part], rel=1e-7, nan_ok=True
            )


@pytest.mark.parametrize("scale", [100.0, 200.0, 900.0])
def test_jensen_shannon_in_single_precision_keeps_its_bounds(scale: float) -> None:
    """Sure answers all apart reach log n; rounding must not carry them beyond."""
    n = 12
    rng = np.random.default_rng(0)
    logits = (scale * np.eye(n) + 0.1 * scale * rng.random((n, n))).astype(np.float32)
    log_p = log_softmax(logits)
    assert log_p.dtype == np.float32
    pairs = np.array(list(itertools.permutations(range(n), 2)))
    found = equivalence_violation(log_p, pairs=pairs)
    assert found.js["max"] <= np.log(2)
    assert found.js["mean"] <= np.log(2) * (1 + 1e-12)  # a sum of them, in double precision
    assert found.js["mean"] == pytest.approx(np.log(2), rel=1e-5)
    found = equivalence_violation(log_p, orbits=np.zeros(n, dtype=int))
    assert found.js["max"] <= np.log(n)
    assert found.js["mean"] == pytest.approx(np.log(n), rel=1e-5)


def test_bounds_of_divergences() -> None:
    apart = log_softmax(np.array([[500.0, 0.0], [0.0, 500.0]]))
    assert jensen_shannon(apart[:1], apart[1:])[0] == pytest.approx(np.log(2))
    assert symmetric_kl(apart[:1], apart[1:])[0] == pytest.approx(500.0)
    assert directed_kl(apart[:1], apart[1:])[0] == pytest.approx(500.0)
    rng = np.random.default_rng(0)
    p, q = log_softmax(rng.standard_normal((2, 50, 6)).reshape(100, 6)).reshape(2, 50, 6)
    np.testing.assert_allclose(symmetric_kl(p, q), 0.5 * (directed_kl(p, q) + directed_kl(q, p)))
    np.testing.assert_allclose(directed_kl(p, q), (np.exp(p) * (p - q)).sum(axis=1))
    near = q + 1e-7 * rng.standard_normal(q.shape)
    near = log_softmax(near)
    np.testing.assert_allclose(directed_kl(near, q), symmetric_kl(near, q), rtol=1e-4)
    np.testing.assert_allclose(jensen_shannon(near, q), symmetric_kl(near, q) / 4, rtol=1e-6)


def test_nan_gives_nan_and_bad_shapes_are_named() -> None:
    task = Sum(3)
    log_p = log_softmax(task.logits(1.0, 1.0))
    broken = log_p.copy()
    broken[4] = np.nan
    for arguments in ({"orbits": task.result}, {"pairs": task.swap}, task.translation):
        found = equivalence_violation(broken, **arguments)
        assert all(np.isnan(value) for value in found.kl.values() if value != 0.0)
        assert np.isnan(found.kl["mean"])
    with pytest.raises(ValueError, match=r"orbits has shape \(8,\); expected \(9,\)"):
        equivalence_violation(log_p, orbits=task.result[:8])
    with pytest.raises(ValueError, match="unknown statistics"):
        equivalence_violation(log_p, orbits=task.result, statistics=("median",))
    with pytest.raises(ValueError, match="given together"):
        equivalence_violation(log_p, orbits=task.result, alignment=task.result)
    with pytest.raises(ValueError, match="rows 0 to 9"):
        equivalence_violation(log_p, pairs=[[0, 9]])
    with pytest.raises(ValueError, match="no instance"):
        mean_violation(log_p)
    empty = equivalence_violation(log_p, orbits=np.full(9, -1))
    assert empty.instances == 0
    assert np.isnan(empty.kl["mean"])


@given(
    st.lists(st.sampled_from([0.0, 1e-320, 1e-12, 0.5, 1.0, 1.01, 7.0]), min_size=1, max_size=40),
    st.integers(0, 2**32 - 1),
    st.integers(0, 5),
)
def test_weighted_quantiles_repeat_values(values: list[float], seed: int, zeros: int) -> None:
    rng = np.random.default_rng(seed)
    flat = np.array(values) * rng.uniform(0.9, 1.1, len(values))
    weights = rng.integers(1, 4, len(values))
    levels = [0.0, 0.3, 0.5, 0.95, 1.0]
    groups = [Weighted(flat, weights.astype(float)), Weighted(flat[:3], 2.0)]
    repeated = np.concatenate([np.repeat(flat, weights), np.repeat(flat[:3], 2), np.zeros(zeros)])
    expected = np.quantile(repeated, levels)
    np.testing.assert_allclose(
        weighted_quantiles(groups, levels, zeros=zeros), expected, rtol=1e-12
    )


def test_every_pair_is_collected_once() -> None:
    shapes = [(1, 0), (2, 1), (5, 5), (5, 0), (6, 2), (300, 100), (300, 280), (520, 256)]
    sizes, first = np.array(shapes).T
    distances = Distances(sizes, first)
    distances.values[:] = -1.0
    for rows in sizes:
        block = log_softmax(np.random.default_rng(0).standard_normal((rows, 3)))
        distances.add(centred(block, Buffers()))
    assert (distances.values > 0).all()
    rest = sizes - first
    expected = [(first * (first - 1)).sum() // 2, (rest * (rest - 1)).sum() // 2, first @ rest]
    assert np.diff(distances.begin).tolist() == expected
