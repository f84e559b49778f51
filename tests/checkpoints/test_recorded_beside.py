"""Losses and settings recorded beside checkpoints: placed where they belong, or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_makers import pytorch

from geomdiag.checkpoints import Series, open_runs
from geomdiag.checkpoints.beside.agreement import contradiction
from geomdiag.checkpoints.beside.curves import place


def state(seed: int) -> dict[str, np.ndarray]:
    return {"a": np.random.default_rng(seed).standard_normal((3, 4)).astype(np.float32)}


def run(folder: Path, steps: list[int], **beside: Any) -> Path:
    folder.mkdir(exist_ok=True)
    for step in steps:
        pytorch(folder / f"step_{step}.pt", state(step), **beside)
    return folder


def only(path: Path) -> Series:
    (series,) = open_runs(path).values()
    return series


# --- losses without their steps ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "length", "steps"),
    [
        ([0, 1000], 2, [0, 1000]),  # one a checkpoint
        ([10], 1, [10]),
        ([0, 4], 5, [0, 1, 2, 3, 4]),  # one a step, the first before any update
        ([2, 4], 4, [1, 2, 3, 4]),
        ([0, 2, 4], 6, [0, 1, 2, 3, 4, 5]),  # it went on, and the next checkpoint never came
        ([0, 1000], 3, None),  # every 500th step, perhaps
        ([0, 1000], 11, None),
        ([0, 500, 1000], 2501, None),  # far beyond the last: another unit
        ([0], 7, None),
        ([], 1, None),
    ],
)
def test_the_length_says_the_steps_or_nothing_does(
    entries: list[int], length: int, steps: list[int] | None
) -> None:
    values = {"train_loss": [float(i) for i in range(length)]}
    tables, problems = place(values, {}, unit="", entries=entries, source="m.json")
    assert [table[0].tolist() for table in tables] == ([] if steps is None else [steps])
    assert len(problems) == (steps is None)


def test_three_losses_beside_two_checkpoints_are_left_out_and_told(tmp_path: Path) -> None:
    run(tmp_path, [0, 1000])
    (tmp_path / "metrics.json").write_text(json.dumps({"train_loss": [3, 2, 1]}))
    series = only(tmp_path)
    assert series.history is None
    (told,) = series.notices
    assert "metrics.json: 3 values of train_loss" in told
    assert "2 checkpoint(s), the last at 1000" in told
    document = {"train_loss": [3, 2, 1], "step": [0, 500, 1000]}  # as the notice asks
    (tmp_path / "metrics.json").write_text(json.dumps(document))
    series = only(tmp_path)
    assert series.history is not None
    assert series.history.step.tolist() == [0, 500, 1000]
    assert series.notices == []


def test_lists_inside_many_checkpoints_are_told_of_once(tmp_path: Path) -> None:
    for step in (1000, 2000, 3000):
        pytorch(tmp_path / f"step_{step}.pt", state(step), train_losses=[1.0] * (step // 100))
    series = only(tmp_path)
    assert series.history is None
    (told,) = series.notices
    assert told.startswith("step_1000.pt: 10 values of train_loss")
    assert told.endswith("(2 more list(s) inside are left out so)")


# --- settings that contradict each other ------------------------------------------------------


def test_two_files_of_settings_that_differ_are_told_with_the_one_that_counts(
    tmp_path: Path,
) -> None:
    folder = run(tmp_path / "run", [1, 2])
    settings = {"lr": 1e-3, "wd": 1, "model": {"act_fn": "relu", "width": 64}, "steps": 9}
    (folder / "config.json").write_text(json.dumps(settings))
    # 1e-3 is text in YAML, and nothing is said twice about the steps
    (folder / "config.yaml").write_text(
        "lr: 1e-3\nwd: 0.1\nsteps: 8\nown: 3\nmodel: {act_fn: gelu, width: 64}\n"
    )
    series = only(folder)
    assert series.config == {**settings, "own": 3}
    (told,) = series.notices
    assert "run/config.json and run/config.yaml contradict each other" in told
    assert told.endswith("so wd is 1, not 0.1, model.act_fn is 'relu', not 'gelu'")


def test_settings_inside_win_over_those_beside_and_are_told(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", [1], config={"p": 7, "d": {"x": 1, "y": 2}}, seed=4)
    (folder / "config.json").write_text(json.dumps({"p": 7, "d": {"x": 1, "y": 3}, "seed": 5}))
    series = only(folder)
    assert series.config["d"] == {"x": 1, "y": 2}
    told = [notice for notice in series.notices if "contradict" in notice]
    assert len(told) == 2
    assert told[0].startswith("step_1.pt and what lies beside it contradict each other")
    assert told[0].endswith("so d.y is 2, not 3")
    assert told[1].startswith("the run's settings and step_1.pt contradict each other")
    assert told[1].endswith("so seed is 5, not 4")


def test_the_same_settings_twice_are_no_contradiction(tmp_path: Path) -> None:
    settings = {"lr": 1e-3, "layers": [1, 2], "nothing": None, "flag": True, "bound": float("nan")}
    folder = run(tmp_path / "run", [1, 2], config=settings)
    for name in ("config", "hparams"):
        (folder / f"{name}.json").write_text(json.dumps(settings))
    assert only(folder).notices == []


def test_each_checkpoints_own_settings_contradict_no_other(tmp_path: Path) -> None:
    for step in (1, 2):
        run(tmp_path / f"step_{step}", [step])
        settings = {"lr": 0.1 / step, "loss": 1.0 / step, "p": 7}
        (tmp_path / f"step_{step}" / "metadata.json").write_text(json.dumps(settings))
    assert only(tmp_path).notices == []
    (tmp_path / "config.json").write_text(json.dumps({"loss": "mse", "p": 11}))
    notices = only(tmp_path).notices
    assert all(notice.endswith("so p is 7, not 11") for notice in notices)
    assert len(notices) == 1


@pytest.mark.parametrize("nest", [lambda inner: {"a": inner}, lambda inner: [inner]])
def test_what_is_nested_without_end_is_no_setting(nest: Any) -> None:
    one, two = 1, 2
    for _ in range(5000):
        one, two = nest(one), nest(two)
    assert contradiction({"k": one, "wd": 1}, {"k": two, "wd": 2}, "x", "y") == ""
