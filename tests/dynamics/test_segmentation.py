"""Segmentation: exact, wrong as often as it says, with intervals that hold what they promise."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest

from geomdiag.dynamics.segmentation import Model, Segmentation, segment_series
from geomdiag.errors import GeomdiagError


def ar(rng: np.random.Generator, n: int, correlation: float) -> np.ndarray:
    """Autoregressive noise of standard deviation one."""
    drawn = rng.normal(size=n) * math.sqrt(1 - correlation**2)
    noise = drawn.copy()
    noise[0] = rng.normal()
    for i in range(1, n):
        noise[i] = correlation * noise[i - 1] + drawn[i]
    return noise


def irregular(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.cumsum(rng.exponential(size=n) + 0.01)


def least_squares(x: np.ndarray, y: np.ndarray, cuts: tuple[int, ...], model: Model) -> float:
    """Sum of squares of the pieces between given cuts, by a general solver."""
    if model == "continuous":
        columns = [np.ones_like(x), x, *(np.maximum(x - x[i], 0) for i in cuts)]
        pieces = [(np.column_stack(columns), y)]
    else:
        pieces = [
            (np.column_stack([np.ones(b - a), x[a:b]])[:, : 1 + (model == "linear")], y[a:b])
            for a, b in itertools.pairwise([0, *cuts, len(y)])
        ]
    return sum(float(((v - m @ np.linalg.lstsq(m, v)[0]) ** 2).sum()) for m, v in pieces)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("model", "size", "shared"), [("constant", 2, 0), ("linear", 3, 0), ("continuous", 3, 1)]
)
def test_every_number_of_breaks_is_the_best_of_all_cuts(
    model: Model, size: int, shared: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, y = irregular(rng, 13), rng.normal(size=13)
    for count in (1, 2, 3):
        best = min(
            (least_squares(x, y, cuts, model), cuts)
            for cuts in itertools.combinations(range(13), count)
            # points of a piece; both of its ends where pieces meet
            if all(b - a + shared >= size for a, b in itertools.pairwise([0, *cuts, 13 - shared]))
        )
        found = segment_series(x, y, model=model, breaks=count)
        assert found.breaks == best[1]
        assert found.rss[count] == pytest.approx(best[0])
        assert ((y - found.fitted) ** 2).sum() == pytest.approx(best[0])


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("model", ["constant", "linear"])
def test_agrees_with_ruptures(model: Model, count: int) -> None:
    rpt = pytest.importorskip("ruptures")
    rng = np.random.default_rng(count)
    n, size = 60, 3
    x = np.arange(n) / n
    y = np.cumsum(rng.normal(size=n))
    if model == "constant":
        theirs = rpt.Dynp(model="l2", min_size=size, jump=1).fit(y)
    else:
        signal = np.column_stack([y, np.ones(n), x])
        theirs = rpt.Dynp(model="linear", min_size=size, jump=1).fit(signal)
    found = segment_series(x, y, model=model, breaks=count, min_size=size)
    assert [*found.breaks, n] == theirs.predict(n_bkps=count)


@pytest.mark.parametrize("model", ["constant", "linear", "continuous"])
def test_known_pieces_are_found_on_irregular_steps(model: Model) -> None:
    rng = np.random.default_rng(0)
    x = irregular(rng, 60)
    a, b = 20, 41
    place = np.arange(60)
    y = {
        "constant": np.select([place < a, place < b], [0.0, 3.0], -1.0),
        "linear": np.select([place < a, place < b], [x, 2 - x], x - 90),
        "continuous": np.minimum(0, x[a] - x) + np.maximum(0, x - x[b]),
    }[model]
    found = segment_series(x, y, model=model, max_breaks=3)
    assert found.breaks == (a, b)
    np.testing.assert_allclose(found.fitted, y, atol=1e-9)
    noisy = segment_series(x, y + 0.1 * rng.normal(size=60), model=model, max_breaks=3)
    assert len(noisy.breaks) == 2
    assert np.abs(np.array(noisy.breaks) - [a, b]).max() <= 1
    assert noisy.p_value(breaks=2) <= 0.01
    assert noisy.criterion.argmin() == 2


def test_a_line_and_white_noise_have_no_break() -> None:
    x = np.log1p(np.arange(100.0))
    assert segment_series(x, 3 - 2 * x).breaks == ()
    rng = np.random.default_rng(1)
    none = [segment_series(x, rng.normal(size=100)).breaks == () for _ in range(40)]
    assert np.mean(none) >= 0.9


def test_values_far_from_zero_lose_nothing() -> None:
    rng = np.random.default_rng(2)
    x, y = irregular(rng, 80), rng.normal(size=80)
    for model in ("constant", "linear"):
        near = segment_series(x, y, model=model, breaks=3)
        far = segment_series(x + 1e6, y + 1e7, model=model, breaks=3)
        assert far.breaks == near.breaks
        np.testing.assert_allclose(far.rss, near.rss, rtol=1e-6)


def test_constant_series_and_short_ones_have_no_break_and_no_significance() -> None:
    for n in (1, 2, 3, 30):
        for model in ("constant", "linear", "continuous"):
            found = segment_series(np.arange(n), np.full(n, 7.0), model=model, max_breaks=3)
            assert found.breaks == ()
            assert found.p_value() == 1
            assert found.intervals().shape == (0, 2)
            np.testing.assert_allclose(found.fitted, 7)


def test_same_seed_same_answer() -> None:
    rng = np.random.default_rng(3)
    x = irregular(rng, 40)
    found = segment_series(x, ar(rng, 40, 0.5) + np.maximum(x - x[20], 0))
    assert found.p_value(seed=5) == found.p_value(seed=5)
    assert (found.intervals(seed=5) == found.intervals(seed=5)).all()
    breaks, fitted = found.replicates(samples=7, seed=5)
    assert breaks.shape == (7, len(found.breaks))
    assert fitted.shape == (7, 40)


def test_what_cannot_be_segmented_is_refused_in_words() -> None:
    with pytest.raises(GeomdiagError, match="found shapes"):
        segment_series([1, 2], [1])
    with pytest.raises(GeomdiagError, match="leave out the points"):
        segment_series([1, 2], [1, np.nan])
    with pytest.raises(GeomdiagError, match="increase strictly"):
        segment_series([1, 1], [1, 2])
    with pytest.raises(GeomdiagError, match="at most 1"):
        segment_series(np.arange(6), np.arange(6), breaks=2)
    with pytest.raises(GeomdiagError, match="Known: constant, linear, continuous"):
        segment_series([1], [1], model="cubic")  # type: ignore[arg-type]


def false_positives(runs: int, n: int, correlation: float, **how: object) -> float:
    rng = np.random.default_rng(4)
    x = np.log1p(10.0 * np.arange(n))
    found = [
        segment_series(x, ar(rng, n, correlation), model="continuous", max_breaks=2).p_value(
            samples=99,
            **how,  # type: ignore[arg-type]
        )
        for _ in range(runs)
    ]
    return float(np.mean(np.array(found) <= 0.05))


def test_search_is_paid_for() -> None:
    """Were the best split tested as if given, noise would be split most of the time."""
    assert false_positives(60, 40, 0.5, null="constant", breaks=2) <= 0.1
    rng = np.random.default_rng(5)
    x = np.arange(40.0)
    naive = []
    for _ in range(60):
        found = segment_series(x, ar(rng, 40, 0.5), model="constant", breaks=1)
        f = (found.rss[0] / found.rss[1] - 1) * 38
        naive.append(f > 4.1)  # F(1, 38) at 5 %
    assert np.mean(naive) > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("n", [12, 30, 60])
@pytest.mark.parametrize("breaks", [1, 2])
def test_false_positives_on_autocorrelated_noise(n: int, correlation: float, breaks: int) -> None:
    """At most the stated 5 %, give or take three standard errors of 400 runs."""
    assert false_positives(400, n, correlation, null="constant", breaks=breaks) <= 0.05 + 0.033


def coverage(kind: str, runs: int, n: int, correlation: float) -> tuple[float, float]:
    rng = np.random.default_rng(6)
    x = np.linspace(0, 6, n)
    at = n // 2
    model: Model = "constant" if kind == "jump" else "continuous"
    truth = np.where(np.arange(n) < at, 0, -1.0) if kind == "jump" else -np.maximum(x - x[at], 0)
    hits, widths = [], []
    for _ in range(runs):
        found = segment_series(x, truth + 0.3 * ar(rng, n, correlation), model=model, breaks=1)
        ((low, high),) = found.intervals(0.9, 99)
        hits.append(low < at <= high if kind == "jump" else low <= at <= high)
        widths.append(high - low)
    return float(np.mean(hits)), float(np.mean(widths))


@pytest.mark.parametrize("kind", ["jump", "hinge"])
def test_intervals_hold_the_break(kind: str) -> None:
    share, width = coverage(kind, 60, 40, 0.3)
    assert share >= 0.8
    assert width < 15


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jump", "hinge"])
@pytest.mark.parametrize("n", [30, 60])
@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8])
def test_coverage_of_the_intervals(kind: str, n: int, correlation: float) -> None:
    share, width = coverage(kind, 300, n, correlation)
    assert share >= 0.8, share
    assert width < n / 2


def test_intervals_are_never_narrower_than_the_gap() -> None:
    x = np.arange(30.0)
    jump = segment_series(x, np.where(x < 15, 0.0, 1.0), model="constant", resolution=1e-3)
    assert jump.intervals().tolist() == [[14, 15]]
    hinge = segment_series(x, np.maximum(x - 15, 0), model="continuous", breaks=1)
    assert hinge.intervals().tolist() == [[14, 16]]


def test_ten_thousand_points_take_seconds() -> None:
    rng = np.random.default_rng(7)
    x = np.log1p(10.0 * np.arange(10_000))
    y = np.where(x < x[4000], 0, 3 * (x[4000] - x)) + 0.1 * rng.normal(size=10_000)
    start = time.process_time()
    found: Segmentation = segment_series(x, y)
    assert time.process_time() - start < 30
    assert len(found.breaks) == 1
    assert abs(found.breaks[0] - 4000) < 200
