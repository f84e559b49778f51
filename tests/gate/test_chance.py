"""The p-values of the gate: known answers, brute force, and the level that they promise."""

from __future__ import annotations

import importlib.util
import math
from itertools import combinations
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from geomdiag.gate import permutation
from geomdiag.gate.chance import MARGIN, Runs, basis_of, weigh
from geomdiag.gate.changes import changes
from geomdiag.gate.permutation import alone, fewest_new_runs, number_of_splits, splits, together
from geomdiag.gate.policies import Policy
from geomdiag.gate.promise import notices_of

NAN = math.nan
ALLOWING = Policy("higher", absolute=0.1, allow_missing=True)


# --- splits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), [(1, 1), (5, 3), (2, 6), (19, 1)])
def test_all_splits_once_and_the_given_one_first(old: int, new: int) -> None:
    found = splits(old, new)
    assert found[0].tolist() == [False] * old + [True] * new
    assert {tuple(np.flatnonzero(row)) for row in found} == set(combinations(range(old + new), new))
    assert len(found) == number_of_splits(old, new)


def test_of_too_many_splits_some_are_drawn_and_always_the_same() -> None:
    found = splits(30, 10)
    assert len(found) == permutation.MOST
    assert (found.sum(axis=1) == 10).all()
    assert found[0].tolist() == [False] * 30 + [True] * 10
    splits.cache_clear()
    assert (splits(30, 10) == found).all()
    # every run is new equally often, but for chance
    assert found.mean(axis=0) == pytest.approx(0.25, abs=5 * math.sqrt(0.1875 / len(found)))
    assert splits(3000, 1000).nbytes < 20_000_000


@pytest.mark.parametrize("level", [0.01, 0.05, 0.2])
def test_the_fewest_new_runs_that_reach_a_level(level: float) -> None:
    for old in range(1, 25):
        new = fewest_new_runs(old, level)
        assert 1 / math.comb(old + new, new) <= level + 1e-12
        assert new == 1 or 1 / math.comb(old + new - 1, new - 1) > level


def test_numbers_beyond_a_float_s_are_no_obstacle() -> None:
    assert fewest_new_runs(1, 1e-12) == pytest.approx(1e12, rel=1e-8)
    values = np.arange(4000.0)
    for old in (2000, 3999):
        runs = Runs("s", values, old, 4000 - old, Policy("higher"))
        basis, (one,) = weigh([runs], level=0.05, correction="family-wise")
        assert (basis, one.adjusted) == ("exact", pytest.approx(1 / 2000, abs=1e-3))
        assert "split in 2000 ways of many" in notices_of([runs], basis, 0.05, "family-wise")[0]
        assert "raise it" in notices_of([runs], "exact", 1e-4, "family-wise")[0]
    assert fewest_new_runs(1, 1e-30) == pytest.approx(1e30, rel=1e-8)


# --- one metric ----------------------------------------------------------------------------------


@pytest.mark.parametrize("worse", ["higher", "lower", "either"])
@pytest.mark.parametrize("scale", ["linear", "log", "logit"])
def test_a_metric_by_itself_has_the_p_value_of_scipy(worse: str, scale: str) -> None:
    rng = np.random.default_rng(3)
    policy = Policy(worse, scale, absolute=0.0 if scale == "linear" else 1e-9)
    for _ in range(5):
        values = rng.uniform(0.1, 0.9, size=8)
        moved = {"linear": values, "log": np.log(values), "logit": np.log(values / (1 - values))}
        x = moved[scale]
        expected = stats.permutation_test(
            (x[5:], x[:5]),
            lambda a, b: stats.ttest_ind(a, b).statistic,
            vectorized=False,
            alternative={"higher": "greater", "lower": "less", "either": "two-sided"}[worse],
        )
        one = changes(values, splits(5, 3), policy)
        student = stats.ttest_ind(x[5:], x[:5])
        bad = {"higher": student.statistic > 0, "lower": student.statistic < 0, "either": True}
        if bad[worse]:
            both = 1 if worse == "either" else 2
            assert one.worse[0] == pytest.approx(student.pvalue / both, rel=1e-6)
            if worse != "either":  # scipy's two-sided p-value is twice the smaller one
                (p,) = alone(one.worse[:, None])
                assert p == pytest.approx(expected.pvalue)
        else:
            assert one.worse[0] == 1
        assert one.step[0] == pytest.approx(x[5:].mean() - x[:5].mean(), rel=1e-5)
        assert one.spread[0] == pytest.approx(x[:5].std(ddof=1), rel=1e-5)


def test_what_is_tolerated_is_not_rare_in_any_split() -> None:
    values = np.array([1.0, 1.2, 1.1, 2.0, 1.9])
    new = splits(3, 2)
    one = changes(values, new, Policy("higher", absolute=0.5))
    for row, rare, excess in zip(new, one.worse, one.excess, strict=True):
        change = values[row].mean() - values[~row].mean()
        assert (rare < 1) == (change > 0.5 * (1 + 1e-6))
        assert excess == pytest.approx(abs(change) / 0.5, rel=1e-4)


def test_a_relative_tolerance_is_one_of_the_split_s_own_baseline() -> None:
    values = np.array([1.0, 1.0, 1.0, 10.0])
    one = changes(values, splits(3, 1), Policy("lower", relative=0.8))
    # 10 as the new one is better; as one of the baseline's, whose mean is 4, 1 is 75 % less
    assert one.excess == pytest.approx([9 / 0.8, *[0.75 / 0.8] * 3], rel=1e-4)
    assert one.worse.tolist() == [1.0] * 4


# --- many metrics --------------------------------------------------------------------------------


def brute_force(table: np.ndarray) -> list[float]:
    """Step-down min-P as its definition reads."""
    order = sorted(range(table.shape[1]), key=lambda metric: table[0, metric])
    adjusted, least = [0.0] * len(order), 0.0
    for rank, metric in enumerate(order):
        left = order[rank:]
        hits = sum(min(row[other] for other in left) <= table[0, metric] for row in table)
        least = max(least, hits / len(table))
        adjusted[metric] = least
    return adjusted


@given(st.integers(0, 10_000), st.integers(1, 6), st.booleans())
@settings(max_examples=40)
def test_together_is_step_down_min_p(seed: int, metrics: int, tied: bool) -> None:
    rng = np.random.default_rng(seed)
    table = rng.uniform(size=(21, metrics)) ** 3
    if tied:
        table = np.round(table, 1)
    (found,) = together([table])
    assert found == pytest.approx(brute_force(table))
    assert (found >= alone(table) - 1e-12).all()


def test_settings_add_their_shares() -> None:
    first = np.array([[0.01], [0.5], [0.6], [0.7]])
    second = np.array([[0.4], [0.005], [0.9], [1.0], [1.0]])
    one, other = together([first, second])
    assert one == pytest.approx([1 / 4 + 1 / 5])
    assert other == pytest.approx([max(1 / 4 + 1 / 5, 2 / 5)])  # the first is left out of it
    assert together([]) == []


# --- the promise ---------------------------------------------------------------------------------


def scatter() -> ModuleType:
    """Return the benchmark's runs of known scatter."""
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "gate_scatter.py"
    spec = importlib.util.spec_from_file_location("gate_scatter", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCATTER = scatter()
KINDS = tuple(SCATTER.KINDS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("old", "new", "level"), [(5, 2, 0.05), (4, 3, 0.1), (2, 3, 0.1)])
def test_of_all_splits_of_the_same_runs_at_most_the_level_fails(
    kind: str, old: int, new: int, level: float
) -> None:
    rng = np.random.default_rng(old)
    most = 0.0
    for _ in range(6):
        runs = SCATTER.KINDS[kind](rng, (old + new, 4))
        runs[0] = np.nan_to_num(runs[0])  # a baseline holds some number
        failed = []
        for row in splits(old, new):
            measured = [
                Runs("s", np.concatenate([x[~row], x[row]]), old, new, ALLOWING) for x in runs.T
            ]
            basis, found = weigh(measured, level=level, correction="family-wise")
            assert basis == "exact"
            failed.append(any(one.adjusted <= level for one in found))
        assert np.mean(failed) <= level + 1e-12
        most = max(most, float(np.mean(failed)))
    assert most > 0 or kind.startswith(
        ("discrete", "one run in four lacks")
    )  # it is not kept by never failing


def rate(kind: str, old: int, new: int, **options: float) -> float:
    return SCATTER.share_that_fails(SCATTER.KINDS[kind], old, new, **options)


REPEATS = 4000
#: Two standard errors over the level: at 6 % a rate lies beyond with 80 %, each of many.
ALLOWED = 0.05 + 2 * math.sqrt(0.05 * 0.95 / REPEATS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("old", "new"), [(3, 3), (5, 2)])
def test_false_alarms_keep_to_the_level(kind: str, old: int, new: int) -> None:
    found = rate(kind, old, new, repeats=REPEATS)
    assert found <= ALLOWED
    if kind == "normal":  # and the level is not wasted
        assert found >= 0.03


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["normal", "normal, metrics correlated by 0.9"])
@pytest.mark.parametrize("old", [3, 8])
def test_with_one_new_run_normal_seeds_keep_to_the_level(kind: str, old: int) -> None:
    assert rate(kind, old, 1, repeats=REPEATS) <= ALLOWED


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_with_one_new_run_others_keep_to_what_is_told(kind: str) -> None:
    bound = 1 / 9
    found = rate(kind, 8, 1, repeats=2000)
    assert found <= bound + 2 * math.sqrt(bound * (1 - bound) / 2000)


@pytest.mark.slow
def test_what_is_large_is_found() -> None:
    for old, new, shift in ((5, 1, 40.0), (5, 3, 5.0), (8, 3, 4.0)):
        assert rate("normal", old, new, repeats=300, shift=shift, shifted=1) > 0.95
    weak, strong = (rate("normal", 5, 3, repeats=300, shift=shift) for shift in (0.0, 2.0))
    assert weak < 0.1 < strong


def test_the_basis_is_what_the_runs_allow() -> None:
    for old, new, level, basis in (
        (5, 2, 0.05, "exact"),
        (5, 2, 0.04, "approximate"),
        (3, 3, 0.05, "exact"),
        (3, 1, 0.05, "approximate"),
        (2, 1, 0.05, "tolerances"),
        (2, 5, 0.05, "exact"),
        (1, 1, 0.6, "exact"),
    ):
        runs = Runs("s", np.zeros(old + new), old, new, Policy())
        assert basis_of(runs, level) == basis, (old, new, level)
    runs = Runs("s", np.zeros(8), 5, 3, Policy(test=False))
    assert basis_of(runs, 0.05) == "tolerances"


def test_with_too_few_runs_both_the_splits_and_students_t_must_find_it_rare() -> None:
    def chance(values: list[float]) -> tuple[float, float]:
        runs = Runs("s", np.array(values), len(values) - 1, 1, Policy("higher"))
        _, (one,) = weigh([runs], level=0.05, correction="family-wise")
        return one.p_value, one.adjusted

    # worse than all the others, but not rare
    assert chance([1.0, 2.0, 3.0, 4.0])[1] > 0.05
    assert chance([1.0, 2.0, 3.0, 40.0])[1] < 0.05
    # rare by Student's t, had not one of the baseline's stuck out further
    many = [1.0, 1.1, 0.9] * 4
    far = stats.t.sf((1.3 - np.mean(many)) / (np.std(many, ddof=1) * math.sqrt(13 / 12)), 11)
    assert far < 0.05
    assert chance([*many, 1.3])[1] == pytest.approx(MARGIN * far)
    assert chance([*many[:-1], 1.3, 1.25])[1] > 0.05


def test_metrics_that_cannot_fail_keep_no_other_from_failing() -> None:
    """Three against three, the mirrored split of a metric with two bad directions is as rare."""
    far = np.array([1.0, 1.01, 0.99, 60.0, 61.0, 59.0])
    moved = np.array([0.5, 0.5001, 0.4999, 0.4, 0.4001, 0.3999])
    higher = Runs("s", far, 3, 3, Policy("higher", absolute=0.1))
    either = Runs("s", moved, 3, 3, Policy("either", absolute=0.02))
    basis, (one, other) = weigh([higher, either], level=0.05, correction="family-wise")
    assert basis == "exact"
    assert one.adjusted == pytest.approx(1 / 20)
    assert other.adjusted == pytest.approx(2 / 20)
    # at a level that both can reach, both count
    _, (one, other) = weigh([higher, either], level=0.1, correction="family-wise")
    assert one.adjusted == other.adjusted == pytest.approx(2 / 20)
