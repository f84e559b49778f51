"""The page on the gate says what is so."""

from __future__ import annotations

import math
import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from geomdiag.gate.permutation import fewest_new_runs
from geomdiag.gate.policies import Policy
from geomdiag.gate.verdict import FAILING, VERDICTS

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


def test_the_fewest_new_runs_are_the_ones_told() -> None:
    (seeds,) = re.findall(r"^\| seeds in the baseline \| (1 .*) \|$", PAGE, re.MULTILINE)
    (runs,) = re.findall(r"^\| new runs at least \| (.*) \|$", PAGE, re.MULTILINE)
    told = [int(number) for number in runs.split(" | ")]
    assert told == [fewest_new_runs(int(number), 0.05) for number in seeds.split(" | ")]


def test_no_exact_rate_of_false_alarms_exceeds_the_level() -> None:
    (checks,) = re.findall(r"\((\d+) checks each", PAGE)
    allowed = 0.05 + 3 * math.sqrt(0.05 * 0.95 / int(checks))  # three standard errors: 35 numbers
    (table,) = re.findall(r"<!-- simulated: .*?-->\n(.*?)<!-- end -->", PAGE, re.DOTALL)
    heads, _, *rows = (line.strip("| ").split(" | ") for line in table.splitlines())
    assert len(rows) == 7
    for name, *shares in rows:
        for design, share in zip(heads[1:], shares, strict=True):
            old, new = map(int, design.split(" + "))
            if fewest_new_runs(old, 0.05) <= new:
                assert float(share.removesuffix(" %")) <= 100 * allowed, (name, design)
