"""The page on the gate says what is so."""

from __future__ import annotations

import math
import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from geomdiag.gate.baseline import Baseline, Metric, Setting
from geomdiag.gate.measured import Measured
from geomdiag.gate.policies import Policy
from geomdiag.gate.verdict import FAILING, VERDICTS, check

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "gate.md").read_text(encoding="utf-8")


def test_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[-1]
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(block.replace("fixtures/", f"{ROOT}/fixtures/"), "gate.md", "exec"), names)
    assert (tmp_path / "geometry.toml").is_file()


def test_every_key_and_verdict_is_told() -> None:
    (line,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    tomllib.loads(line)
    keys = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert sorted(keys) == sorted(["values", *(field.name for field in fields(Policy))])
    rows = re.findall(r"^\| ([a-z ]+) \| .* \| ?(yes)? ?\|$", PAGE, re.MULTILINE)
    told = {name: bool(fails) for name, fails in rows if name in VERDICTS}
    assert told == {name: name in FAILING for name in VERDICTS}


def test_the_least_change_that_counts_is_the_one_told() -> None:
    (seeds,) = re.findall(r"^\| seeds in the baseline \| (3 .*) \|$", PAGE, re.MULTILINE)
    (least,) = re.findall(r"^\| standard deviations \| (.*) \|$", PAGE, re.MULTILINE)
    for n, told in zip(seeds.split(" | "), least.split(" | "), strict=True):
        old = tuple(range(int(n)))
        metrics = {f"m{i}": Metric(old, Policy("higher")) for i in range(9)}
        centre = sum(old) / len(old)
        values = dict.fromkeys(metrics, (centre,))
        verdict = check([Measured("s", values)], Baseline({"s": Setting(metrics)}))
        (words,) = [notice for notice in verdict.notices if "counts from" in notice]
        real = float(words.split(" counts from ")[1].split()[0])
        assert float(told) == pytest.approx(real, rel=0.02)
        assert math.isfinite(real)
