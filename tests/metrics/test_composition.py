from __future__ import annotations

import itertools

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geomdiag.metrics.composition import (
    composition_violation,
    convolve,
    mean_composition_violation,
)
from geomdiag.metrics.fit import log_softmax


def path_triples(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Geodesic triples of the path graph: rows of (a, c), and of (a, b) and (b, c)."""
    distance = np.array(nx.floyd_warshall_numpy(nx.path_graph(n))).astype(int)
    whole, parts = [], []
    for a, b, c in itertools.product(range(n), repeat=3):
        if len({a, b, c}) == 3 and distance[a, b] + distance[b, c] == distance[a, c]:
            whole.append(a * n + c)
            parts.append((a * n + b, b * n + c))
    return np.array(whole), np.array(parts), distance


def test_triangle_against_the_definition() -> None:
    n = 5
    whole, parts, distance = path_triples(n)
    rng = np.random.default_rng(0)
    logits = 2.0 * rng.standard_normal((n * n, n)) + 4.0 * np.eye(n)[distance.ravel()]
    log_p = log_softmax(logits)
    p = np.exp(log_p)
    symmetric, directed, lost, js = [], [], [], []
    for ac, (ab, bc) in zip(whole, parts, strict=True):
        full = np.convolve(p[ab], p[bc])
        composed = full[:n] / full[:n].sum()
        forward = (composed * np.log(composed / p[ac])).sum()
        backward = (p[ac] * np.log(p[ac] / composed)).sum()
        middle = 0.5 * (composed + p[ac])
        symmetric.append(0.5 * (forward + backward))
        directed.append(forward)
        lost.append(full[n:].sum())
        entropy = [-(q * np.log(q)).sum() for q in (middle, composed, p[ac])]
        js.append(entropy[0] - 0.5 * (entropy[1] + entropy[2]))
    found = composition_violation(log_p, rule="convolution", whole=whole, parts=parts)
    assert found.instances == len(whole) == 20
    assert found.kl["mean"] == pytest.approx(np.mean(symmetric), rel=1e-12)
    assert found.kl["max"] == pytest.approx(np.max(symmetric), rel=1e-12)
    assert found.kl["p95"] == pytest.approx(np.quantile(symmetric, 0.95), rel=1e-12)
    assert found.js["mean"] == pytest.approx(np.mean(js), rel=1e-10)
    assert found.lost_mass is not None
    assert found.lost_mass["mean"] == pytest.approx(np.mean(lost), rel=1e-12)
    assert found.directed is not None
    assert found.directed["mean"] == pytest.approx(np.mean(directed), rel=1e-12)
    assert found.directed["max"] == pytest.approx(np.max(directed), rel=1e-12)
    assert found.by_part is None
    by_torch = composition_violation(
        torch.from_numpy(log_p), rule="convolution", whole=whole, parts=parts
    )
    assert by_torch == found


def test_sure_and_right_distances_compose() -> None:
    whole, parts, distance = path_triples(6)
    log_p = log_softmax(200.0 * np.eye(6)[distance.ravel()])
    found = composition_violation(log_p, rule="convolution", whole=whole, parts=parts)
    assert found.directed is not None
    assert found.lost_mass is not None
    for one in (found.kl, found.directed, found.js, found.lost_mass):
        assert max(one.values()) <= 1e-12


@pytest.mark.parametrize("scale", [40.0, 100.0, 300.0])
def test_sure_and_wrong_answers_are_told_to_their_full_extent(scale: float) -> None:
    """Against convolutions of log-probabilities, which have no floor."""
    n = 5
    whole, parts, _ = path_triples(n)
    logits = np.random.default_rng(1).uniform(0.0, scale, (n * n, n))
    log_p = log_softmax(logits)
    symmetric = []
    for ac, (ab, bc) in zip(whole, parts, strict=True):
        terms = np.full((n, n), -np.inf)
        for i, j in itertools.product(range(n), repeat=2):
            if i + j < n:
                terms[i, i + j] = log_p[ab, i] + log_p[bc, j]
        composed = log_softmax(np.logaddexp.reduce(terms, axis=0)[None])[0]
        difference = np.exp(composed) - np.exp(log_p[ac])
        symmetric.append(0.5 * (difference * (composed - log_p[ac])).sum())
    found = composition_violation(log_p, rule="convolution", whole=whole, parts=parts)
    assert found.kl["mean"] == pytest.approx(np.mean(symmetric), rel=1e-12)
    assert found.kl["max"] == pytest.approx(np.max(symmetric), rel=1e-12)
    mean = mean_composition_violation(log_p, rule="convolution", whole=whole, parts=parts)
    assert float(mean) == pytest.approx(np.mean(symmetric), rel=1e-12)


def test_small_violations_are_not_lost_to_rounding() -> None:
    """Near agreement divergences are quadratic: a hundredth of the noise, 1e-4 of them."""
    rng = np.random.default_rng(3)
    parts = rng.dirichlet(np.ones(5), size=2)
    whole = np.log(convolve(parts[:1], parts[1:])[0])
    noise = rng.standard_normal((1, 5))

    def violation(scale: float) -> dict[str, float]:
        log_p = log_softmax(np.concatenate([np.log(parts), whole + scale * noise]))
        found = composition_violation(log_p, rule="convolution", whole=[2], parts=[(0, 1)])
        assert found.directed is not None
        return {"kl": found.kl["mean"], "js": found.js["mean"], "directed": found.directed["mean"]}

    coarse, fine = violation(1e-4), violation(1e-6)
    for name in coarse:
        assert fine[name] == pytest.approx(1e-4 * coarse[name], rel=1e-3)


def test_convolution_loses_what_lies_beyond_the_classes() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.dirichlet(np.ones(6), size=4), rng.dirichlet(np.ones(6), size=4)
    composed, lost = convolve(first, second)
    for p, q, row, gone in zip(first, second, composed, lost, strict=True):
        full = np.convolve(p, q)
        np.testing.assert_allclose(row, full[:6] / full[:6].sum(), rtol=1e-12)
        assert gone == pytest.approx(full[6:].sum(), rel=1e-12)


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_any_table_of_sums_is_followed(classes: int, seed: int) -> None:
    """Also where two sums with the same first part are one class, as rounding may have it."""
    rng = np.random.default_rng(seed)
    sums = rng.integers(-1, classes, size=(classes, classes))
    sums[0] = np.arange(classes)  # adding the distance 0 changes nothing
    first, second = rng.dirichlet(np.ones(classes), size=(2, 3))
    composed, lost = convolve(first, second, sums)
    for p, q, row, gone in zip(first, second, composed, lost, strict=True):
        full, beyond = np.zeros(classes), 0.0
        for i, j in itertools.product(range(classes), repeat=2):
            if sums[i, j] >= 0:
                full[sums[i, j]] += p[i] * q[j]
            else:
                beyond += p[i] * q[j]
        np.testing.assert_allclose(row, full / full.sum(), rtol=1e-12)
        assert gone == pytest.approx(beyond, rel=1e-12, abs=1e-14)


def test_plain_sums_are_those_of_the_table() -> None:
    whole, parts, _ = path_triples(5)
    log_p = log_softmax(np.random.default_rng(0).standard_normal((25, 5)))
    place = np.arange(5)
    total = place[:, None] + place
    arguments = {"rule": "convolution", "whole": whole, "parts": parts}
    plain = composition_violation(log_p, **arguments)
    tabled = composition_violation(log_p, sums=np.where(total < 5, total, -1), **arguments)
    for name in ("kl", "js", "directed", "lost_mass"):
        assert getattr(plain, name) == pytest.approx(getattr(tabled, name), rel=1e-12)


@pytest.mark.parametrize("rule", ["convolution", "logit_sum"])
def test_instances_are_sorted_by_what_they_touch(rule: str) -> None:
    whole, parts, _ = path_triples(6)
    rng = np.random.default_rng(1)
    log_p = log_softmax(rng.standard_normal((36, 6)))
    train = rng.random(36) < 0.6
    odds = (1, 0) if rule == "logit_sum" else None
    found = composition_violation(
        log_p, rule=rule, whole=whole, parts=parts, odds=odds, train=train
    )
    assert found.by_part is not None
    chosen: dict[str, list[int]] = {"train": [], "heldout": [], "mixed": []}
    for row, touched in enumerate(np.c_[whole, parts].tolist()):
        inside = {bool(train[i]) for i in touched}
        chosen["mixed" if len(inside) == 2 else "train" if True in inside else "heldout"].append(
            row
        )
    assert sum(part["instances"] for part in found.by_part.values()) == len(whole)
    for part, rows in chosen.items():
        assert found.by_part[part]["instances"] == len(rows) > 0
        alone = composition_violation(
            log_p, rule=rule, whole=whole[rows], parts=parts[rows], odds=odds
        )
        for name, value in alone.kl.items():
            assert found.by_part[part][name] == pytest.approx(value, rel=1e-12)


def order_triples(n: int) -> tuple[np.ndarray, np.ndarray]:
    triples = list(itertools.combinations(range(n), 3))
    whole = np.array([a * n + c for a, _, c in triples])
    return whole, np.array([(a * n + b, b * n + c) for a, b, c in triples])


def test_transitivity_against_the_definition() -> None:
    n = 5
    whole, parts = order_triples(n)
    log_p = log_softmax(3.0 * np.random.default_rng(0).standard_normal((n * n, 3)))
    odds = log_p[:, 2] - log_p[:, 0]

    def verdict(x: float) -> np.ndarray:
        yes = 1.0 / (1.0 + np.exp(-x))
        return np.array([yes, 1.0 - yes])

    symmetric, directed = [], []
    for ac, (ab, bc) in zip(whole, parts, strict=True):
        composed, stated = verdict(odds[ab] + odds[bc]), verdict(odds[ac])
        forward = (composed * np.log(composed / stated)).sum()
        backward = (stated * np.log(stated / composed)).sum()
        symmetric.append(0.5 * (forward + backward))
        directed.append(forward)
    found = composition_violation(log_p, rule="logit_sum", whole=whole, parts=parts, odds=(2, 0))
    assert found.directed is not None
    for one, values in ((found.kl, symmetric), (found.directed, directed)):
        assert one["mean"] == pytest.approx(np.mean(values), rel=1e-10)
        assert one["max"] == pytest.approx(np.max(values), rel=1e-10)
    assert found.lost_mass is None
    assert found.standard_error is None


def test_additive_log_odds_compose_and_a_sample_has_an_error() -> None:
    n = 6
    whole, parts = order_triples(n)
    score = 2.0 * np.arange(n)
    a, b = (grid.ravel() for grid in np.indices((n, n)))
    log_p = log_softmax(np.stack([score[a] - score[b], np.zeros(n * n)], axis=1))
    arguments = {"rule": "logit_sum", "whole": whole, "parts": parts, "odds": (0, 1)}
    assert composition_violation(log_p, **arguments).kl["max"] <= 1e-12
    noisy = log_softmax(log_p + np.random.default_rng(0).standard_normal(log_p.shape))
    found = composition_violation(noisy, exact=False, **arguments)
    assert not any(found.exact.values())
    assert found.standard_error is not None
    assert 0 < found.standard_error < found.kl["max"]


@given(
    classes=st.integers(2, 6),
    table=st.booleans(),
    scale=st.sampled_from([1e-4, 1.0, 200.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_differentiable_mean_is_the_same_number(
    classes: int, table: bool, scale: float, seed: int
) -> None:
    """NumPy and torch, one network or a stack, probabilities below the clamp included."""
    rng = np.random.default_rng(seed)
    stack = np.stack([log_softmax(scale * rng.standard_normal((7, classes))) for _ in range(3)])
    sums = None
    if table:
        sums = rng.integers(-1, classes, size=(classes, classes))
        sums[0] = np.arange(classes)
    said = {"whole": rng.integers(7, size=40), "parts": rng.integers(7, size=(40, 2))}
    rules = ({"rule": "convolution", "sums": sums}, {"rule": "logit_sum", "odds": (1, 0)})
    for rule in rules:
        expected = [composition_violation(log_p, **said, **rule).kl["mean"] for log_p in stack]
        for found in (
            mean_composition_violation(stack, **said, **rule),
            mean_composition_violation(torch.from_numpy(stack), **said, **rule).numpy(),
            [mean_composition_violation(log_p, **said, **rule) for log_p in stack],
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-15)


def test_the_differentiable_mean_has_the_right_gradient() -> None:
    whole, parts, _ = path_triples(3)
    said = {"whole": whole, "parts": parts}
    sums = np.array([[0, 1, 2], [1, 2, -1], [2, 2, -1]])
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(2.0 * rng.standard_normal((2, 9, 3))).requires_grad_()

    def everything(values: torch.Tensor) -> torch.Tensor:
        log_p = values.log_softmax(-1)
        return (
            mean_composition_violation(log_p, rule="convolution", **said)
            + mean_composition_violation(log_p, rule="convolution", sums=sums, **said)
            + mean_composition_violation(log_p, rule="logit_sum", odds=(2, 0), **said)
        )

    assert torch.autograd.gradcheck(everything, logits)


@pytest.mark.parametrize("scale", [1e-6, 200.0, 3000.0])
def test_gradients_are_finite_where_outputs_are_sure(scale: float) -> None:
    whole, parts, distance = path_triples(5)
    said = {"whole": whole, "parts": parts}
    noise = np.random.default_rng(0).standard_normal((25, 5))
    for table in (scale * noise, scale * np.eye(5)[distance.ravel()]):
        logits = torch.from_numpy(table).requires_grad_()
        log_p = logits.log_softmax(-1)
        for rule in ({"rule": "convolution"}, {"rule": "logit_sum", "odds": (2, 0)}):
            (gradient,) = torch.autograd.grad(
                mean_composition_violation(log_p, **said, **rule), logits, retain_graph=True
            )
            assert gradient.isfinite().all()


def test_many_instances_are_worked_on_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts, _ = path_triples(5)
    log_p = log_softmax(np.random.default_rng(0).standard_normal((25, 5)))
    said = {"rule": "convolution", "whole": whole, "parts": parts}
    at_once = mean_composition_violation(log_p, **said)
    monkeypatch.setattr("geomdiag.metrics.composition._PRODUCTS", 25 * 3)
    assert mean_composition_violation(log_p, **said) == pytest.approx(at_once, rel=1e-13)


def test_mistakes_are_named() -> None:
    log_p = log_softmax(np.zeros((4, 2)))
    with pytest.raises(ValueError, match="needs odds"):
        composition_violation(log_p, rule="logit_sum", whole=[0], parts=[[1, 2]])
    with pytest.raises(ValueError, match="unknown rule"):
        composition_violation(log_p, rule="sum", whole=[0], parts=[[1, 2]])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"whole has shape \(2,\); expected \(1,\)"):
        composition_violation(log_p, rule="convolution", whole=[0, 1], parts=[[1, 2]])
    said = {"rule": "convolution", "whole": [0], "parts": [[1, 2]]}
    with pytest.raises(ValueError, match=r"train has shape \(3,\); expected \(4,\)"):
        composition_violation(log_p, train=np.ones(3), **said)
    with pytest.raises(ValueError, match=r"sums has shape \(2, 2\) and entries 0 ... 2"):
        composition_violation(log_p, sums=[[0, 1], [1, 2]], **said)
    with pytest.raises(ValueError, match=r"sums has shape \(2, 2\) and entries 0 ... 2"):
        mean_composition_violation(log_p, sums=[[0, 1], [1, 2]], **said)
    with pytest.raises(ValueError, match="unknown rule"):
        mean_composition_violation(log_p, rule="sum", whole=[0], parts=[[1, 2]])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs odds"):
        mean_composition_violation(log_p, rule="logit_sum", whole=[0], parts=[[1, 2]])
    with pytest.raises(ValueError, match=r"whole has shape \(2,\); expected \(1,\)"):
        mean_composition_violation(log_p, rule="convolution", whole=[0, 1], parts=[[1, 2]])
    with pytest.raises(ValueError, match="no instance"):
        mean_composition_violation(log_p, rule="convolution", whole=[], parts=[])
