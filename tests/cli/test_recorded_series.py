"""The recorded series of every kind of task go through the ordinary command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

import geomdiag as gd

SERIES = Path(__file__).resolve().parents[2] / "fixtures" / "series"
TASKS = {
    "graph-hypercube-5-transformer": ("reversal", "automorphism", "triangle"),
    "comparison-5x5-transformer": ("antisymmetry", "transitivity"),
    "group-S4-mlp": ("associativity", "left_translation", "right_translation"),
}


def recorded_task(name: str) -> str:
    content = json.loads((SERIES / name / "seed=0" / "run.json").read_text(encoding="utf-8"))
    return str(content["task"])


@pytest.mark.parametrize("name", TASKS)
def test_symmetries_are_acquired(
    geomdiag: Callable[..., Result], tmp_path: Path, name: str
) -> None:
    task, out = recorded_task(name), tmp_path / "result.zarr"
    done = geomdiag(
        "analyze", SERIES / name, "--task", task, "--json", "--out", out, "--workers", "1"
    )
    assert done.exit_code == 0, done.stderr
    (run,) = json.loads(done.stdout)["runs"]
    assert run["task"] == task
    assert run["failed"] == run["partial"] == 0
    assert run["compared"] > 0
    assert not run["disagreement"]
    assert run["accuracy"]["heldout"] == 1.0
    assert tuple(run["symmetry_violation"]) == TASKS[name]
    for symmetry, course in run["symmetry_violation"].items():
        assert course["last"] < 1e-2 * course["peak"], symmetry
    assert run["boundaries"]["t_generalised"]["step"] > run["boundaries"]["t_memorised"]["step"]
    assert run["effective_dimension"]["last"] < run["effective_dimension"]["first"]
    assert bool(run["order"]) == name.startswith("comparison")
    assert (run["additivity"] is None) != name.startswith("comparison")
    dataset = next(iter(gd.load(out).children.values())).to_dataset()
    assert ("order" in dataset) == name.startswith("comparison")
    assert ("logit_power" in dataset) == name.startswith("group")
    assert ("symmetry_violation_directed" in dataset) != name.startswith("group")


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("graph-hypercube-5-transformer", "graph:hypercube-6"),
        ("comparison-5x5-transformer", "comparison:6x6"),
        ("group-S4-mlp", "group:S5"),
        ("group-S4-mlp", "graph:lattice-4x4"),
        ("comparison-5x5-transformer", "modadd:p=25"),
    ],
)
def test_a_task_that_does_not_fit_is_refused_with_those_that_would(
    geomdiag: Callable[..., Result], name: str, wrong: str
) -> None:
    done = geomdiag("analyze", SERIES / name, "--task", wrong)
    assert done.exit_code == 2
    right = recorded_task(name)
    told = " ".join(done.stderr.split())
    assert right in told or wrong.split(":")[0] != right.split(":")[0], told
    assert "would fit" in told


def test_the_terminal_tells_order_and_lost_boundaries(geomdiag: Callable[..., Result]) -> None:
    done = geomdiag("analyze", SERIES / "comparison-5x5-transformer", "--task", "comparison:5x5")
    for line in ("order of x1, R² left out", "order of x2, R² left out", "additivity"):
        assert line in done.stdout


def test_a_result_survives_an_analysis_in_which_everything_fails(
    geomdiag: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "result.zarr"
    (tmp_path / "broken.py").write_text("def factory(state):\n    raise ValueError('no')\n")
    monkeypatch.syspath_prepend(tmp_path)
    arguments = ("analyze", SERIES / "group-S4-mlp", "--task", "group:S4", "--out", out)
    options = ("--analyzers", "fit", "--workers", "1")
    assert geomdiag(*arguments, *options).exit_code == 0
    before = gd.load(out)
    done = geomdiag(*arguments, *options, "--model", "broken:factory")
    assert done.exit_code == 2
    told = " ".join(done.stderr.split())
    assert "left as it is" in told
    assert "--force" in told
    after = gd.load(out)
    assert all(one.identical(after[name]) for name, one in before.children.items())
    assert geomdiag(*arguments, *options, "--model", "broken:factory", "--force").exit_code == 3


@pytest.mark.parametrize("name", TASKS)
def test_inspect_says_what_a_run_was_trained_on_and_what_would_fit(
    geomdiag: Callable[..., Result], name: str
) -> None:
    task = recorded_task(name)
    done = geomdiag("inspect", SERIES / name)
    assert done.exit_code == 0
    told = done.stdout.split("  tensors\n")[0]
    assert f"trained on       {task}" in told
    assert task in told.split("sizes fit")[1]
    assert f"With --task {task} it also says" in " ".join(done.stdout.split())
    (run,) = json.loads(geomdiag("inspect", SERIES / name, "--json").stdout)["runs"]
    assert run["recorded_task"] == task
    assert task in run["fitting"]
    assert "trained on" not in geomdiag("inspect", SERIES / name, "--task", task).stdout
