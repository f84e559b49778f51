"""Folders as public projects leave them, whose checkpoints need more than a state dict's reader.

Each test writes one layout as its project does (the numbers are small).
"""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from geomdiag.checkpoints import Series, open_runs

Losses = dict[str, list[float]]


def state(step: float, **shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    shapes = shapes or {"embed.weight": (7, 4), "head.weight": (7, 4)}
    return {name: torch.full(shape, float(step)) for name, shape in shapes.items()}


def only(path: Path) -> Series:
    (series,) = open_runs(path).values()
    return series


def values(series: Series) -> list[float]:
    return [float(next(iter(each.tensors.values())).flat[0]) for each in series]


def check(series: Series, steps: list[int], columns: Losses) -> None:
    """Compare the recorded curves with those written."""
    assert series.history is not None
    assert series.history.step.tolist() == steps
    assert {name: column.tolist() for name, column in series.history.values.items()} == columns


def test_recursive_models_with_settings_as_an_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``checkpoints/<model>/seed_<k>/checkpoint_final.pt`` with a dataclass of its own."""
    package = ModuleType("their_package")
    config = dataclasses.make_dataclass(
        "ModelConfig", [("p", int, 7), ("seed", int, 0), ("expansion", float, 4.0)]
    )
    config.__module__ = package.__name__
    package.ModelConfig = config  # type: ignore[attr-defined]
    home = tmp_path / "checkpoints"
    steps = [0, 500, 1000]
    with monkeypatch.context() as there:
        there.setitem(sys.modules, package.__name__, package)
        for model in ("swiglu", "recursive"):
            for seed in (0, 1):
                folder = home / model / f"seed_{seed}"
                folder.mkdir(parents=True)
                held = {"step": 1000, "model": state(seed), "config": config(seed=seed)}
                torch.save(held, folder / "checkpoint_final.pt")
                history = {"step": steps, "train_loss": [2, 1, 0.5], "test_acc": [0.0, 0.5, 1.0]}
                (folder / "training_history.json").write_text(json.dumps(history))
    runs = open_runs(tmp_path)
    assert list(runs) == [
        f"checkpoints/{model}/seed_{seed}" for model in ("recursive", "swiglu") for seed in (0, 1)
    ]
    for series in runs.values():
        assert series.steps.tolist() == [1000]
        assert series.config["expansion"] == 4.0
        assert series.config["seed"] == series.coordinates["seed"] == values(series)[0]
        check(series, steps, {"train_loss": [2, 1, 0.5], "heldout_accuracy": [0, 0.5, 1]})


def test_dated_folders(tmp_path: Path) -> None:
    """``runs/<exp>/<YYYYMMDD_HHMMSS>/checkpoint_step_<N>.pt`` and the run's records."""
    for date, shift in (("20260101_120000", 0), ("20260102_093015", 5)):
        folder = tmp_path / "runs" / "modadd" / date
        folder.mkdir(parents=True)
        for step in (100, 2000, 300):
            held = {"model_state_dict": state(step + shift), "optimizer_state_dict": {}}
            torch.save(held, folder / f"checkpoint_step_{step}.pt")
        (folder / "config.yaml").write_text(f"lr: 0.001\nmodel:\n  d_model: {128 + shift}\n")
        rows = [
            {"step": step, "train_loss": 1 / step, "val_loss": 2.0, "val_acc": shift / 10}
            for step in (100, 300, 2000)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    runs = open_runs(tmp_path / "runs")
    assert list(runs) == ["modadd/20260101_120000", "modadd/20260102_093015"]
    for series, shift in zip(runs.values(), (0, 5), strict=True):
        assert series.steps.tolist() == [100, 300, 2000]
        assert values(series) == [100 + shift, 300 + shift, 2000 + shift]
        assert series.config == {"lr": 0.001, "model": {"d_model": 128 + shift}}
        assert series.coordinates == {}
        columns = {
            "train_loss": [1 / 100, 1 / 300, 1 / 2000],
            "heldout_loss": [2.0] * 3,
            "heldout_accuracy": [shift / 10] * 3,
        }
        check(series, [100, 300, 2000], columns)


def test_grokfast(tmp_path: Path) -> None:
    """``res_<label>.pt``: ``its`` count steps after each epoch, ``net_its`` are epochs from 0."""
    a_batch, epochs, saved = 4, 12, [0, 1, 5, 11]
    its = [(epoch + 1) * a_batch for epoch in range(epochs)]
    held = {
        "its": its,
        "train_acc": [epoch / epochs for epoch in range(epochs)],
        "train_loss": [1.0 / (1 + epoch) for epoch in range(epochs)],
        "val_acc": [0.0] * epochs,
        "val_loss": [3.0] * epochs,
        "net_its": saved,
        "net": [state(epoch) for epoch in saved],
    }
    (tmp_path / "results").mkdir()
    torch.save(held, tmp_path / "results" / "res_baseline.pt")
    series = only(tmp_path)
    assert series.steps.tolist() == [its[epoch] for epoch in saved]
    assert values(series) == saved
    assert series.unit == "step"
    check(
        series,
        its,
        {
            "train_loss": held["train_loss"],
            "heldout_loss": held["val_loss"],
            "train_accuracy": held["train_acc"],
            "heldout_accuracy": held["val_acc"],
        },
    )


def test_grokfast_without_weights_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save({"its": [4, 8], "train_acc": [0.0, 1.0]}, tmp_path / "res_a.pt")
    torch.save(state(1), tmp_path / "step_1.pt")
    runs = open_runs(tmp_path)
    assert [series.steps.tolist() for series in runs.values()] == [[1]]


def test_numbered_modules_in_wandb_artifacts(tmp_path: Path) -> None:
    """``nn.Sequential`` saved bare, a version of an artifact each."""
    names = {"model.0.self_attn.in_proj_weight": (12, 4), "model.3.weight": (7, 4)}
    for version in (0, 1, 2, 10):
        folder = tmp_path / "artifacts" / f"grok-9zq2:v{version}"
        folder.mkdir(parents=True)
        torch.save(state(version, **names), folder / "model.pt")
    files = tmp_path / "wandb" / "run-20230401_101010-9zq2" / "files"
    files.mkdir(parents=True)
    (files / "config.yaml").write_text("wandb_version: 1\n\nlr:\n  desc: null\n  value: 0.1\n")
    series = only(tmp_path)
    assert list(series[0].tensors) == list(names)
    assert series.steps.tolist() == values(series) == [0, 1, 2, 10]
    assert series.config == {"lr": 0.1}


def _openai(folder: Path, module: Any, hparams: Any) -> None:
    """Write what openai/grok writes: ``init.pt``, ``epoch_<2^k>.ckpt`` and ``metrics.csv``."""
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True)
    torch.save(module, checkpoints / "init.pt")
    for epoch in (1, 2, 4, 16):
        held = {
            "epoch": epoch,
            "global_step": epoch * 10,
            "pytorch-lightning_version": "0.9.0",
            "state_dict": {name: value + epoch for name, value in module.state_dict().items()},
            "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.001}]}],
            "lr_schedulers": [],
            "hyper_parameters": hparams,
        }
        torch.save(held, checkpoints / f"epoch_{epoch}.ckpt")
    logs = folder / "default" / "version_0"
    logs.mkdir(parents=True)
    (logs / "hparams.yaml").write_text("max_lr: 0.001\n")
    with (logs / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["val_loss", "val_accuracy", "epoch", "step", "train_loss"])
        for epoch in (1, 2, 4, 16):
            writer.writerow([2.0, epoch / 16, epoch, epoch * 10, 1 / epoch])


def test_openai_grok(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("grok_training")

    class TrainableTransformer(torch.nn.Module):
        def __init__(self, hparams: Any) -> None:
            super().__init__()
            self.hparams = hparams
            self.transformer = torch.nn.Module()
            self.transformer.embedding = torch.nn.Embedding(5, 4)
            self.transformer.linear = torch.nn.Linear(4, 5, bias=False)
            torch.nn.init.zeros_(self.transformer.embedding.weight)

    class AttributeDict(dict):  # type: ignore[type-arg]
        pass

    for each in (TrainableTransformer, AttributeDict):
        each.__module__, each.__qualname__ = package.__name__, each.__name__
        setattr(package, each.__name__, each)
    with monkeypatch.context() as there:
        there.setitem(sys.modules, package.__name__, package)
        hparams = AttributeDict(d_model=4, math_operator="+", weight_decay=1.0)
        _openai(tmp_path / "logs", TrainableTransformer(hparams), hparams)
    series = only(tmp_path)
    assert series.unit == "epoch"
    assert series.steps.tolist() == values(series) == [0, 1, 2, 4, 16]
    assert any("init.pt" in notice and "step 0" in notice for notice in series.notices)
    assert list(series[0].tensors) == ["transformer.embedding.weight", "transformer.linear.weight"]
    assert series.config["math_operator"] == "+"
    assert series.config["weight_decay"] == 1.0
    assert series.config["max_lr"] == 0.001
    columns = {
        "train_loss": [1.0, 0.5, 0.25, 0.0625],
        "heldout_loss": [2.0] * 4,
        "heldout_accuracy": [1 / 16, 1 / 8, 1 / 4, 1.0],
    }
    check(series, [1, 2, 4, 16], columns)


def test_a_real_lightning_module(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")

    class Net(lightning.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self, width: int = 4) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.transformer = torch.nn.Linear(width, 3)

    Net.__module__, Net.__qualname__ = "nowhere", "Net"
    nowhere = ModuleType("nowhere")
    nowhere.Net = Net  # type: ignore[attr-defined]
    sys.modules["nowhere"] = nowhere
    try:
        net = Net()
        torch.save(net, tmp_path / "init.pt")
    finally:
        del sys.modules["nowhere"]
    series = only(tmp_path)
    weight = net.transformer.weight.detach().numpy()
    np.testing.assert_array_equal(series[0].tensors["transformer.weight"], weight)
