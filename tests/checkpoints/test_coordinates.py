"""Settings in the names of folders: what is believed, and what is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checkpoint_makers import pytorch

from geomdiag.checkpoints import open_runs
from geomdiag.checkpoints.coordinates import coordinates_of

Expected = dict[str, int | float | str]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("seed=3", {"seed": 3}),
        ("wd=1.0", {"wd": 1.0}),
        ("weight_decay=1e-3", {"weight_decay": 0.001}),
        ("lr=-.5", {"lr": -0.5}),
        ("my_own_key=7", {"my_own_key": 7}),
        ("+model.width=128,optimizer=adam_w", {"model.width": 128, "optimizer": "adam_w"}),
        ("shape=[3,4],seed=1", {"shape": "[3,4]", "seed": 1}),
        ("lr=0.1_wd=1", {"lr": 0.1, "wd": 1}),
        ("lr=0.1-weight_decay=1", {"lr": 0.1, "weight_decay": 1}),
        ("opt=adam_lr=0.1", {"opt": "adam", "lr": 0.1}),
        ("opt=adam_weight_decay=0.1", {"opt": "adam", "weight_decay": 0.1}),
        ("opt=sgd_nesterov_my_seed=4", {}),  # where the key begins, nobody can tell
        ("mlp-p31-seed=0", {"seed": 0}),
        ("lr=0.1_my_key=3", {"lr": 0.1, "my_key": 3}),
        ("alpha=0.1_beta=2", {"alpha": 0.1, "beta": 2}),
        ("alpha=0.1_weight_decay=2", {"alpha": 0.1, "weight_decay": 2}),
        ("arch=2_layer_seed=3", {}),
        ("arch=2_layers", {}),
        ("name=2_layers", {"name": "2_layers"}),
        ("lr=0.1_mlp", {"lr": 0.1}),
        ("fn_ab12_00000_0_lr=0.0100,wd=1_2026-11-24_12-00-00", {"lr": 0.01, "wd": 1}),
        ("id=12e5", {"id": "12e5"}),
        ("run_hash=0042", {"run_hash": "0042"}),
        ("x=1e999", {"x": "1e999"}),
        ("x=1234567890123456789012", {"x": "1234567890123456789012"}),
        ("range=1-5", {}),
        ("lr=1,5", {}),  # a comma for a point
        ("seeds=1,2,3,wd=1", {"wd": 1}),
        ("flag=true", {"flag": "true"}),
        ("=3", {}),
        ("seed=", {}),
        ("step=100", {}),
        ("epoch=3-step=100", {}),
        ("lr=0.1_step=100", {"lr": 0.1}),
        ("seed_3", {"seed": 3}),
        ("lr-0.001", {"lr": 0.001}),
        ("lr_1e-3", {"lr": 0.001}),
        ("p97_frac0.30_wd1_seed0", {"p": 97, "frac": 0.3, "wd": 1, "seed": 0}),
        ("mlp_weight-decay_0.5_seed12", {"weight_decay": 0.5, "seed": 12}),
        ("data_seed3", {"data_seed": 3}),
        ("seed_3_5", {}),
        ("seed3.5.1", {}),
        ("wd0p1", {}),
        ("p0.3", {}),  # a probability? a dropout? not the modulus
        ("ap97", {}),
        ("p97", {"p": 97}),
        ("exp_p3", {}),
        ("p5_seed1", {"p": 5, "seed": 1}),
        ("exp-3", {}),
        ("v2", {}),
        ("resnet50", {}),
        ("l2_0.1", {}),
        ("20261124_121314", {}),
        ("seed0_2026-11-24", {"seed": 0}),
        ("seeds", {}),
    ],
)
def test_one_name(name: str, expected: Expected) -> None:
    found, notices = coordinates_of([name])
    assert found == expected
    assert list(map(type, found.values())) == list(map(type, expected.values()))
    assert notices == []


def test_names_that_contradict_each_other_give_none() -> None:
    found, notices = coordinates_of(["seed=3", "lr=1", "seed=4", "lr=1"])
    assert found == {"lr": 1}
    (notice,) = notices
    assert "seed 3 and 4" in notice


def _write(folder: Path, value: float, name: str = "model.pt", **beside: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pytorch(folder / name, {"a": np.full((4, 3), value, dtype=np.float32)}, **beside)


def test_a_nested_sweep(tmp_path: Path) -> None:
    for seed in (3, 4):
        for decay in ("0.1", "1.0"):
            for step in (0, 100, 20):
                folder = tmp_path / "runs" / f"seed={seed}" / f"wd={decay}" / f"step_{step:05d}"
                _write(folder, step + seed)
    (tmp_path / "runs" / "plain").mkdir()
    _write(tmp_path / "runs" / "plain", 5, "step_5.pt")
    runs = open_runs(tmp_path / "runs")
    assert list(runs) == [
        "plain",
        *(f"seed={seed}/wd={decay}" for seed in (3, 4) for decay in ("0.1", "1.0")),
    ]
    assert runs["plain"].coordinates == {}
    assert runs["seed=3/wd=1.0"].coordinates == {"seed": 3, "wd": 1.0}
    assert runs["seed=4/wd=0.1"].steps.tolist() == [0, 20, 100]
    # Opened by itself, at any depth, a run keeps what it was.
    inner = tmp_path / "runs" / "seed=3" / "wd=1.0"
    for path in (inner, inner / "step_00100", inner / "step_00100" / "model.pt"):
        (series,) = open_runs(path).values()
        assert series.coordinates == {"seed": 3, "wd": 1.0}, path


def test_names_of_files(tmp_path: Path) -> None:
    for seed in (0, 1):
        _write(tmp_path, seed, f"p97_frac0.30_wd1_seed{seed}.pt", step=9)
    runs = open_runs(tmp_path)
    assert [series.coordinates["seed"] for series in runs.values()] == [0, 1]
    assert [series.coordinates["frac"] for series in runs.values()] == [0.3, 0.3]


def test_settings_that_say_otherwise(tmp_path: Path) -> None:
    _write(tmp_path / "seed=3", 1, config={"seed": 4, "lr": 0.1}, step=1)
    (series,) = open_runs(tmp_path / "seed=3").values()
    assert series.coordinates == {"seed": 3}
    assert any("the name says seed 3" in notice for notice in series.notices)
