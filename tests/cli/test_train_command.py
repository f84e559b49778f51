"""`geomdiag train` on a sweep: everything it stands for, in its own folder, once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from geomdiag_cli.app import app

SWEEP = """
name = "small"
[[sweep]]
name = "modadd"
[sweep.set]
task = "modadd:p=5"
device = "cpu"
model = { kind = "mlp", d_embed = 8, d_hidden = 8 }
training = { steps = 20, seeds = 2, train_fraction = 0.6 }
checkpoints = { count = 4, dense = 0 }
[sweep.vary]
"training.weight_decay" = [0.0, 1.0]
"""


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "sweep.toml"
    path.write_text(SWEEP)
    return path


def test_a_sweep_trains_all_it_stands_for(sweep: Path) -> None:
    result = CliRunner().invoke(app, ["train", str(sweep)])
    assert result.exit_code == 0, result.output
    assert "4 runs of modadd:p=5 in runs/small" in result.output
    runs = sorted(Path("runs/small").rglob("run.json"))
    assert [str(run.parent) for run in runs] == [
        f"runs/small/modadd+weight_decay-{decay}/seed={seed}"
        for decay in ("0.0", "1.0")
        for seed in (0, 1)
    ]
    contents = [json.loads(run.read_text()) for run in runs]
    assert [one["recipe"]["training"]["weight_decay"] for one in contents] == [0, 0, 1, 1]
    assert all(one["finished"] for one in contents)


def test_a_sweep_goes_on_with_what_is_not_finished(sweep: Path) -> None:
    CliRunner().invoke(app, ["train", str(sweep)])
    done = Path("runs/small/modadd+weight_decay-0.0/seed=0/step_000020.safetensors")
    gone = Path("runs/small/modadd+weight_decay-1.0/seed=0")
    before = done.stat().st_mtime_ns
    first = {file.name: load_file(file) for file in gone.glob("*.safetensors")}
    for folder in (gone, gone.with_name("seed=1")):
        for file in folder.iterdir():
            file.unlink()
    result = CliRunner().invoke(app, ["train", str(sweep), "--json"])
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["runs"]) == 4
    assert done.stat().st_mtime_ns == before
    assert {file.name for file in gone.glob("*.safetensors")} == set(first)
    for name, weights in first.items():  # in a smaller stack, so that they round differently
        for key, array in load_file(gone / name).items():
            np.testing.assert_allclose(array, weights[key], atol=1e-5)


def test_one_wrong_recipe_stops_the_sweep_before_any_training(sweep: Path) -> None:
    sweep.write_text(SWEEP.replace("[0.0, 1.0]", "[0.0, -1.0]"))
    result = CliRunner().invoke(app, ["train", str(sweep)])
    assert result.exit_code == 2
    assert "[training] weight_decay: found -1.0" in " ".join(result.output.split())
    assert not Path("runs").exists()


def test_a_sweep_keeps_off_the_folder_of_another(sweep: Path) -> None:
    CliRunner().invoke(app, ["train", str(sweep)])
    sweep.write_text(SWEEP.replace("d_hidden = 8", "d_hidden = 16"))
    result = CliRunner().invoke(app, ["train", str(sweep)])
    assert result.exit_code == 2
    assert "another recipe" in " ".join(result.output.split())
