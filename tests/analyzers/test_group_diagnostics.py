"""Diagnostics of tasks over groups that are not cyclic."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from snapshots import random_dump, train_mask

import geomdiag as gd
from geomdiag.analyzers import ANALYZERS
from geomdiag.models import Matrix


def run(name: str, snapshot: gd.Snapshot) -> xr.Dataset:
    return ANALYZERS[name].compute(snapshot, snapshot.task)


def blocks_drawn(task: gd.Task, labels: list[str], noise: float = 0.01) -> np.ndarray:
    """Return rows that fill some blocks of the basis, in a random frame, and a little noise."""
    basis = task.basis
    rng = np.random.default_rng(0)
    chosen = np.isin(basis.block, [basis.labels.index(label) for label in labels])
    rows = basis.vectors[:, chosen] @ np.linalg.qr(rng.normal(size=(16, chosen.sum())))[0].T
    return rows + noise * rng.normal(size=rows.shape)


def right_answers(task: gd.Task, size: float) -> np.ndarray:
    return size * np.eye(task.classes)[task.answers]


@pytest.mark.parametrize(
    ("labels", "generate"),
    [
        (["k=1,2"], 0),
        (["k=1,0", "k=0,1"], 1),
        (["k=1,3", "k=0,2"], 0),
        (["k=1,5", "k=0,3"], 1),
        (["k=2,0", "k=0,1"], 0),
    ],
)
def test_helix_of_a_product(labels: list[str], generate: int) -> None:
    task = gd.task("group:Z6xZ10")
    snapshot = gd.Snapshot(task, matrices={"embedding": Matrix(blocks_drawn(task, labels))})
    spectrum = run("spectrum", snapshot).sel(matrix="embedding")
    keys = spectrum["block"].values[spectrum["key_block"].values]
    assert set(keys) == set(labels)
    fit = run("helix", snapshot)["helix"].sel(matrix="embedding")
    assert fit.sel(measure="r2") > 0.95
    assert fit.sel(measure="r2_loo") > 0.95
    assert fit.sel(measure="p_value") == pytest.approx(0.001)
    assert fit.sel(measure="frequencies") == len(labels)
    assert fit.sel(measure="generates") == generate
    assert gd.dual("Z6xZ10").generates([*labels]) == bool(generate)
    circle = run("circle", snapshot)["circle"].sel(matrix="embedding")
    assert (circle.sel(measure="in_plane_share", block=labels) > 0.95).all()
    assert (circle.sel(measure="phase_error", block=labels) < 0.2).all()
    assert np.isnan(circle.sel(measure="axis_ratio")).sum() == circle.sizes["block"] - len(labels)


@pytest.mark.parametrize(("frequencies", "generate"), [([3], 0), ([4, 9], 1), ([2, 4], 0)])
def test_frequencies_of_a_cyclic_group_may_not_generate_it(
    frequencies: list[int], generate: int
) -> None:
    task = gd.task("modadd:p=36")
    rows = blocks_drawn(task, [f"k={k}" for k in frequencies])
    snapshot = gd.Snapshot(task, matrices={"embedding": Matrix(rows)})
    fit = run("helix", snapshot)["helix"].sel(matrix="embedding")
    assert fit.sel(measure="frequencies") == len(frequencies)
    assert fit.sel(measure="generates") == generate


def test_blocks_have_a_place_on_the_dual_grid() -> None:
    task = gd.task("group:Z6xZ10")
    found = run("spectrum", random_dump(task))
    assert found["axis"].values.tolist() == ["k1", "k2"]
    for label in ("k=1,2", "k=3,5", "k=0,1"):
        place = found["block_frequency"].sel(block=label).values.tolist()
        assert label == "k=" + ",".join(map(str, place))
    assert "block_frequency" not in run("spectrum", random_dump(gd.task("group:D4")))
    one = run("spectrum", random_dump(gd.task("modadd:p=7")))["block_frequency"]
    assert one.values.tolist() == [[1], [2], [3]]


@pytest.mark.parametrize("spec", ["group:S3", "group:A4", "group:D5", "group:Z2xZ6"])
def test_right_answers_are_what_the_group_explains(spec: str) -> None:
    task = gd.task(spec)
    labels = list(task.basis.labels[1:])
    snapshot = gd.Snapshot(
        task,
        matrices={"embedding": Matrix(np.random.default_rng(0).normal(size=(task.tokens, 8)))},
        logits=right_answers(task, 9.0),
        train=train_mask(task),
    )
    found = run("progress", snapshot)
    assert found["block"].values.tolist() == labels
    assert float(found["equivariant_share"]) == pytest.approx(1.0)
    assert float(found["logit_power"].sum()) == pytest.approx(1.0)
    np.testing.assert_allclose(found["equivariance_error"], 0.0, atol=1e-12)
    np.testing.assert_allclose(found["logit_similarity"] ** 2, found["logit_power"])
    assert "distance_irrelevance" not in found
    loss = run("fit", snapshot)["loss"].sel(part="train")
    alone = run("irreps", snapshot)
    assert alone["block"].values.tolist() == labels
    assert (alone["irrep_excluded_loss"] > loss).all()
    assert (alone["irrep_restricted_loss"] < np.log(task.classes)).all()


def test_key_irreps_are_those_of_the_embedding() -> None:
    """Without the one representation that distinguishes the tokens nothing is left."""
    task = gd.task("group:S4")
    basis, group = task.basis, task.logit_group
    assert group is not None
    assert group.table is not None
    assert group.characters is not None
    block = basis.labels.index("standard")
    identity = next(e for e in range(24) if group.table[e, e] == e)
    inverse = (group.table == identity).argmax(axis=1)
    x, y = task.inputs.T
    logits = 5.0 * group.characters[block][group.table[:, inverse][group.table[x, y]]]
    snapshot = gd.Snapshot(
        task,
        matrices={"embedding": Matrix(blocks_drawn(task, ["standard"]))},
        logits=logits,
        train=train_mask(task),
    )
    found = run("progress", snapshot)
    loss = float(run("fit", snapshot)["loss"].sel(part="all"))
    assert float(found["restricted_loss"]) == pytest.approx(loss, rel=1e-9)
    assert float(found["excluded_loss"]) == pytest.approx(np.log(24))
    assert float(found["logit_similarity"].sel(block="standard")) == pytest.approx(1.0)
    own = run("irreps", snapshot).sel(block="standard")
    assert float(own["irrep_restricted_loss"]) == pytest.approx(loss, rel=1e-9)
    assert float(own["irrep_excluded_loss"]) == pytest.approx(np.log(24))


@pytest.mark.parametrize("spec", ["group:D4", "group:S3", "group:A4"])
def test_nothing_cyclic_or_commutative_is_said_of_other_groups(spec: str) -> None:
    task = gd.task(spec)
    snapshot = random_dump(task)
    for name in ("circle", "helix"):
        assert "no abelian group" in ANALYZERS[name].missing(snapshot, task)
    assert "circular_correlation" not in run("topology", snapshot)
    violated = run("symmetry", snapshot)
    assert "commutativity" not in violated["symmetry"].values


def test_a_hole_of_a_product_is_named_by_its_character() -> None:
    task = gd.task("group:Z3xZ8")
    rows = blocks_drawn(task, ["k=1,1"], noise=0.0)
    snapshot = gd.Snapshot(task, matrices={"embedding": Matrix(rows)})
    found = run("topology", snapshot)["circular_correlation"].sel(matrix="embedding")
    assert str(found["block"].values[int(found.values.argmax())]) == "k=1,1"


def test_results_keep_the_dual_grid() -> None:
    """One value a run, whatever the steps."""
    from geomdiag.analysis.assembly import Row, assemble, values_of

    task = gd.task("group:Z2xZ6")
    rows = [
        Row(step=step, values=values_of(run("spectrum", random_dump(task, step))))
        for step in range(3)
    ]
    whole = assemble(rows, frozenset(ANALYZERS["spectrum"].static))
    assert whole["block_frequency"].dims == ("block", "axis")
    assert whole["block_frequency"].dtype == np.int64


def test_a_small_irrep_is_found_beside_a_large_one() -> None:
    """One function with a tenth of the power stands out; 25 functions hold more of any matrix."""
    task = gd.task("group:S5")
    basis = task.basis
    rng = np.random.default_rng(0)
    rows = 0.3 * rng.normal(size=(120, 60)) / np.sqrt(60)
    sign = basis.vectors[:, basis.block == basis.labels.index("sign")]
    standard = basis.vectors[:, basis.block == basis.labels.index("standard")]
    rows += 1.2 * sign @ rng.normal(size=(1, 60)) / np.sqrt(60)
    rows += 3.0 * standard @ rng.normal(size=(16, 60)) / np.sqrt(16 * 60)
    snapshot = gd.Snapshot(task, matrices={"embedding": Matrix(rows)})
    found = run("spectrum", snapshot).sel(matrix="embedding")
    power = found["power"]
    assert power.sel(block="sign") < power.max()
    assert set(found["block"].values[found["key_block"].values]) == {"sign", "standard"}


def test_noise_has_no_key_irreps() -> None:
    """Family-wise: under the null the smallest p-value is below 0.1 about one time in ten."""
    from geomdiag.metrics.spectrum import key_blocks

    basis = gd.task("group:S4").basis
    smallest = []
    for seed in range(200):
        noise = np.random.default_rng(seed).normal(size=(24, 6))
        found = key_blocks(
            noise, basis.members, block=basis.block, vectors=basis.vectors,
            permutations=99, alpha=0.01, seed=seed,
        )  # fmt: skip
        smallest.append(found.p_values.min())
    share = np.mean(np.array(smallest) <= 0.1)
    assert abs(share - 0.1) < 4 * np.sqrt(0.1 * 0.9 / 200)


def test_key_irreps_against_the_definition() -> None:
    from geomdiag.metrics._relabel import random_permutations
    from geomdiag.metrics.spectrum import key_blocks

    basis = gd.task("group:A4").basis
    rows = blocks_drawn(gd.task("group:A4"), ["standard"], noise=0.15)
    rows = rows - rows.mean(axis=0)
    sizes = np.bincount(basis.block)[1:]

    def statistic(values: np.ndarray) -> np.ndarray:
        power = np.bincount(basis.block, weights=((basis.vectors.T @ values) ** 2).sum(axis=1))[1:]
        mean = power.sum() * sizes / 11
        return (power - mean) / np.sqrt(sizes / 11 * (1 - sizes / 11))

    null = np.array([statistic(rows[order]).max() for order in random_permutations(12, 999, 0)])
    expected = []
    for value in statistic(rows):
        first = (null[:99] >= value - 1e-9).sum()
        whole = (null >= value - 1e-9).sum()
        expected.append((1 + first) / 100 if first >= 10 else (1 + whole) / 1000)
    found = key_blocks(rows, basis.members, block=basis.block, vectors=basis.vectors)
    np.testing.assert_allclose(found.p_values, expected, rtol=1e-12)
