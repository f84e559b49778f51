"""Noise or regression: known answers, edges of tolerances, directions, rates of errors."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from geomdiag.errors import BaselineError
from geomdiag.gate.baseline import Baseline, Metric, Setting
from geomdiag.gate.chance import adjust
from geomdiag.gate.measured import Measured
from geomdiag.gate.policies import Policy
from geomdiag.gate.verdict import VERDICTS, Verdict, check, compare

NAN = math.nan


def held(values: dict[str, tuple[float, ...]], policy: Policy, **options: object) -> Baseline:
    metrics = {name: Metric(one, policy) for name, one in values.items()}
    return Baseline({"s": Setting(metrics, **options)}, choose=("*",))


def now(**values: float | tuple[float, ...]) -> list[Measured]:
    made = {name: one if isinstance(one, tuple) else (one,) for name, one in values.items()}
    return [Measured("s", made)]


def one(old: tuple[float, ...], new: float | tuple[float, ...], policy: Policy) -> str:
    (row,) = check(now(a=new), held({"a": old}, policy)).rows
    return row.verdict


# --- tolerances and directions -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("worse", "new", "verdict"),
    [
        ("lower", 0.8, "regressed"),
        ("lower", 1.2, "improved"),
        ("higher", 1.2, "regressed"),
        ("higher", 0.8, "improved"),
        ("either", 0.8, "regressed"),
        ("either", 1.2, "regressed"),
        ("lower", 1.0, "same"),
    ],
)
def test_the_direction_decides_with_one_seed(worse: str, new: float, verdict: str) -> None:
    assert one((1.0,), new, Policy(worse, absolute=0.1)) == verdict


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_change_as_large_as_the_tolerance_does_not_count(sign: int) -> None:
    worse = "lower" if sign < 0 else "higher"
    for policy in (Policy(worse, absolute=0.25), Policy(worse, relative=0.125)):
        assert one((2.0,), 2.0 + sign * 0.25, policy) == "same"
        assert one((2.0,), 2.0 + sign * 0.2501, policy) == "regressed"


def test_the_larger_tolerance_holds() -> None:
    policy = Policy("higher", absolute=0.5, relative=0.1)
    assert one((1.0,), 1.4, policy) == "same"
    assert one((10.0,), 10.9, policy) == "same"
    assert one((10.0,), 11.1, policy) == "regressed"


def test_no_tolerance_still_allows_the_digits_of_the_file() -> None:
    assert one((1 / 3,), 0.3333333, Policy("either")) == "same"
    assert one((1 / 3,), 0.3334, Policy("either")) == "regressed"
    assert one((0.0,), 1e-300, Policy("either")) == "regressed"


def test_a_spread_tolerance_is_in_standard_deviations_of_the_seeds() -> None:
    old = (9.0, 11.0)  # mean 10, standard deviation sqrt(2)
    policy = Policy("higher", spread=2.0)
    assert one(old, 10 + 2 * math.sqrt(2), policy) == "same"
    assert one(old, 10 + 2.01 * math.sqrt(2), policy) == "regressed"


def test_a_log_scale_measures_the_spread_in_factors() -> None:
    old = (10.0, 1000.0)  # about 100, a standard deviation of log 10 * sqrt(2)
    policy = Policy("higher", "log", absolute=1e-9, spread=1.0)
    verdict = check(now(a=1000.0), held({"a": old}, policy))
    assert verdict.rows[0].baseline == pytest.approx(100)
    assert verdict.rows[0].spreads == pytest.approx(1 / math.sqrt(2))
    assert one(old, 100 * 10 ** (1.01 * math.sqrt(2)), policy) == "regressed"


@given(
    st.sampled_from(["linear", "log", "logit"]),
    st.lists(st.floats(0, 1), min_size=1, max_size=5),
)
def test_the_centre_lies_among_the_values(scale: str, values: list[float]) -> None:
    policy = Policy("either", scale, absolute=0.01)
    (row,) = check(now(a=0.5), held({"a": tuple(values)}, policy)).rows
    assert min(values) - 1e-9 <= row.baseline <= max(values) + 1e-9


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.sampled_from(["lower", "higher"]))
def test_a_result_does_not_regress_against_itself(values: list[float], worse: str) -> None:
    for scale in ("linear", "log", "logit"):
        policy = Policy(worse, scale, absolute=0.001)
        assert one(tuple(values), tuple(values), policy) == "same"


# --- the test ------------------------------------------------------------------------------------


def test_with_one_new_run_the_p_value_is_that_of_the_prediction_interval() -> None:
    old = (1.0, 2.0, 4.0, 3.0)
    t = (6.0 - 2.5) / (np.std(old, ddof=1) * math.sqrt(1 / 4 + 1))
    for worse, expected in (
        ("higher", stats.t.sf(t, 3)),
        ("lower", 1.0),  # better: how bad it is is not asked
        ("either", 2 * stats.t.sf(t, 3)),
    ):
        verdict = check(now(a=6.0), held({"a": old}, Policy(worse)))
        (row,) = verdict.rows
        assert row.p_value == pytest.approx(expected, rel=1e-12)
        assert row.spreads == pytest.approx(3.5 / np.std(old, ddof=1))
        assert verdict.basis == "approximate"


def test_with_runs_enough_the_p_value_is_a_share_of_splits() -> None:
    old, new = (1.0, 2.0, 4.0, 3.0), (6.0, 5.0, 3.5)
    for worse, ways in (("higher", 2), ("lower", 35), ("either", 4)):  # 1, 2 and 3 or 3.5
        verdict = check(now(a=new), held({"a": old}, Policy(worse)))
        assert verdict.basis == "exact"
        assert verdict.rows[0].p_value == pytest.approx(ways / 35)
    verdict = check(now(a=(6.0, 5.0, 4.5)), held({"a": old}, Policy("higher")))
    assert verdict.rows[0].p_value == pytest.approx(1 / 35)
    assert not verdict.passed


def test_beyond_the_tolerance_but_within_noise() -> None:
    old = (0.5, 1.0, 1.5)
    assert one(old, 1.9, Policy("higher", absolute=0.1)) == "noise"
    assert one(old, 1.9, Policy("higher", absolute=0.1, test=False)) == "regressed"
    assert one(old[:2], 1.9, Policy("higher", absolute=0.1)) == "regressed"  # two: no test
    assert one(old, 9.0, Policy("higher", absolute=0.1)) == "regressed"
    assert one(old, 9.0, Policy("higher", absolute=10.0)) == "same"  # significant, yet tolerated
    assert one(old, -9.0, Policy("higher", absolute=0.1)) == "improved"


def test_one_bad_run_of_several_may_be_chance_and_all_of_them_are_not() -> None:
    old = (1.0, 1.01, 0.99, 1.0)
    policy = Policy("lower", absolute=0.05)
    assert one(old, (1.0, 0.0), policy) == "noise"  # the bad run is a new one in 2 of 6
    assert one(old, (1.0, 0.0, 1.0), policy) == "noise"
    assert one(old, (0.1, 0.0, 0.9), policy) == "regressed"


def test_seeds_that_agree_are_tested_like_any_other() -> None:
    policy = Policy("lower", absolute=0.1)
    assert one((1.0,) * 5, 0.95, policy) == "same"
    verdict = check(now(a=0.8), held({"a": (1.0,) * 5}, policy))
    assert verdict.rows[0].verdict == "regressed"
    assert verdict.basis == "approximate"
    verdict = check(now(a=(0.8, 0.7)), held({"a": (1.0,) * 5}, policy))
    assert (verdict.rows[0].verdict, verdict.basis) == ("regressed", "exact")
    assert verdict.rows[0].p_value == pytest.approx(1 / 21)
    assert one((1.0,) * 5, (0.7, 1.0), policy) == "noise"


def test_counts_that_agree_by_rounding_are_tested_with_the_rounding() -> None:
    policy = Policy("either", absolute=1.0, resolution=1.0)
    (row,) = check(now(a=18.0), held({"a": (17.0,) * 3}, policy)).rows
    assert row.spreads == pytest.approx(math.sqrt(12))
    assert one((17.0,) * 3, 18.1, policy) == "noise"
    assert one((17.0,) * 3, 27.0, policy) == "regressed"


def test_many_metrics_need_a_smaller_p_value() -> None:
    old = (0.9, 1.0, 1.1, 1.0)
    policy = Policy("higher", absolute=0.01)
    names = [f"m{i}" for i in range(20)]
    base = held(dict.fromkeys(names, old), policy)
    values = {**dict.fromkeys(names, 1.0), "m7": 2.0}
    verdicts = {
        correction: check(now(**values), base, correction=correction).rows[0].verdict
        for correction in ("none", "family-wise", "benjamini-hochberg")
    }
    expected = {"none": "regressed", "family-wise": "noise", "benjamini-hochberg": "noise"}
    assert verdicts == expected
    everywhere = dict.fromkeys(names, 2.0)  # twenty at once are no chance to Benjamini-Hochberg
    assert len(check(now(**everywhere), base, correction="benjamini-hochberg").failed) == 20
    assert check(now(**everywhere), base, correction="family-wise").passed
    # of three new runs each, they are one change twenty times over, and no chance at all
    verdict = check(now(**dict.fromkeys(names, (1.35, 1.3, 1.4))), base)
    assert [row.adjusted for row in verdict.failed] == pytest.approx([1 / 35] * 20)


def test_the_name_that_the_correction_had_is_read() -> None:
    base = held({"a": (1.0, 2.0, 3.0)}, Policy("higher"))
    assert check(now(a=9.0), base, correction="holm").correction == "family-wise"


def test_adjusted_p_values_are_the_published_ones() -> None:
    p = [0.01, 0.04, 0.03, 0.005]
    assert adjust(p, "holm") == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust(p, "none") == pytest.approx(p)
    rng = np.random.default_rng(0)
    many = rng.uniform(size=50) ** 2
    expected = stats.false_discovery_control(many, method="bh")
    assert adjust(many, "benjamini-hochberg") == pytest.approx(expected)
    assert adjust([], "holm").shape == (0,)
    for new in ((1.0,), (1.0, 2.0, 3.0, 4.0, 5.0)):
        with pytest.raises(BaselineError, match="expected one of family-wise"):
            check(now(a=new), held({"a": (1.0,) * 3}, Policy()), correction="bonferroni")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_adjusting_keeps_the_order_and_never_lowers(p: list[float]) -> None:
    order = np.argsort(p, kind="stable")
    for correction in ("holm", "benjamini-hochberg"):
        adjusted = adjust(p, correction)
        assert (adjusted >= np.array(p) - 1e-15).all()
        assert (adjusted <= 1).all()
        assert (np.diff(adjusted[order]) >= 0).all()
    assert (adjust(p, "holm") >= adjust(p, "benjamini-hochberg") - 1e-15).all()


# --- what is missing, new or foreign -------------------------------------------------------------


@pytest.mark.parametrize("new", [NAN, math.inf, -math.inf, (1.0, NAN)])
def test_a_number_that_is_none_fails(new: float | tuple[float, ...]) -> None:
    verdict = check(now(a=new, b=1.0), held({"a": (1.0,), "b": (1.0,)}, Policy()))
    assert [row.verdict for row in verdict.rows] == ["missing", "same"]
    assert not verdict.passed
    assert verdict.rows[0].words


def test_a_metric_that_is_gone_fails_with_its_reason() -> None:
    measured = [Measured("s", {"b": (1.0,)}, reasons={"a": "not computed: no embedding"})]
    verdict = check(measured, held({"a": (1.0,), "b": (1.0,)}, Policy()))
    assert verdict.failed[0].words == "not computed: no embedding"


def test_what_may_be_missing_is_told_and_passes() -> None:
    policy = Policy("higher", absolute=1.0, allow_missing=True)
    base = held({"a": (5.0, 5.0, 6.0, NAN)}, policy)
    (row,) = check(now(a=NAN), base).rows
    assert row.verdict == "noise"
    assert row.words.startswith("1 of 1 runs lack it, 1 of 4 before, not told from chance (p = ")
    (row,) = check(now(a=(5.0, NAN)), base).rows
    assert row.verdict == "noise"
    (row,) = check(now(a=(5.0, 5.0, 5.0, 5.0, NAN)), base).rows
    assert row.verdict == "same"
    (row,) = check(now(a=(50.0, 51.0, NAN)), base).rows
    assert row.verdict == "noise"  # (5, 5, 6) against (50, 51): one of 10, were nothing missing
    (row,) = check(now(a=(50.0, 51.0, 50.0)), base).rows
    assert row.verdict == "regressed"
    # one of many seeds is no distribution
    assert one((5.0, NAN, NAN), 50.0, policy) == "noise"
    nothing = [Measured("s", {})]  # no run was asked for it
    assert check(nothing, base).rows[0].verdict == "not compared"
    assert check(nothing, held({"a": (5.0, 5.0, 6.0)}, policy)).rows[0].verdict == "missing"


def test_more_that_is_missing_than_chance_explains_is_a_regression() -> None:
    policy = Policy("higher", absolute=1.0, allow_missing=True)
    whole = (5.0, 5.0, 6.0, 5.0, 6.0)
    measured = [Measured("s", {"a": (NAN, NAN, NAN)}, reasons={"a": "never above 0.99"})]
    verdict = check(measured, held({"a": whole}, policy))
    assert verdict.basis == "exact"
    (row,) = verdict.failed
    assert row.p_value == pytest.approx(1 / 56)
    assert row.words.startswith("3 of 3 runs lack it, 0 of 5 before, beyond chance (p = 0.018)")
    assert row.words.endswith(": never above 0.99")
    (row,) = check([replace(measured[0], values={"a": (NAN,)})], held({"a": whole}, policy)).rows
    assert "(no two seeds differed before)" in row.words
    assert one(whole, (NAN, NAN, 5.0), policy) == "noise"  # 3 of 28
    assert one((*whole[:4], NAN), (NAN, NAN, NAN), policy) == "noise"  # 5 of 70
    assert one(whole[:1], NAN, policy) == "regressed"  # untested, as any change
    assert one((5.0, NAN), NAN, policy) == "not compared"


def test_a_value_off_the_scale_is_not_passed() -> None:
    policy = Policy("higher", "log", absolute=0.1)
    assert one((1.0,), -0.2, policy) == "missing"
    assert one((0.5,), 1.3, replace(policy, scale="logit")) == "missing"


def test_a_new_metric_is_told() -> None:
    verdict = check(now(a=1.0, z=2.0), held({"a": (1.0,)}, Policy()))
    assert [(row.metric, row.verdict) for row in verdict.rows] == [("z", "new"), ("a", "same")]
    assert verdict.passed


def test_settings_are_matched_by_name_and_a_lone_one_by_itself() -> None:
    base = held({"a": (1.0,)}, Policy("lower", absolute=0.1))
    assert not check([Measured("other", {"a": (0.0,)})], base).passed
    both = replace(base, settings={**base.settings, "t": base.settings["s"]})
    verdict = check([Measured("t", {"a": (1.0,)}), Measured("u", {"a": (0.0,)})], both)
    assert {(row.setting, row.verdict) for row in verdict.rows} == {("s", "missing"), ("t", "same")}
    assert "no runs of this setting" in verdict.failed[0].words
    assert any("'u' is not in the baseline" in notice for notice in verdict.notices)


def test_another_task_is_misuse() -> None:
    base = held({"a": (1.0,)}, Policy(), task="modadd:p=7")
    with pytest.raises(BaselineError, match=r"of the task modadd:p=5, the baseline of modadd:p=7"):
        check([Measured("s", {"a": (1.0,)}, task="modadd:p=5")], base)


@pytest.mark.parametrize("level", [0.0, 1.0, -1.0, NAN])
def test_a_level_that_is_none_is_misuse(level: float) -> None:
    with pytest.raises(BaselineError, match="level"):
        check(now(a=1.0), held({"a": (1.0,)}, Policy()), level=level)


def test_the_worst_comes_first() -> None:
    base = held(dict.fromkeys("abcde", (1.0,)), Policy("lower", absolute=0.1))
    verdict = check(now(a=1.0, b=0.7, c=NAN, d=0.2, e=0.93, f=1.0), base)
    assert [row.metric for row in verdict.rows] == ["d", "b", "c", "f", "e", "a"]
    assert [row.excess for row in verdict.rows[:2]] == pytest.approx([8, 3], rel=1e-4)
    ranks = [VERDICTS.index(row.verdict) for row in verdict.rows]
    assert ranks == sorted(ranks)


@pytest.mark.parametrize(
    ("seeds", "runs", "basis", "words"),
    [
        (1, 1, "tolerances", "1 of 1 metrics have 1 seed in the baseline and 1 new: tolerances"),
        (1, 1, "tolerances", "no rate of false alarms is promised. 19 new runs"),
        (2, 4, "tolerances", "5 new runs, or more seeds"),
        (2, 5, "exact", "at most 5 % fail, however seeds scatter (2 seeds in the baseline and 5"),
        (5, 1, "approximate", "where they do not, up to 17 % may. 2 new runs make it 5 %"),
        (5, 3, "exact", "(5 seeds in the baseline and 3 new can be split in 56 ways)"),
    ],
)
def test_what_is_promised_is_what_the_runs_allow(
    seeds: int, runs: int, basis: str, words: str
) -> None:
    base = held({"a": (1.0, 1.1, 0.9, 1.2, 1.0)[:seeds]}, Policy("higher"))
    verdict: Verdict = check(now(a=(1.0,) * runs), base)
    assert verdict.basis == basis
    assert words in " ".join(verdict.notices)


def test_what_no_split_could_fail_is_told() -> None:
    old, new = (1.0, 1.1, 0.9), (9.0, 9.1, 9.2)
    verdict = check(now(a=new, b=new), held({"a": old, "b": old}, Policy("either")))
    assert verdict.passed
    assert any(notice.startswith("2 metrics for which either") for notice in verdict.notices)
    assert one(old, (*new, 9.1), Policy("either")) == "regressed"


def test_what_is_not_to_be_tested_is_told() -> None:
    base = held({"a": (1.0, 1.1, 0.9)}, Policy("higher", absolute=0.1, test=False))
    verdict = check(now(a=1.5), base)
    assert not verdict.passed
    assert any("1 of 1 metrics are not to be tested" in notice for notice in verdict.notices)


def test_comparing_uses_default_tolerances() -> None:
    first = [Measured("x", {"accuracy[heldout]": (1.0,), "loss[heldout]": (0.1,)})]
    second = [Measured("y", {"accuracy[heldout]": (0.9,), "loss[heldout]": (0.05,)})]
    verdict = compare(first, second)
    assert {row.metric: row.verdict for row in verdict.rows} == {
        "accuracy[heldout]": "regressed",
        "loss[heldout]": "improved",
    }
    assert len(compare(first, second, metrics=["loss*"]).rows) == 1
