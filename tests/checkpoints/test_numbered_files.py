"""Files whose names differ in one number: a series, or runs."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from checkpoint_makers import KINDS, ONE_FILE, npz, pytorch

from geomdiag.checkpoints import open_runs
from geomdiag.checkpoints.numbered import numbers_of

TAKEN = "taken for the training step"


def state(seed: int, rows: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"a": rng.normal(size=(rows, 3)).astype(np.float32), "b": rng.normal(size=2)}


def write(folder: Path, names: list[str], **beside: object) -> None:
    for seed, name in enumerate(names):
        pytorch(folder / name, state(seed), **beside)


@pytest.mark.parametrize("kind", ONE_FILE)
@pytest.mark.parametrize(
    "pattern",
    [
        "grok_{}",
        "model_{}",
        "net_{}",
        "run_seed1_{}",
        "ck{}",
        "net.{}",
        "{}_model",
        "e{}",
        "t={}",
        "transformer-{}",
        "p97_wd1_seed3-{}",
    ],
)
def test_the_number_is_the_step(pattern: str, kind: str, tmp_path: Path) -> None:
    suffix, make = KINDS[kind].suffix, KINDS[kind].write
    for step in (1000, 0, 87):
        make(tmp_path / f"{pattern.format(step)}{suffix}", state(step))
    (series,) = open_runs(tmp_path).values()
    assert series.name == tmp_path.name
    assert series.steps.tolist() == [0, 87, 1000]
    assert {c.step_source for c in series} == {"file name"}
    assert sum(TAKEN in notice for notice in series.notices) == 1
    for checkpoint in series:
        name = KINDS[kind].named(state(0))["a"]
        np.testing.assert_array_equal(checkpoint.tensors[name], state(checkpoint.step)["a"])


@pytest.mark.parametrize(
    "pattern",
    [
        "lr1e-{}",
        "seed_{}",
        "seed{}",
        "seed={}",
        "seed-{}",
        "s{}",
        "mlp_s3_wd_{}",
        "myrun_{}",
        "run_{}",
        "trainRun{}",
        "model_fold{}",
        "id{}",
        "net_v{}",
        "weight_decay_{}",
        "frac0.{}",
        "p{}",
        "C{}",
        "model_{}_final",
        "best_{}",
        "{}_layers",
        "model_l{}k1h",
        "model_{}k",
        "lr_1e-{}",
        "net_2024010{}",
        "net_2024-01-0{}_120000",
    ],
)
def test_numbers_that_tell_runs_apart(pattern: str, tmp_path: Path) -> None:
    write(tmp_path, [f"{pattern.format(number)}.pt" for number in (1, 2, 5)])
    runs = open_runs(tmp_path)
    assert [series[0].path.stem for series in runs.values()] == [
        pattern.format(number) for number in (1, 2, 5)
    ]
    for series in runs.values():
        assert series.steps.tolist() == [0]
        (notice,) = series.notices
        assert "step_<N>" in notice
        assert 'store "step"' in notice


@pytest.mark.parametrize("pattern", ["grok_{}", "x{}", "c_{}"])
def test_stored_steps_come_first(pattern: str, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        pytorch(tmp_path / f"{pattern.format(number)}.pt", state(number), step=100 * number)
    (series,) = open_runs(tmp_path).values()
    assert series.steps.tolist() == [100, 200, 300]
    assert {c.step_source for c in series} == {"metadata"}
    assert series.notices == []


@pytest.mark.parametrize(
    ("pattern", "steps"),
    [("model_{}", (500, 500)), ("model_{}", (500, 400)), ("seed{}", (400, 500))],
)
def test_stored_steps_that_are_no_series(
    pattern: str, steps: tuple[int, int], tmp_path: Path
) -> None:
    for number, step in enumerate(steps):
        pytorch(tmp_path / f"{pattern.format(number)}.pt", state(number), step=step)
    runs = open_runs(tmp_path)
    assert [series.steps.tolist() for series in runs.values()] == [[steps[0]], [steps[1]]]


def test_some_store_the_number(tmp_path: Path) -> None:
    pytorch(tmp_path / "model_10.pt", state(0), step=10)
    pytorch(tmp_path / "model_20.pt", state(1))
    (series,) = open_runs(tmp_path).values()
    assert series.steps.tolist() == [10, 20]
    pytorch(tmp_path / "model_10.pt", state(0), step=11)
    assert len(open_runs(tmp_path)) == 2


def test_other_shapes_settings_and_curves_are_other_runs(tmp_path: Path) -> None:
    shapes, inside, beside, curves = (tmp_path / name for name in ("a", "b", "c", "d"))
    for folder in (shapes, inside, beside, curves):
        folder.mkdir()
    for number in (3, 4):
        pytorch(shapes / f"model_{number}.pt", state(0, rows=number))
        pytorch(inside / f"model_{number}.pt", state(number), config={"lr": number})
        pytorch(beside / f"model_{number}.pt", state(number))
        (beside / f"config_{number}.json").write_text(json.dumps({"weight_decay": number}))
        pytorch(curves / f"model_{number}.pt", state(number))
        (curves / f"model_{number}.csv").write_text("step,train_loss\n0,1.0\n9,0.1\n")
    assert len(open_runs(tmp_path)) == 8


def test_several_series_and_lone_files_in_one_folder(tmp_path: Path) -> None:
    write(tmp_path, [f"run_seed{seed}_{step}.pt" for seed in (1, 2) for step in (0, 10, 200)])
    write(tmp_path, ["step_0.pt", "step_5.pt", "alone.pt"])
    (tmp_path / "both").mkdir()
    write(tmp_path / "both", [f"net_{i}_{j}.pt" for i in (1, 2) for j in (1, 2)])  # who knows
    write(tmp_path, ["mlp_3.pt", "mlp_4.pt", "mlp_final.pt"])
    runs = open_runs(tmp_path)
    steps = {name: series.steps.tolist() for name, series in runs.items() if "both" not in name}
    assert steps == {
        "run_seed1": [0, 10, 200],
        "run_seed2": [0, 10, 200],
        "step_0": [0, 5],
        "mlp": [3, 4],
    }
    assert sum(name.startswith("both/net_") for name in runs) == 4
    assert any("mlp_final.pt is left out" in notice for notice in runs["mlp"].notices)


def test_one_file_of_a_series_keeps_its_step(tmp_path: Path) -> None:
    write(tmp_path, [f"grok_{step}.pt" for step in range(0, 900, 87)] + ["seed3.pt", "seed4.pt"])
    (series,) = open_runs(tmp_path / "grok_174.pt").values()
    assert series.name == "grok_174"
    assert series.steps.tolist() == [174]
    assert sum(TAKEN in notice for notice in series.notices) == 1
    (series,) = open_runs(tmp_path / "seed4.pt").values()
    assert series.steps.tolist() == [0]


def test_many_files_take_no_long_time(tmp_path: Path) -> None:
    for step in range(600):
        npz(tmp_path / f"net_{step}.npz", {"a": np.full((2, 2), step)})
    started = time.perf_counter()
    (series,) = open_runs(tmp_path).values()
    assert time.perf_counter() - started < 10  # under one second; generous for a busy machine
    assert len(series) == 600


def test_a_damaged_file_in_the_series(tmp_path: Path) -> None:
    write(tmp_path, ["grok_0.pt", "grok_5.pt", "grok_9.pt"])
    (tmp_path / "grok_9.pt").write_bytes((tmp_path / "grok_9.pt").read_bytes()[:300])
    (series,) = open_runs(tmp_path).values()
    assert series.steps.tolist() == [0, 5, 9]
    assert [bool(c.error) for c in series] == [False, False, True]


def test_dumps_make_a_series(tmp_path: Path) -> None:
    for step in (2, 30):
        npz(tmp_path / f"toy_{step}.npz", {"logits": np.full((9, 3), step, dtype=np.float32)})
    (series,) = open_runs(tmp_path).values()
    assert series.steps.tolist() == [2, 30]


@pytest.mark.parametrize(
    ("stem", "found"),
    [
        ("p97_frac0.30_wd1_seed0", [("p", 97), ("wd", 1), ("seed", 0)]),
        ("run_seed1_100", [("seed", 1), ("", 100)]),
        ("model_l8k1hzciux", []),
        ("lr_1e-3_20", [("", 20)]),
    ],
)
def test_numbers_in_names(stem: str, found: list[tuple[str, int]]) -> None:
    assert [(number.word, number.value) for number in numbers_of(stem)] == found
