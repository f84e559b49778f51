"""Folders that W&B and MLflow leave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_makers import pytorch

from geomdiag.checkpoints import Series, open_runs


def state(value: float, width: int = 3) -> dict[str, np.ndarray]:
    return {"embed.weight": np.full((4, width), value, dtype=np.float32)}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def only(path: Path) -> Series:
    (series,) = open_runs(path).values()
    return series


def values(series: Series) -> list[float]:
    return [float(each.tensors["embed.weight"][0, 0]) for each in series]


# --- W&B ---------------------------------------------------------------------------------------

#: As wandb 0.31 writes it for an online run.
CONFIG = """\
_wandb:
    value:
        cli_version: 0.31.0
        python_version: 3.11.7
        t:
            "1": [1, 5]
frac_train:
    value: 0.3
model:
    value:
        d_model: 128
seed:
    value: 3
"""
SUMMARY = {
    "_runtime": 10.3,
    "_step": 20,
    "_timestamp": 1795523054.7,
    "_wandb": {"runtime": 10},
    "epoch": 2,
    "global_step": 900,
    "train_loss": 0.25,
    "val": {"acc": 0.5},
}


def artifact(folder: Path, name: str, version: int, **beside: Any) -> None:
    home = folder / f"{name}:v{version}"
    home.mkdir(parents=True)
    pytorch(home / "model.ckpt", state(version, beside.pop("width", 3)), **beside)


def test_versions_of_an_artifact_by_the_step_inside(tmp_path: Path) -> None:
    # Step and version run against each other: the step counts. Version 10 comes after 9.
    for version, step in ((9, 300), (10, 200), (11, 100)):
        artifact(tmp_path / "artifacts", "run-k3-model", version, global_step=step)
    series = only(tmp_path)
    assert series.name == "artifacts/run-k3-model"
    assert series.steps.tolist() == [100, 200, 300]
    assert values(series) == [11, 10, 9]
    assert {each.step_source for each in series} == {"metadata"}
    assert series.unit == "step"
    assert series.path.is_dir()


def test_versions_without_steps_count_themselves(tmp_path: Path) -> None:
    for version in (2, 10, 0):
        artifact(tmp_path / "artifacts", "model", version)
        artifact(tmp_path / "artifacts", "other: net", version, width=5)
    runs = open_runs(tmp_path / "artifacts")
    assert list(runs) == ["model", "other: net"]
    for series in runs.values():
        assert series.steps.tolist() == [0, 2, 10]
        assert values(series) == [0, 2, 10]
        assert series.unit == "version"
        assert any("counted by the versions" in notice for notice in series.notices)
    alone = only(tmp_path / "artifacts" / "model:v10")
    assert alone.steps.tolist() == [10]


def test_a_version_is_no_step_among_those_that_say_theirs(tmp_path: Path) -> None:
    artifact(tmp_path, "model", 1, step=100)
    artifact(tmp_path, "model", 2, step=200)
    artifact(tmp_path, "model", 3)
    series = only(tmp_path)
    assert series.steps.tolist() == [100, 200]
    assert any("model.ckpt is left out" in notice for notice in series.notices)


def test_files_inside_a_version(tmp_path: Path) -> None:
    home = tmp_path / "run-q9-sweep:v0" / "checkpoints"
    home.mkdir(parents=True)
    for step in (5, 40):
        pytorch(home / f"step_{step}.pt", state(step))
    write(home.parent / "config.json", json.dumps({"lr": 0.5}))
    series = only(tmp_path)
    assert series.steps.tolist() == [5, 40]
    assert series.config["lr"] == 0.5


def test_a_run_folder_of_wandb(tmp_path: Path) -> None:
    files = tmp_path / "wandb" / "run-20261124_121314-k3x9" / "files"
    write(files / "config.yaml", CONFIG)
    write(files / "wandb-summary.json", json.dumps(SUMMARY))
    write(files / "wandb-metadata.json", json.dumps({"args": ["--lr", "1"], "seed": 77}))
    pytorch(files / "model.pt", state(1))
    (files.parent / "logs").mkdir()
    series = only(tmp_path)
    assert series.name == "wandb/run-20261124_121314-k3x9"
    assert series.config == {"frac_train": 0.3, "model": {"d_model": 128}, "seed": 3}
    assert series.steps.tolist() == [900]  # the summary's, not the number of calls of log
    assert series.history is not None
    assert series.history.values["train_loss"].tolist() == [0.25]
    assert series.history.values["heldout_accuracy"].tolist() == [0.5]


def test_an_artifact_finds_the_settings_of_its_run(tmp_path: Path) -> None:
    for name in ("k3x9", "other"):
        files = tmp_path / "wandb" / f"offline-run-20261124_121314-{name}" / "files"
        write(files / "config.yaml", CONFIG if name == "k3x9" else "seed:\n    value: 5\n")
    for version in (0, 1):
        artifact(tmp_path / "artifacts", "model-k3x9", version, epoch=version + 4)
    series = only(tmp_path)
    assert series.config["seed"] == 3
    assert series.steps.tolist() == [4, 5]
    assert series.unit == "epoch"


@pytest.mark.parametrize("counted", [{}, {"epoch": 0}, {"global_step": 0}])
def test_a_real_run_of_wandb(
    counted: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_SILENT", "true")
    steps = [0, 10, 20, 30]
    with wandb.init(mode="offline", dir=tmp_path, config={"seed": 3, "model": {"d": 8}}) as run:
        for number, step in enumerate(steps):
            pytorch(Path(run.dir) / f"step_{step}.pt", state(step))
            told = {key: step if key == "global_step" else number for key in counted}
            run.log({"train_loss": 1 / (1 + step), **told}, step=step)
            run.log({"val": {"acc": number / 3}, "other": [1, 2]}, step=step)
        run.config["lr"] = 0.5
    series = only(tmp_path)
    assert series.name == f"wandb/{Path(run.dir).parent.name}"
    assert series.steps.tolist() == steps
    assert series.config == {"seed": 3, "model": {"d": 8}, "lr": 0.5}
    assert series.history is not None
    assert series.history.step.tolist() == steps
    expected = [1 / (1 + step) for step in steps]
    np.testing.assert_allclose(series.history.values["train_loss"], expected)
    np.testing.assert_allclose(series.history.values["heldout_accuracy"], np.arange(4) / 3)


def varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out, number = out + bytes([number & 0x7F | 0x80]), number >> 7
    return out + bytes([number])


def stretch(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def items(values: dict[str, Any]) -> bytes:
    return b"".join(
        stretch(1, stretch(2, key.encode()) + stretch(16, json.dumps(value).encode()))
        for key, value in values.items()
    )


def log_of(records: list[bytes]) -> bytes:
    """Return a log as W&B writes it: records in pieces that end where a block does."""
    out = b":W&B\xe1\xbe\x00"
    for record in records:
        first = True
        while True:
            left = (32 << 10) - len(out) % (32 << 10)
            if left < 7:
                out += bytes(left)
                continue
            piece, record = record[: left - 7], record[left - 7 :]
            kind = (1 if first else 4) if not record else (2 if first else 3)
            out += bytes(4) + len(piece).to_bytes(2, "little") + bytes([kind]) + piece
            first = False
            if not record:
                break
    return out


def test_a_long_log_and_a_torn_one(tmp_path: Path) -> None:
    home = tmp_path / "wandb" / "offline-run-20261124_121314-k3x9"
    (home / "files").mkdir(parents=True)
    steps = list(range(0, 20_000, 10))
    for step in steps[::500]:
        pytorch(home / "files" / f"step_{step}.pt", state(step))
    records = [
        stretch(17, stretch(4, items({"_wandb": {}, "seed": 3}))),
        stretch(2, items({"table": "x" * 70_000, "train_loss": -1.0, "_step": -5})),
        *(stretch(2, items({"train_loss": step / 2, "_step": step})) for step in steps),
        stretch(2, items({"train_loss": float("nan"), "_step": 20_000})),
        stretch(5, items({"seed": 4})),
    ]
    whole = log_of(records)
    assert len(whole) > 3 * (32 << 10)
    log = home / "run-k3x9.wandb"
    log.write_bytes(whole)
    series = only(tmp_path)
    assert series.config == {"seed": 4}
    assert series.history is not None
    assert series.history.step.tolist() == [-5, *steps]
    assert series.history.values["train_loss"].tolist() == [-1.0, *(s / 2 for s in steps)]
    for share in range(1, 10):  # what a killed run leaves
        log.write_bytes(whole[: len(whole) * share // 10])
        series = only(tmp_path)
        assert series.steps.tolist() == steps[::500]
        found = series.history.values["train_loss"].tolist()[1:] if series.history else []
        assert found == [step / 2 for step in steps[: len(found)]]
        assert share < 8 or len(found) > 100
    log.write_bytes(whole[:90] + b"\xff" * 40 + whole[130:])
    assert only(tmp_path).steps.tolist() == steps[::500]


# --- MLflow ------------------------------------------------------------------------------------


def mlflow_run(folder: Path) -> Path:
    """Write what mlflow 3.17 leaves with a file store, but for the artifacts."""
    home = folder / "mlruns" / "629143100030015388" / "f376335a29d94751976193ebf942f400"
    write(home.parent / "meta.yaml", "experiment_id: '629143100030015388'\nname: grok\n")
    write(
        home / "meta.yaml",
        f"artifact_uri: file://{home}/artifacts\nentry_point_name: ''\nlifecycle_stage: active\n"
        "run_id: f376335a29d94751976193ebf942f400\nrun_name: my run\nstatus: 3\ntags: []\n",
    )
    write(home / "params" / "lr", "0.1")
    write(home / "params" / "model" / "d", "128")
    write(home / "params" / "opt", "adamw")
    write(home / "tags" / "mlflow.runName", "my run")
    write(
        home / "metrics" / "train_loss",
        "1795523055971 1.0 0\n1795523055974 0.5 10\n1795523055975 nan 20\n",
    )
    write(home / "metrics" / "val" / "acc", "1795523055972 0.0 0\n1795523055976 1.0 20\n")
    write(home / "metrics" / "test_loss", "1 2.5 0\n2 2.25 0\n3 2.0 0\n")  # logged without steps
    write(home / "metrics" / "val_loss", "179552305597")  # torn
    return home


def check_mlflow(series: Series) -> None:
    assert series.steps.tolist() == [0, 10, 20]
    assert series.config["lr"] == 0.1
    assert series.config["model/d"] == 128
    assert series.config["opt"] == "adamw"
    assert "run_id" not in series.config
    history = series.history
    assert history is not None
    assert history.step.tolist() == [0, 10, 20]
    np.testing.assert_array_equal(history.values["train_loss"], [1.0, 0.5, np.nan])
    np.testing.assert_array_equal(history.values["heldout_accuracy"], [0.0, np.nan, 1.0])


@pytest.mark.parametrize("form", ["step_{}.pt", "global_step_{}/checkpoint.weights.pth"])
def test_an_mlflow_run(tmp_path: Path, form: str) -> None:
    home = mlflow_run(tmp_path)
    for step in (0, 10, 20):
        path = home / "artifacts" / "checkpoints" / form.format(step)
        path.parent.mkdir(parents=True, exist_ok=True)
        pytorch(path, state(step))
    series = only(tmp_path)
    assert series.name.endswith("/629143100030015388/f376335a29d94751976193ebf942f400")
    check_mlflow(series)
    assert series.history is not None
    assert series.history.values["heldout_loss"].tolist() == [2.5, 2.25, 2.0]
    # At any depth the run is the same.
    for folder in (home, home / "artifacts", home / "artifacts" / "checkpoints"):
        check_mlflow(only(folder))


def test_a_logged_model(tmp_path: Path) -> None:
    home = mlflow_run(tmp_path)
    data = home / "artifacts" / "model" / "data"
    data.mkdir(parents=True)
    pytorch(data / "model.pth", state(1), step=20)
    write(data.parent / "MLmodel", "flavors: {}\n")
    series = only(tmp_path)
    assert series.name.endswith("artifacts/model")
    assert series.config["lr"] == 0.1


def test_a_real_mlflow_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    mlflow.set_tracking_uri(f"file://{tmp_path}/mlruns")
    with mlflow.start_run():
        mlflow.log_params({"lr": 0.1, "model/d": 128, "opt": "adamw"})
        for step in (0, 10, 20):
            mlflow.log_metric("train_loss", [1.0, 0.5, np.nan][step // 10], step=step)
            if step != 10:
                mlflow.log_metric("val/acc", step / 20, step=step)
            file = pytorch(tmp_path / f"step_{step}.pt", state(step))
            mlflow.log_artifact(str(file), "checkpoints")
            file.unlink()
    check_mlflow(only(tmp_path))
