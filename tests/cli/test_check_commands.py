"""`geomdiag baseline`, `check` and `compare` on stored results."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import xarray as xr
from typer.testing import Result

import geomdiag as gd
from geomdiag.gate.baseline import load_baseline

Command = Callable[..., Result]
Process = Callable[..., subprocess.CompletedProcess[str]]


def stored(path: Path, *losses: float, task: str = "modadd:p=7") -> Path:
    """Return a result of one run a loss."""
    nodes = {}
    for seed, loss in enumerate(losses):
        nodes[f"/mlp__seed={seed}"] = xr.Dataset(
            {
                "accuracy": (("step", "part"), np.array([[0.1, 0.1], [1.0, 0.99]])),
                "loss": (("step", "part"), np.array([[2.0, 2.0], [0.01, loss]])),
            },
            {"step": [0, 100], "part": ["train", "heldout"]},
            {"run": f"mlp/seed={seed}", "task": task},
        )
    return gd.save(xr.DataTree.from_dict(nodes), path)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return stored(tmp_path / "good.geomdiag.zarr", 0.1, 0.12, 0.11, 0.105)


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    return stored(tmp_path / "bad.geomdiag.zarr", 3.0, 2.0)


def test_exit_codes_of_the_real_command(
    process: Process, good: Path, bad: Path, tmp_path: Path
) -> None:
    done = process("baseline", good)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "baseline: good.geometry.toml\n  mlp: 3 metrics of 4 seeds\n"
        "  check it with 3 new runs or more: then at most 5 % of results without a change fail\n"
    )
    base = ("--baseline", "good.geometry.toml")
    done = process("check", good, *base)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("geometry passed: 3 same\n")
    done = process("check", bad, *base)
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    assert lines[1].split()[:2] == ["loss[heldout]", "regressed"]
    assert lines[-1] == "geometry FAILED: 1 regressed, 2 same"
    foreign = stored(tmp_path / "foreign.zarr", 0.1, task="modadd:p=5")
    for arguments, words in (
        (("check", bad), "Missing option '--baseline'"),
        (("check", bad, "--baseline", "none.toml"), "there is no baseline at none.toml"),
        (("check", "none.zarr", *base), "there is no result at"),
        (("check", bad, *base, "--correction", "x"), "expected one of family-wise"),
        (("check", bad, *base, "--level", "2"), "expected a probability"),
        (("check", foreign, *base), "of the task modadd:p=5"),
        (("baseline", good), "Give --update to replace its values"),
        (("baseline", good, bad), "found 2 results, expected one"),
        (("baseline", good, "-o", "x.toml", "-m", "nonsense"), "It has: accuracy[train]"),
        (("baseline", "--validate", "good.geometry.toml", "-o", "x"), "no other option"),
    ):
        done = process(*arguments)
        assert done.returncode == 2, (arguments, done.stdout, done.stderr)
        assert words in " ".join(done.stderr.split())
    assert not (tmp_path / "x.toml").exists()


def test_reports_agree(geomdiag: Command, good: Path, bad: Path) -> None:
    assert geomdiag("baseline", good, "-o", "b.toml", "-q").stdout == ""
    files = ("--json-file", "out/o.json", "--junit", "o.xml", "--markdown", "o.md")
    done = geomdiag("check", bad, "-b", "b.toml", "--json", *files)
    assert done.exit_code == 1
    content = json.loads(done.stdout)
    assert json.loads(Path("out/o.json").read_text("utf-8")) == content
    assert content["passed"] is False
    assert [row["verdict"] for row in content["rows"]] == ["regressed", "same", "same"]
    (suite,) = ElementTree.parse("o.xml").getroot()
    assert [case.get("name") for case in suite] == [row["metric"] for row in content["rows"]]
    assert suite.get("failures") == "1"
    assert Path("o.md").read_text("utf-8").startswith("### geometry FAILED: 1 regressed, 2 same\n")
    assert geomdiag("check", bad, "-b", "b.toml", "-q").stdout == ""


def test_one_seed_is_told_in_words(geomdiag: Command, tmp_path: Path, good: Path) -> None:
    one = stored(tmp_path / "one.zarr", 0.1)
    done = geomdiag("baseline", one, "-o", "b.toml")
    assert "fewer than 3 seeds, so tolerances alone will decide" in done.stderr
    done = geomdiag("check", good, "-b", "b.toml")
    assert done.exit_code == 0
    assert "noise between seeds cannot be told" in " ".join(done.stdout.split())


def test_an_update_keeps_edits(geomdiag: Command, good: Path, bad: Path) -> None:
    geomdiag("baseline", good, "-o", "b.toml")
    text = Path("b.toml").read_text("utf-8").replace("relative = 0.1", "relative = 0.7")
    Path("b.toml").write_text(text, encoding="utf-8")
    done = geomdiag("baseline", bad, "-o", "b.toml", "--update")
    assert done.exit_code == 0, done.stderr
    loss = load_baseline("b.toml").settings["mlp"].metrics["loss[heldout]"]
    assert loss.values == (3.0, 2.0)
    assert loss.policy.relative == 0.7
    assert geomdiag("check", bad, "-b", "b.toml").exit_code == 0
    made = geomdiag("baseline", bad, "-o", "new.toml", "--update")  # nothing to update yet
    assert made.exit_code == 0


def test_metrics_are_chosen_by_pattern(geomdiag: Command, good: Path) -> None:
    geomdiag("baseline", good, "-o", "b.toml", "-m", "loss*", "-m", "accuracy[train]")
    held = load_baseline("b.toml").settings["mlp"].metrics
    assert list(held) == ["loss[train]", "loss[heldout]", "accuracy[train]"]


def test_validate(geomdiag: Command, good: Path) -> None:
    geomdiag("baseline", good, "-o", "b.toml")
    Path("bad.toml").write_text("format = 3", encoding="utf-8")
    done = geomdiag("baseline", "--validate", "b.toml", "b.toml")
    assert (done.exit_code, done.stdout) == (0, "2 baselines valid\n")
    done = geomdiag("baseline", "--validate", "bad.toml", "b.toml", "none.toml")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "bad.toml: expected format" in done.stderr
    assert "there is no baseline at none.toml" in done.stderr


def test_compare_is_for_people(geomdiag: Command, good: Path, bad: Path) -> None:
    done = geomdiag("compare", good, bad)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[0].split() == ["metric", "verdict", "A", "B", "spreads"]
    assert done.stdout.endswith("B against A: 1 regressed, 2 same\n")
    done = geomdiag("compare", good, bad, "-m", "accuracy*", "--json")
    assert {row["metric"] for row in json.loads(done.stdout)["rows"]} == {
        "accuracy[train]",
        "accuracy[heldout]",
    }


def test_a_name_that_plays_tricks_is_shown_harmlessly(geomdiag: Command, tmp_path: Path) -> None:
    run = xr.Dataset({"additivity": ("step", [0.5])}, {"step": [0]}, {"run": "a\x1b[31m[b]"})
    path = gd.save(xr.DataTree.from_dict({"/x": run}), tmp_path / "x.zarr")
    done = geomdiag("baseline", path, "-o", "b.toml")
    assert "\x1b" not in done.stdout + done.stderr
    assert "a\\x1b[31m[b]: 1 metric of 1 seed" in done.stdout
    done = geomdiag("check", path, "-b", "b.toml", "--junit", "x.xml", "--markdown", "x.md")
    assert done.exit_code == 0
    assert "\x1b" not in done.stdout + Path("x.xml").read_text("utf-8")
