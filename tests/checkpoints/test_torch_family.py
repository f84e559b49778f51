"""Folders and files of PyTorch's own tools and of the trainers built on it.

What Lightning, Transformers and Accelerate write is written by them where they are installed
(extra test-formats); the tests skip where they are not.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_makers import STATE, tensors

from geomdiag.checkpoints import open_runs
from geomdiag.errors import CheckpointError


def sharded(folder: Path, names: dict[str, str]) -> Path:
    folder.mkdir(parents=True)
    held = tensors(STATE)
    for shard in set(names.values()):
        torch.save({k: held[k] for k, of in names.items() if of == shard}, folder / shard)
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": names}))
    return index


SHARDS = {
    name: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, name in enumerate(sorted(STATE))
}


def test_sharded_pytorch(tmp_path: Path) -> None:
    for step in (20, 3):
        sharded(tmp_path / f"checkpoint-{step}", SHARDS)
    (series,) = open_runs(tmp_path).values()
    assert series.format == "pytorch"
    assert series.steps.tolist() == [3, 20]
    assert set(series[1].tensors) == set(STATE)
    for name, expected in STATE.items():
        np.testing.assert_array_equal(series[1].tensors[name], expected)
    assert len(series[0].parts) == 2


def test_sharded_pytorch_with_a_shard_missing_or_cut(tmp_path: Path) -> None:
    index = sharded(tmp_path / "checkpoint-3", SHARDS)
    shard = index.parent / SHARDS["ids"]
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=shard.name):
        open_runs(tmp_path)
    shard.unlink()
    with pytest.raises(CheckpointError, match=r"is missing; copy all shards"):
        open_runs(tmp_path)


def test_a_torchscript_module_nested_in_lists(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Embedding(7, 4), torch.nn.Sequential(torch.nn.Linear(4, 7)))
    path = tmp_path / "epoch_4.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(net, torch.zeros(2, 2, dtype=torch.long)), path)
    (series,) = open_runs(path).values()
    assert series.steps.tolist() == [4]
    assert set(series[0].tensors) == set(net.state_dict())
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(series[0].tensors[name], value.numpy())


def test_transformer_lens_names(tmp_path: Path) -> None:
    """A bare state dict under TransformerLens' names, with its constants."""
    state = {
        "embed.W_E": torch.randn(8, 6),
        "blocks.0.attn.W_Q": torch.randn(2, 6, 3),
        "blocks.0.attn.mask": torch.ones(3, 3, dtype=torch.bool),
        "blocks.0.attn.IGNORE": torch.tensor(float("-inf")),
        "unembed.W_U": torch.randn(6, 8),
    }
    torch.save(state, tmp_path / "model.pt")
    (series,) = open_runs(tmp_path / "model.pt").values()
    assert set(series[0].tensors) == set(state)
    assert series[0].tensors["blocks.0.attn.IGNORE"] == -np.inf


def test_lightning(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch", exc_type=ImportError)

    class Net(lightning.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self, width: int = 4) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net = torch.nn.Linear(3, width)

        def training_step(self, batch: torch.Tensor) -> torch.Tensor:
            return self.net(batch).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), weight_decay=0.5)

    keep = lightning.callbacks.ModelCheckpoint(
        tmp_path / "checkpoints", save_top_k=-1, every_n_train_steps=2
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            max_steps=6, callbacks=[keep], logger=False, accelerator="cpu",
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        net = Net()
        trainer.fit(net, torch.utils.data.DataLoader(torch.randn(4, 3), batch_size=1))
    (series,) = open_runs(tmp_path).values()
    assert series.format == "pytorch"
    assert series.steps.tolist() == [2, 4, 6]
    assert series.unit == "step"
    assert set(series[2].tensors) == {"net.weight", "net.bias"}
    np.testing.assert_array_equal(series[2].tensors["net.weight"], net.net.weight.detach().numpy())
    assert series.config["width"] == 4


def test_transformers_trainer(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", exc_type=ImportError)
    pytest.importorskip("accelerate", exc_type=ImportError)

    class Net(transformers.PreTrainedModel):  # type: ignore[misc,name-defined]
        config_class = transformers.PretrainedConfig

        def __init__(self, config: object) -> None:
            super().__init__(config)
            self.embed = torch.nn.Embedding(5, 3)
            self.post_init()

        def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, object]:
            logits = self.embed(x)
            return {"loss": logits.square().mean(), "logits": logits}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arguments = transformers.TrainingArguments(
            str(tmp_path), max_steps=6, save_steps=2, logging_steps=1, report_to=[],
            use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        data = [{"x": torch.tensor(i % 5), "labels": torch.tensor(0)} for i in range(8)]
        net = Net(transformers.PretrainedConfig())
        transformers.Trainer(net, arguments, train_dataset=data).train()
    (series,) = open_runs(tmp_path).values()
    assert series.steps.tolist() == [2, 4, 6]
    assert set(series[2].tensors) == {"embed.weight"}
    np.testing.assert_array_equal(
        series[2].tensors["embed.weight"], net.embed.weight.detach().numpy()
    )
    assert series.history is not None
    assert {1, 2, 3, 4, 5, 6} <= set(series.history.step.tolist())
    assert np.isfinite(series.history.values["train_loss"]).sum() >= 6


def test_accelerate(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate", exc_type=ImportError)
    accelerator = accelerate.Accelerator(cpu=True)
    net = torch.nn.Linear(3, 4)
    model, optimiser = accelerator.prepare(net, torch.optim.AdamW(net.parameters()))
    for step in (10, 200):
        optimiser.zero_grad()
        model(torch.ones(1, 3)).sum().backward()
        optimiser.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            accelerator.save_state(str(tmp_path / f"step_{step}"))
    (series,) = open_runs(tmp_path).values()
    assert series.format == "safetensors"
    assert series.steps.tolist() == [10, 200]
    assert set(series[1].tensors) == {"weight", "bias"}
    np.testing.assert_array_equal(series[1].tensors["weight"], net.weight.detach().numpy())
