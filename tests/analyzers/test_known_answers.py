"""Diagnostics of networks and matrices whose numbers are known beforehand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from snapshots import analytic, helix, random_dump

import geomdiag as gd
from geomdiag.analyzers import ANALYZERS
from geomdiag.errors import TaskError
from geomdiag.models import Matrix


def run(name: str, snapshot: gd.Snapshot) -> object:
    return ANALYZERS[name].compute(snapshot, snapshot.task)


def kl_sym(a: np.ndarray, b: np.ndarray) -> float:
    return float(0.5 * np.sum((np.exp(a) - np.exp(b)) * (a - b)))


# --- symmetry ----------------------------------------------------------------------------------


def test_symmetry_violation_is_that_of_all_pairs_and_triples() -> None:
    p = 5
    task = gd.task(f"modadd:p={p}")
    logits = np.random.default_rng(0).normal(size=(p * p, p))
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def at(x: int, y: int) -> np.ndarray:
        return log_p[(x % p) * p + y % p]

    swap = [kl_sym(at(x, y), at(y, x)) for x, y in itertools.product(range(p), repeat=2)]
    associate = [
        kl_sym(at(x + y, z), at(x, y + z)) for x, y, z in itertools.product(range(p), repeat=3)
    ]
    found = gd.symmetry_violation(logits, task)
    assert found.dims == ("symmetry", "statistic")
    assert found.attrs["units"] == "nat"
    for name, values in (("commutativity", swap), ("associativity", associate)):
        own = found.sel(symmetry=name)
        expected = [np.mean(values), *np.quantile(values, [0.5, 0.95, 1.0])]
        np.testing.assert_allclose(own, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("spec", ["modadd:p=7", "modsub:p=6", "modmul:p=7", "modsquare:p=5"])
def test_right_answers_have_no_violation(spec: str) -> None:
    task = gd.task(spec)
    logits = 7.0 * np.eye(task.classes)[task.answers]
    assert float(np.abs(gd.symmetry_violation(logits, task)).max()) < 1e-12


def test_symmetry_violation_takes_torch_and_fewer_statistics() -> None:
    import torch

    task = gd.task("modadd:p=5")
    logits = np.random.default_rng(0).normal(size=(25, 5))
    whole = gd.symmetry_violation(logits, task)
    mean = gd.symmetry_violation(torch.tensor(logits), task, statistics=["mean"])
    assert mean["statistic"].values.tolist() == ["mean"]
    np.testing.assert_allclose(mean.sel(statistic="mean"), whole.sel(statistic="mean"), rtol=1e-9)


def test_logits_of_another_task_are_refused() -> None:
    with pytest.raises(TaskError, match=r"\(9, 3\).*\(25, 5\)"):
        gd.symmetry_violation(np.zeros((9, 3)), gd.task("modadd:p=5"))


def test_coverage_counts_held_out_inputs_with_their_swap_in_train() -> None:
    p = 5
    task = gd.task(f"modadd:p={p}")
    x, y = task.inputs.T
    train = x < y  # the swap of every other input is trained on, but the diagonal's own
    logits = np.where(x[:, None] == y[:, None], 1.0, 9.0) * np.eye(p)[task.answers]
    logits[x == y] = 0.0  # wrong, unless the answer is class 0
    found = run("symmetry", gd.Snapshot(task, logits=logits, train=train))
    swap = found.sel(symmetry="commutativity")
    assert float(swap["coverage"]) == pytest.approx(10 / 15)
    assert swap["covered_accuracy"].sel(covered="covered") == 1
    assert swap["covered_accuracy"].sel(covered="uncovered") == pytest.approx(1 / 5)
    assert float(found["coverage"].sel(symmetry="translation")) == 1
    assert swap["symmetry_violation_part"].sel(touches="mixed", statistic="max") == 0
    assert found["symmetry_instances"].values.tolist() == [25, 125, 625]


def test_a_symmetry_by_construction_is_flagged() -> None:
    task = gd.task("modadd:p=5")
    first = run("symmetry", analytic(5))
    assert not first["symmetry_architectural"].any()

    class Summed(gd.Snapshot):
        @property
        def swap_invariant(self) -> bool:
            return True

    flags = run("symmetry", Summed(task, logits=np.zeros((25, 5))))["symmetry_architectural"]
    assert flags.values.tolist() == [True, False, False]


# --- fit ---------------------------------------------------------------------------------------


@given(st.integers(0, 2**31), st.floats(0.1, 0.9))
def test_fit_is_the_mean_over_each_part(seed: int, share: float) -> None:
    task = gd.task("modadd:p=5")
    rng = np.random.default_rng(seed)
    logits, train = rng.normal(size=(25, 5)), rng.random(25) < share
    found = run("fit", gd.Snapshot(task, logits=logits, train=train))
    right = logits.argmax(axis=1) == task.answers
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    loss = -np.log(p[np.arange(25), task.answers])
    for part, rows in (("all", train | True), ("train", train), ("heldout", ~train)):
        if rows.any():
            assert found["accuracy"].sel(part=part) == pytest.approx(right[rows].mean())
            assert found["loss"].sel(part=part) == pytest.approx(loss[rows].mean())
        else:
            assert np.isnan(found["loss"].sel(part=part))


# --- harmonic diagnostics ----------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["modadd:p=31", "modmul:p=31"])
def test_a_helix_is_seen_as_what_it_was_built_from(spec: str) -> None:
    task = gd.task(spec)
    rows = helix(task, [2, 7])
    snapshot = gd.Snapshot(task, matrices={"embedding": Matrix(rows)})
    spectrum, circle = run("spectrum", snapshot), run("circle", snapshot)
    key = spectrum["key_block"].sel(matrix="embedding")
    assert spectrum["block"].values[key.values].tolist() == ["k=2", "k=7"]
    np.testing.assert_allclose(
        spectrum["power"].sel(matrix="embedding", block=["k=2", "k=7"]), 0.5, atol=1e-12
    )
    of_two = circle["circle"].sel(matrix="embedding", block="k=2")
    np.testing.assert_allclose(
        of_two.sel(measure=["axis_ratio", "in_plane_share", "circularity"]), 1, atol=1e-6
    )
    assert of_two.sel(measure="phase_error") < 1e-6
    assert circle["circle"].sel(block="k=3").isnull().all()
    fit = run("helix", snapshot)["helix"].sel(matrix="embedding")
    assert fit.sel(measure="r2") == pytest.approx(1)
    assert fit.sel(measure="frequencies") == 2
    assert fit.sel(measure="p_value") == pytest.approx(0.001)


def test_noise_has_no_key_blocks_and_no_helix() -> None:
    snapshot = random_dump(gd.task("modadd:p=31"))
    spectrum, fit = run("spectrum", snapshot), run("helix", snapshot)["helix"]
    assert not spectrum["key_block"].any()
    assert fit.sel(matrix="embedding", measure="r2") == 0
    assert fit.sel(matrix="embedding", measure="p_value") == 1
    assert spectrum["key_p_value"].notnull().all()  # the neurons' matrices are tested, too
    shares = spectrum["concentration"].sel(measure="neuron_ipr")
    assert shares.sel(matrix="neuron_input").notnull()
    assert shares.sel(matrix="embedding").isnull()


def test_key_blocks_are_those_of_the_whole_sequential_test() -> None:
    """Leaving the second stage out where it cannot matter changes no p-value."""
    from geomdiag.analyzers._shared import key_spectrum
    from geomdiag.metrics.spectrum import key_blocks

    task = gd.task("modadd:p=29")
    for noise in (0.1, 1.0, 3.0, 30.0):
        rows = helix(task, [3], noise=noise)
        snapshot = gd.Snapshot(task, matrices={"embedding": Matrix(rows)})
        own = key_spectrum(snapshot, task, "embedding")
        assert own is not None
        whole = key_blocks(rows, np.arange(29), period=29)
        np.testing.assert_array_equal(own.p_values, whole.p_values)
        np.testing.assert_array_equal(own.key, whole.key)


def test_a_circle_of_frequency_k_has_the_metric_of_its_own_order() -> None:
    task = gd.task("modadd:p=31")
    snapshot = gd.Snapshot(task, matrices={"embedding": Matrix(helix(task, [5], noise=1e-3))})
    found = run("distortion", snapshot).sel(matrix="embedding")
    assert str(found["distortion_key_block"].values) == "k=5"
    assert found["distortion_key"].sel(measure="spearman") > 0.99
    assert found["distortion_key"].sel(measure="neighbour_recall") == 1
    assert found["distortion"].sel(measure="spearman") < 0.5
    topology = run("topology", snapshot).sel(matrix="embedding")
    assert topology["holes"].sel(homology="H1") == 1
    agreement = topology["circular_correlation"]
    assert str(agreement["block"].values[int(agreement.values.argmax())]) == "k=5"
    assert agreement.max() > 0.99


def test_the_analytic_network_is_a_pure_group_network() -> None:
    snapshot = analytic(11)
    found = run("progress", snapshot)
    assert float(found["equivariant_share"]) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(found["equivariance_error"], 0, atol=1e-6)
    np.testing.assert_allclose(found["logit_power"].sum(), 1, atol=1e-6)
    assert run("fit", snapshot)["accuracy"].sel(part="all") == 1
    spectrum = run("spectrum", snapshot)["concentration"]
    assert spectrum.sel(matrix="neuron_input", measure="neuron_ipr") == pytest.approx(1)


def test_progress_losses_need_an_embedding_and_a_split() -> None:
    task = gd.task("modadd:p=11")
    rows = helix(task, [2, 3])
    x, y = task.inputs.T
    angles = 2 * np.pi * (x[:, None] + y[:, None] - np.arange(11)) / 11
    logits = 20 * (np.cos(2 * angles) + np.cos(3 * angles))
    whole = gd.Snapshot(task, matrices={"embedding": Matrix(rows)}, logits=logits, train=x % 2 == 0)
    found = run("progress", whole)
    assert found["restricted_loss"] < 1e-3
    assert found["excluded_loss"] == pytest.approx(np.log(11))
    no_split = gd.Snapshot(task, matrices={"embedding": Matrix(rows)}, logits=logits)
    assert np.isnan(run("progress", no_split)["excluded_loss"])
    nothing = gd.Snapshot(task, logits=logits, train=x % 2 == 0)
    assert np.isnan(run("progress", nothing)["restricted_loss"])


# --- order -------------------------------------------------------------------------------------


def test_a_grid_of_entities_is_seen_as_one() -> None:
    task = gd.task("comparison:5x4")
    rng = np.random.default_rng(0)
    points = np.stack(list(task.orders.values()), axis=1) * [1.0, 3.0]
    rows = points @ np.linalg.qr(rng.normal(size=(16, 16)))[0][:2] + rng.normal(size=16)
    found = run("order", gd.Snapshot(task, matrices={"embedding": Matrix(rows)}))
    assert found["attribute"].values.tolist() == ["x1", "x2"]
    np.testing.assert_allclose(found["order"], 1, atol=1e-9)
    assert found["additivity"] == pytest.approx(1)
    assert found["additivity_null"] == pytest.approx(7 / 19)
    np.testing.assert_allclose(found["axis_angle"], np.pi / 2 * (1 - np.eye(2)), atol=1e-9)
    distortion = run("distortion", gd.Snapshot(task, matrices={"embedding": Matrix(points)}))
    recall = distortion["distortion"].sel(matrix="embedding", measure="neighbour_recall")
    assert 0 < recall < 1  # the steps of x2 are three times as long


@pytest.mark.parametrize("spec", ["comparison:6", "comparison:3x4", "comparison:4,form=binary"])
def test_comparison_violations_are_those_of_a_loop(spec: str) -> None:
    """Antisymmetry and transitivity as METHOD words them, pair by pair and triple by triple."""
    task = gd.task(spec)
    logits = np.random.default_rng(0).normal(size=(len(task.inputs), task.classes))
    at = dict(zip(map(tuple, task.inputs.tolist()), logits, strict=True))
    n, names = task.tokens, list(task.orders)

    def log_p(values: np.ndarray) -> np.ndarray:
        return values - np.log(np.exp(values).sum())

    def verdict(odds: float) -> np.ndarray:
        return log_p(np.array([odds, 0.0]))

    swaps, chains = [], []
    for k, name in enumerate(names):
        rank = task.orders[name]
        less, equal, greater = (n + 3 * k + i for i in range(3))
        for a, b in itertools.product(range(n), repeat=2):
            if task.form == "three":
                if a < b:
                    swaps.append(kl_sym(log_p(at[a, n + k, b]), log_p(at[b, n + k, a])[::-1]))
                continue
            swaps.append(kl_sym(log_p(at[a, less, b]), log_p(at[b, greater, a])))
            if a < b:
                swaps.append(kl_sym(log_p(at[a, equal, b]), log_p(at[b, equal, a])))
        for a, b, c in itertools.product(range(n), repeat=3):
            if not rank[a] < rank[b] < rank[c]:
                continue
            if task.form == "three":
                odds = [
                    at[x, n + k, y][2] - at[x, n + k, y][0] for x, y in ((a, b), (b, c), (a, c))
                ]
                chains.append(kl_sym(verdict(odds[0] + odds[1]), verdict(odds[2])))
                continue
            for relation in (less, greater):
                odds = [at[x, relation, y] @ [-1, 1] for x, y in ((a, b), (b, c), (a, c))]
                chains.append(kl_sym(verdict(odds[0] + odds[1]), verdict(odds[2])))
    found = gd.symmetry_violation(logits, task)
    assert found["symmetry"].values.tolist() == ["antisymmetry", "transitivity"]
    for name, values in (("antisymmetry", swaps), ("transitivity", chains)):
        expected = [np.mean(values), *np.quantile(values, [0.5, 0.95, 1.0])]
        np.testing.assert_allclose(found.sel(symmetry=name), expected, rtol=1e-9, atol=1e-14)
