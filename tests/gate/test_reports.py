"""What a gate found, as JSON, JUnit XML and Markdown."""

from __future__ import annotations

import json
import math
from collections import Counter
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geomdiag.gate.baseline import Baseline, Metric, Setting
from geomdiag.gate.measured import Measured
from geomdiag.gate.policies import Policy
from geomdiag.gate.reports import headline, to_dict, to_junit, to_markdown
from geomdiag.gate.verdict import FAILING, Row, Verdict, check


@pytest.fixture
def verdict() -> Verdict:
    """One of each kind, of two settings."""
    lower = Policy("lower", absolute=0.1)
    metrics = {
        "bad": Metric((1.0, 1.1, 1.05), lower),
        "gone": Metric((1.0,), lower),
        "noisy": Metric((1.0, 2.0, 3.0), lower),
        "good": Metric((1.0,), lower),
        "same": Metric((1.0,), lower),
        "rare": Metric((1.0, math.nan), Policy(allow_missing=True)),
    }
    baseline = Baseline(
        {"one": Setting(metrics), "two|<b>": Setting({"same": Metric((1.0,), lower)})}, ("*",)
    )
    new = {"bad": (-5.0,), "noisy": (1.5,), "good": (9.0,), "same": (1.0,), "new": (4.0,)}
    return check([Measured("one", new), Measured("two|<b>", {"same": (0.0,)})], baseline)


def test_json_is_valid_and_says_all(verdict: Verdict) -> None:
    content = json.loads(json.dumps(to_dict(verdict), allow_nan=False))
    assert content["passed"] is False
    assert [row["metric"] for row in content["rows"]] == [row.metric for row in verdict.rows]
    by_name = {row["metric"]: row for row in content["rows"] if row["setting"] == "one"}
    assert {name: row["verdict"] for name, row in by_name.items()} == {
        "bad": "regressed",
        "gone": "missing",
        "noisy": "noise",
        "new": "new",
        "rare": "not compared",
        "good": "improved",
        "same": "same",
    }
    assert by_name["gone"]["value"] is None
    assert by_name["bad"]["adjusted"] < 0.05
    assert content["level"] == 0.05
    assert content["notices"]


def test_junit_has_the_structure_that_readers_expect(verdict: Verdict) -> None:
    root = ElementTree.fromstring(to_junit(verdict))
    assert root.tag == "testsuites"
    suites = root.findall("testsuite")
    assert [suite.get("name") for suite in suites] == ["one", "two|<b>"]
    for suite in suites:
        rows = [row for row in verdict.rows if row.setting == suite.get("name")]
        cases = suite.findall("testcase")
        assert [case.get("name") for case in cases] == [row.metric for row in rows]
        assert {case.get("classname") for case in cases} == {f"geometry.{suite.get('name')}"}
        assert int(suite.get("tests", "")) == len(cases)
        assert int(suite.get("failures", "")) == len(suite.findall("testcase/failure"))
        assert int(suite.get("skipped", "")) == len(suite.findall("testcase/skipped"))
        assert suite.get("errors") == "0"
        for case, row in zip(cases, rows, strict=True):
            failure = case.find("failure")
            assert (failure is not None) == (row.verdict in FAILING)
            if failure is not None:
                assert failure.get("type") == row.verdict
                assert row.words in failure.get("message", "")
    assert Counter(row.verdict in FAILING for row in verdict.rows)[True] == 3


def test_markdown_tells_the_worst_first_and_folds_the_rest(verdict: Verdict) -> None:
    text = to_markdown(verdict)
    assert text.startswith(f"### {headline(verdict)}\n")
    first, _, folded = text.partition("<details>")
    names = [line.split("|")[2].strip() for line in first.splitlines() if line.startswith("| one")]
    assert names[0] == "`bad`"
    assert "`same`" not in names
    assert "`same`" in folded
    assert "two\\|&lt;b>" in first
    widths = {line.replace("\\|", "").count("|") for line in text.splitlines() if line[:1] == "|"}
    assert len(widths) == 1


def test_headline_counts(verdict: Verdict) -> None:
    assert headline(verdict) == (
        "geometry FAILED: 2 regressed, 1 missing, 1 noise, 1 new, 1 not compared, 1 improved, "
        "1 same"
    )


@given(st.text(), st.text(), st.text())
def test_no_text_breaks_a_report(setting: str, metric: str, words: str) -> None:
    verdict = Verdict((Row(setting, metric, "regressed", words=words),), 0.05, "holm", (words,))
    (suite,) = ElementTree.fromstring(to_junit(verdict).encode())
    assert suite.find("testcase/failure") is not None
    json.dumps(to_dict(verdict), allow_nan=False)
    (row,) = [line for line in to_markdown(verdict).splitlines() if "**regressed**" in line]
    assert row.replace("\\\\", "").replace("\\|", "").count("|") == 9
