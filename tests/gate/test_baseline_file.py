"""A baseline as text: what is written is read back, what breaks the schema is named."""

from __future__ import annotations

import math
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geomdiag.errors import BaselineError
from geomdiag.gate.baseline import (
    Baseline,
    Metric,
    Setting,
    baseline_text,
    load_baseline,
    make_baseline,
    parse_baseline,
    save_baseline,
)
from geomdiag.gate.measured import Measured
from geomdiag.gate.policies import CHOSEN, WORSE, Policy, policy_of

NAN = math.nan
MEASURED = Measured(
    "mlp",
    {
        "accuracy[heldout]": (1.0, 0.99, 1.0),
        "loss[heldout]": (0.01, 0.02, 0.015),
        "loss[all]": (0.01, 0.02, 0.015),
        "t_generalised": (900.0, NAN, 1000.0),
        "t_memorised": (NAN, NAN, NAN),
        "norm[embedding,nuclear]": (3.0, 4.0, 5.0),
    },
    "modadd:p=7",
    ("mlp/seed=0", "mlp/seed=1", "mlp/seed=2"),
)
GOOD = """
format = "geomdiag-baseline"
version = 1
[settings.s.metrics]
"a" = { values = [1, 2.5], worse = "lower" }
"""

names = st.text(min_size=1, max_size=12)
numbers = st.floats(-1e6, 1e6).map(lambda x: float(f"{x:.7g}"))
tolerances = st.floats(0, 1e3).map(lambda x: float(f"{x:.7g}"))
policies = st.builds(
    Policy,
    worse=st.sampled_from(WORSE),
    absolute=tolerances,
    relative=tolerances,
    spread=tolerances,
    resolution=tolerances,
    test=st.booleans(),
)
metrics = st.builds(Metric, st.lists(numbers, min_size=2, max_size=4).map(tuple), policies)
settings = st.builds(
    Setting,
    st.dictionaries(names, metrics, min_size=1, max_size=3),
    names,
    st.lists(names, max_size=2).map(tuple),
)


@given(st.dictionaries(names, settings, min_size=1, max_size=2), st.lists(names).map(tuple))
def test_what_is_written_is_read_back(made: dict[str, Setting], choose: tuple[str, ...]) -> None:
    baseline = Baseline(made, choose, 0.01, "benjamini-hochberg")
    text = baseline_text(baseline)
    assert parse_baseline(text) == baseline
    assert baseline_text(parse_baseline(text)) == text


def test_a_baseline_holds_what_was_chosen() -> None:
    made = make_baseline([MEASURED])
    held = made.settings["mlp"].metrics
    # loss[all] only where there is no held-out one; what all seeds lack is left out
    assert list(held) == ["accuracy[heldout]", "loss[heldout]", "t_generalised"]
    assert held["t_generalised"].policy.allow_missing
    assert not held["loss[heldout]"].policy.allow_missing
    assert made.choose == CHOSEN
    norms = make_baseline([MEASURED], metrics=["norm*", "t_*"])
    assert list(norms.settings["mlp"].metrics) == ["norm[embedding,nuclear]", "t_generalised"]


def test_a_choice_of_nothing_lists_what_there_is() -> None:
    with pytest.raises(BaselineError, match=r"no number that matches nonsense\. It has: accuracy"):
        make_baseline([MEASURED], metrics=["nonsense"])


def test_an_update_keeps_what_was_edited() -> None:
    old = make_baseline([MEASURED])
    edited = replace(old.settings["mlp"].metrics["loss[heldout]"].policy, absolute=7.0, test=False)
    kept = old.settings["mlp"].metrics | {"loss[heldout]": Metric((9.0,), edited)}
    old = Baseline({"mlp": Setting(kept)}, ("loss*", "accuracy*"), 0.01, "none")
    made = make_baseline([MEASURED], like=old)
    new = made.settings["mlp"].metrics
    assert new["loss[heldout]"] == Metric((0.01, 0.02, 0.015), edited)
    assert "loss[all]" in new
    assert "t_generalised" not in new
    assert (made.level, made.correction) == (0.01, "none")


def test_the_file_is_small_and_readable(tmp_path: Path) -> None:
    path = save_baseline(make_baseline([MEASURED]), tmp_path / "new" / "b.toml")
    text = path.read_text(encoding="utf-8")
    assert len(text) < 1500
    assert (
        '"loss[heldout]" = { values = [0.01, 0.02, 0.015], worse = "higher", scale = "log", '
        "absolute = 0.01, relative = 0.1 }\n"
    ) in text
    assert tomllib.loads(text)["settings"]["mlp"]["task"] == "modadd:p=7"
    loaded = load_baseline(path)
    assert loaded.settings["mlp"].runs == MEASURED.runs
    assert save_baseline(loaded, path).read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("version = 1", "version = 2", "version = 1, found 'geomdiag-baseline' and 2"),
        ("version = 1", "version = ", "not TOML"),
        ("version = 1", "version = 1\nlevle = 1", "the file has the unknown key 'levle'"),
        ("version = 1", "version = 1\ntest = { level = 2 }", "test.level is 2"),
        ("version = 1", "version = 1\ntest = { level = true }", "expected a number"),
        ("version = 1", "version = 1\ntest = { correction = 'x' }", "one of family-wise"),
        ("version = 1", "version = 1\ntest = { correction = [1] }", "one of family-wise"),
        ("version = 1", "version = 1\nmetrics = 3", "metrics is 3; expected a list of texts"),
        ("[settings.s.metrics]", "[setting.s.metrics]", "the file lacks settings"),
        ("[settings.s.metrics]", "[settings]", "settings.a lacks metrics"),
        ('"a" = {', "[settings.t]\nx = {", "settings.s.metrics is empty"),
        ("[1, 2.5]", "[]", "settings.s.metrics.a.values is []; expected a list"),
        ("[1, 2.5]", "[1, true]", "values holds True; expected a number"),
        ("[1, 2.5]", "[1, inf]", "values holds inf; expected a finite number"),
        ("[1, 2.5]", "[1, nan]", "set allow_missing = true"),
        ("[1, 2.5]", "[nan]", "no finite value"),
        ('"lower"', '"down"', "worse is 'down'; expected one of lower, higher, either"),
        (', worse = "lower"', "", "lacks worse"),
        ('"lower" }', '"lower", absolut = 1 }', "the unknown key 'absolut'; known are absolute"),
        ('"lower" }', '"lower", absolute = -1 }', "absolute is -1; expected 0 or more"),
        ('"lower" }', '"lower", relative = nan }', "expected a finite number"),
        ('"lower" }', '"lower", test = 1 }', "test is 1; expected true or false"),
        ('"lower" }', '"lower", scale = "cube" }', "scale is 'cube'"),
        ('[1, 2.5], worse = "lower"', '[1], worse = "lower", spread = 2', "at least two seeds"),
        ('[1, 2.5], worse = "lower"', '[0], worse = "lower", scale = "log"', "raise absolute"),
        ('[1, 2.5], worse = "lower"', '[2], worse = "lower", scale = "logit"', "below 1 + abs"),
    ],
)
def test_what_breaks_the_schema_is_named(tmp_path: Path, old: str, new: str, words: str) -> None:
    parse_baseline(GOOD)
    assert old in GOOD
    path = tmp_path / "b.toml"
    path.write_text(GOOD.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(BaselineError) as error:
        load_baseline(path)
    assert words in str(error.value)
    assert str(path) in str(error.value)


def test_a_file_of_before_is_read() -> None:
    read = parse_baseline(
        GOOD.replace("version = 1", "version = 1\ntest = { correction = 'holm' }")
    )
    assert read.correction == "family-wise"
    assert 'correction = "family-wise"' in baseline_text(read)


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(BaselineError, match="Make one with `geomdiag baseline"):
        load_baseline(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    for name in (".", "binary.toml"):
        with pytest.raises(BaselineError, match="cannot be read as a baseline"):
            load_baseline(tmp_path / name)


@pytest.mark.parametrize(
    ("metric", "worse"),
    [
        ("accuracy[heldout]", "lower"),
        ("loss[train]", "higher"),
        ("symmetry_js[associativity,mean]", "higher"),
        ("symmetry_violation[triangle,max]", "higher"),
        ("dimension[embedding,effective_dimension]", "either"),
        ("distortion[embedding,spearman]", "lower"),
        ("distortion[embedding,stress]", "higher"),
        ("predicted_distortion[neighbour_recall]", "lower"),
        ("t_generalised", "higher"),
        ("t_geometry", "either"),
    ],
)
def test_the_direction_of_known_metrics(metric: str, worse: str) -> None:
    assert policy_of(metric).worse == worse


def test_the_direction_of_others_is_what_the_result_says() -> None:
    assert policy_of("mine", True).worse == "lower"
    assert policy_of("mine", False).worse == "higher"
    assert policy_of("mine").worse == "either"
