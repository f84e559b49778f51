"""Rank and dimension: known answers, invariances, published numbers."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geomdiag.metrics import rank

torch = pytest.importorskip("torch")

SPECTRAL = {
    "effective_dimension": rank.effective_dimension,
    "entropy_rank": rank.entropy_rank,
    "entropy_rank_squared": rank.entropy_rank_squared,
    "participation_ratio": rank.participation_ratio,
    "stable_rank": rank.stable_rank,
}
NORMS = {
    "nuclear": rank.nuclear_norm,
    "frobenius": rank.frobenius_norm,
    "spectral": rank.spectral_norm,
}


def rotation(size: int, rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((size, size)))[0]


def with_spectrum(values: np.ndarray, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Return a matrix of these singular values whose rows are already centred."""
    rng = np.random.default_rng(seed)
    left = rng.standard_normal((rows, len(values)))
    left = np.linalg.qr(left - left.mean(axis=0))[0]
    return left * values @ rotation(columns, rng)[: len(values)]


@pytest.mark.parametrize("name", SPECTRAL)
def test_identity_has_every_dimension(name: str) -> None:
    assert SPECTRAL[name](np.eye(7), center=False) == pytest.approx(7)
    # Centring takes one direction away.
    assert SPECTRAL[name](np.eye(7)) == pytest.approx(6)


@pytest.mark.parametrize("name", SPECTRAL)
@pytest.mark.parametrize("center", [True, False])
def test_rank_one(name: str, center: bool) -> None:
    matrix = np.outer(np.arange(9.0), [1.0, -2.0, 0.5])
    assert SPECTRAL[name](matrix, center=center) == pytest.approx(1)


@pytest.mark.parametrize("ratio", [0.5, 0.8])
def test_geometric_spectrum(ratio: float) -> None:
    n = 40
    values = ratio ** np.arange(n)
    matrix = with_spectrum(values, 60, 50)
    found = rank.dimensions(matrix, intrinsic=False)

    def geometric_sum(r: float) -> float:
        return (1 - r**n) / (1 - r)

    power = values**2
    share = power / power.sum()
    assert found["effective_dimension"] == np.count_nonzero(share > 0.01)
    assert found["stable_rank"] == pytest.approx(geometric_sum(ratio**2))
    assert found["participation_ratio"] == pytest.approx(
        geometric_sum(ratio**2) ** 2 / geometric_sum(ratio**4)
    )
    # Entropy of a (truncated) geometric distribution.
    for name, r in (("entropy_rank", ratio), ("entropy_rank_squared", ratio**2)):
        mean = r / (1 - r) - n * r**n / (1 - r**n)
        entropy = math.log(geometric_sum(r)) - mean * math.log(r)
        assert found[name] == pytest.approx(math.exp(entropy))
    norms = rank.norms(matrix)
    assert norms["nuclear"] == pytest.approx(geometric_sum(ratio))
    assert norms["frobenius"] == pytest.approx(math.sqrt(geometric_sum(ratio**2)))
    assert norms["spectral"] == pytest.approx(1)


def test_threshold_is_strict_share_of_variance() -> None:
    matrix = with_spectrum(np.sqrt([0.7, 0.25, 0.045, 0.005]), 30, 8)
    assert rank.effective_dimension(matrix) == 3
    assert rank.effective_dimension(matrix, threshold=0.1) == 2


@given(
    seed=st.integers(0, 10_000),
    exponent=st.integers(-40, 40),
    rows=st.integers(2, 12),
    columns=st.integers(1, 12),
)
def test_invariances(seed: int, exponent: int, rows: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((rows, columns))
    moved = (matrix @ rotation(columns, rng))[rng.permutation(rows)]
    shift = rng.standard_normal(columns)
    scale = 10.0**exponent
    for name, measure in SPECTRAL.items():
        if name == "effective_dimension":
            continue  # a count: a share may sit on the threshold; see below
        assert measure((moved + shift) * scale) == pytest.approx(measure(matrix), rel=1e-8)
        assert measure(moved * scale, center=False) == pytest.approx(
            measure(matrix, center=False), rel=1e-8
        )
    for norm in NORMS.values():
        assert norm(moved * scale) == pytest.approx(norm(matrix) * scale, rel=1e-10)


@given(seed=st.integers(0, 10_000))
def test_count_and_intrinsic_dimension_are_invariant(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((40, 6)) * [3, 2, 1, 1, 0.02, 0.01]
    moved = (matrix @ rotation(6, rng))[rng.permutation(40)] * 1e-7 + 1e-6
    assert rank.effective_dimension(moved) == rank.effective_dimension(matrix) == 4
    assert rank.intrinsic_dimension(moved) == pytest.approx(rank.intrinsic_dimension(matrix))


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_extreme_scale(scale: float) -> None:
    matrix = np.random.default_rng(0).standard_normal((6, 4))
    for measure in SPECTRAL.values():
        assert measure(matrix * scale, center=False) == pytest.approx(measure(matrix, center=False))
    for norm in NORMS.values():
        assert norm(matrix * scale) == pytest.approx(norm(matrix) * scale)


@pytest.mark.parametrize(
    "matrix",
    [np.zeros((5, 3)), np.ones((1, 4)), np.full((6, 3), 0.1), np.zeros((1, 1))],
    ids=["zero", "one row", "equal rows", "one zero"],
)
def test_no_spectrum_is_nan_without_warning(matrix: np.ndarray) -> None:
    for name, value in rank.dimensions(matrix).items():
        assert math.isnan(value), name
    for measure in SPECTRAL.values():
        assert math.isnan(measure(matrix))
    assert rank.norms(np.zeros((3, 2))) == {"nuclear": 0, "frobenius": 0, "spectral": 0}
    assert rank.frobenius_norm(np.zeros((3, 2))) == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_is_refused(bad: float) -> None:
    matrix = np.ones((3, 2))
    matrix[1, 1] = bad
    for measure in (
        *SPECTRAL.values(),
        *NORMS.values(),
        rank.dimensions,
        rank.norms,
        rank.intrinsic_dimension,
    ):
        with pytest.raises(ValueError, match=r"1 NaN or infinite .* diverged or damaged"):
            measure(matrix)


@pytest.mark.parametrize("shape", [(5,), (0, 3), (3, 0)])
def test_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        rank.dimensions(np.zeros(shape))


def test_one_matrix_is_asked_where_one_is_meant() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 3, 4\)"):
        rank.dimensions(np.ones((2, 3, 4)))


def test_batch_and_torch_agree_with_single() -> None:
    batch = np.random.default_rng(0).standard_normal((3, 8, 5))
    batch[1] = 0
    for measure in (*SPECTRAL.values(), *NORMS.values()):
        single = np.array([measure(matrix) for matrix in batch])
        np.testing.assert_allclose(measure(batch), single, rtol=1e-12)
        from_torch = measure(torch.tensor(batch))
        assert from_torch.shape == (3,)
        np.testing.assert_allclose(from_torch.numpy(), single, rtol=1e-12)
    tensor = torch.tensor(batch[0])
    assert rank.dimensions(tensor) == pytest.approx(rank.dimensions(batch[0]))
    assert rank.norms(tensor) == pytest.approx(rank.norms(batch[0]))


def test_float32_is_measured_in_double() -> None:
    matrix = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)
    # the two take different decompositions, whose last digit depends on the processor
    expected = rank.entropy_rank(matrix.astype(np.float64))
    assert rank.entropy_rank(matrix) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "measure", [rank.entropy_rank, rank.nuclear_norm, rank.participation_ratio, rank.stable_rank]
)
def test_torch_gradient(measure: object) -> None:
    matrix = torch.tensor(np.random.default_rng(0).standard_normal((5, 4)), requires_grad=True)
    assert callable(measure)
    assert torch.autograd.gradcheck(measure, (matrix,))


def test_twonn_plane_and_circle() -> None:
    rng = np.random.default_rng(1)
    plane = rng.random((1500, 2)) @ rng.standard_normal((2, 10))
    assert rank.intrinsic_dimension(plane) == pytest.approx(2, abs=0.12)
    angle = rng.random(1500) * 2 * np.pi
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1) @ rotation(10, rng)[:2]
    assert rank.intrinsic_dimension(circle) == pytest.approx(1, abs=0.06)


def test_twonn_by_hand() -> None:
    points = np.array([[0.0], [1.0], [3.0], [7.0], [12.0]])
    ratios = np.sort([3.0, 2.0, 1.5, 5 / 4, 9 / 5])[:4]
    x, y = np.log(ratios), -np.log(1 - np.arange(1, 5) / 5)
    assert rank.intrinsic_dimension(points) == pytest.approx((x @ y) / (x @ x))


def test_twonn_counts_duplicates_once() -> None:
    rng = np.random.default_rng(2)
    points = rng.standard_normal((60, 3))
    doubled = np.concatenate([points, points[:20], points[:5] + 1e-15])
    assert rank.intrinsic_dimension(doubled) == pytest.approx(rank.intrinsic_dimension(points))


def test_twonn_without_information() -> None:
    angle = 2 * np.pi * np.arange(12) / 12
    assert math.isnan(rank.intrinsic_dimension(np.stack([np.cos(angle), np.sin(angle)], 1)))
    assert math.isnan(rank.intrinsic_dimension(np.ones((10, 2))))
    assert math.isnan(rank.intrinsic_dimension(np.eye(2)))
    with pytest.raises(ValueError, match="discard"):
        rank.intrinsic_dimension(np.eye(5), discard=1)


def load(path: Path) -> dict:
    return torch.load(path, map_location="cpu", weights_only=True)


def test_published_rank_of_generalised_transformer(real_data: Path) -> None:
    weights = load(real_data / "nanda-code-p113" / "baseline.pt")
    neuron_to_logit = weights["unembed.W_U"][:, :113].T @ weights["blocks.0.mlp.W_out"]
    assert rank.entropy_rank_squared(neuron_to_logit) == pytest.approx(9.92, abs=0.005)


def test_published_rank_without_weight_decay(real_data: Path) -> None:
    saved = load(real_data / "nanda-code-p113" / "mod_addition_no_wd.pth")
    embedding = saved["model"]["embed.W_E"].T[:113]
    assert round(float(rank.entropy_rank(embedding))) == 85
    assert rank.entropy_rank(embedding, center=False) == pytest.approx(85.5, abs=0.05)


@pytest.mark.parametrize("epoch", [0, 200, 10_400, 49_800])
def test_published_ranks_of_one_hot_series(real_data: Path, epoch: int) -> None:
    folder = real_data / "yagent-p23"
    with (folder / "yagent_p23_grok_reference.csv").open() as file:
        row = next(r for r in csv.DictReader(file) if int(r["epoch"]) == epoch)
    run = folder / "p_23_dmlp_512_ReLU_random_scale_0.1_decay_2.0_08180102"
    tokens = load(run / f"{epoch}.pth")["model"]["mlp.W_in"].T
    assert rank.entropy_rank(tokens) == pytest.approx(float(row["erank_s"]), rel=1e-10)
    assert rank.entropy_rank_squared(tokens) == pytest.approx(float(row["erank_s2"]), rel=1e-10)


@pytest.mark.parametrize("shape", [(23, 40), (40, 23), (30, 30)])
def test_single_precision_takes_another_way_to_the_same_numbers(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    matrix = (rng.standard_normal(shape) * rng.lognormal(0, 2, shape[1]) + 3).astype(np.float32)
    for center in (True, False):
        single = rank.dimensions(matrix, center=center)
        assert single == pytest.approx(
            rank.dimensions(matrix.astype(np.float64), center=center), rel=1e-6
        )
    assert rank.norms(matrix) == pytest.approx(rank.norms(matrix.astype(np.float64)), rel=1e-7)
    low = np.outer(np.arange(1, 8), np.ones(9)).astype(np.float32)
    assert rank.dimensions(low, intrinsic=False)["entropy_rank"] == pytest.approx(1.0, abs=1e-6)
    assert np.isnan(rank.dimensions(np.ones((5, 4), np.float32), intrinsic=False)["stable_rank"])
