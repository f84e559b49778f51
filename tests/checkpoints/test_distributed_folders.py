"""Folders of torch.distributed.checkpoint, written by it."""

from __future__ import annotations

import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_makers import STATE, tensors
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
)

from geomdiag.checkpoints import open_runs
from geomdiag.errors import CheckpointError, UnsafeCheckpointError


def write(folder: Path, **beside: Any) -> Path:
    net = torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    state = {"model": tensors(STATE), "optim": optimiser.state_dict(), **beside}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(state, checkpoint_id=folder)
    return folder


def described(folder: Path) -> Metadata:
    found = pickle.loads((folder / ".metadata").read_bytes())
    assert isinstance(found, Metadata)
    return found


def test_a_series_of_folders(tmp_path: Path) -> None:
    for step in (3, 20):
        write(tmp_path / "run" / f"step_{step}", step=step, train_loss=1 / step)
    (series,) = open_runs(tmp_path).values()
    assert series.name == "run"
    assert series.format == "torch-distributed"
    assert series.steps.tolist() == [3, 20]
    assert set(series[0].tensors) == set(STATE)
    for name, expected in STATE.items():
        assert series[0].tensors.spec(name).dtype == str(expected.dtype)
        np.testing.assert_array_equal(series[0].tensors[name], expected)
    assert series.history is not None
    assert series.history.values["train_loss"].tolist() == [1 / 3, 1 / 20]


def test_a_folder_by_itself_and_its_shard(tmp_path: Path) -> None:
    folder = write(tmp_path / "step_5")
    for path in (folder, folder / ".metadata"):
        (series,) = open_runs(path).values()
        assert series.steps.tolist() == [5]
    with pytest.raises(CheckpointError, match="point to its folder"):
        open_runs(folder / "__0_0.distcp")


def test_inside_the_folders_of_a_trainer(tmp_path: Path) -> None:
    """Accelerate's layout under FSDP, as dcp itself writes its two parts."""
    for step in (3, 20):
        folder = tmp_path / f"checkpoint-{step}"
        write(folder / "pytorch_model_fsdp_0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = {"optimizer": {"state": {"0": {"exp_avg": torch.ones(3)}}}}
            dcp.save(state, checkpoint_id=folder / "optimizer_0")
    runs = open_runs(tmp_path)
    (series,) = runs.values()
    assert series.steps.tolist() == [3, 20]
    assert set(series[0].tensors) == set(STATE)
    (alone,) = open_runs(tmp_path / "checkpoint-20").values()
    assert alone.steps.tolist() == [20]


def test_pieces_are_put_together(tmp_path: Path) -> None:
    """A tensor in two pieces, as several ranks write it: described by hand, for want of ranks."""
    halves = {"w": torch.arange(6.0).reshape(3, 2), "v": torch.arange(6.0, 10.0).reshape(2, 2)}
    folder = tmp_path / "step_1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(dict(halves), checkpoint_id=folder)
    meta = described(folder)
    whole, lower = meta.state_dict_metadata["w"], meta.state_dict_metadata.pop("v")
    whole.size = torch.Size([5, 2])
    whole.chunks.append(ChunkStorageMetadata(torch.Size([3, 0]), lower.chunks[0].sizes))
    for index in list(meta.storage_data):
        if index.fqn == "v":
            info = meta.storage_data.pop(index)
            meta.storage_data[MetadataIndex("w", torch.Size([3, 0]), 1)] = info
    (folder / ".metadata").write_bytes(pickle.dumps(meta))
    (series,) = open_runs(folder).values()
    np.testing.assert_array_equal(series[0].tensors["w"], np.arange(10.0).reshape(5, 2))
    whole.chunks.pop()
    (folder / ".metadata").write_bytes(pickle.dumps(meta))
    with pytest.raises(CheckpointError, match="do not make up its shape"):
        open_runs(folder)


@pytest.mark.parametrize("shard", ["../outside", "/etc/passwd", ".."])
def test_a_description_stays_in_its_folder(shard: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "step_5")
    meta = described(folder)
    for info in meta.storage_data.values():
        info.relative_path = shard
    (folder / ".metadata").write_bytes(pickle.dumps(meta))
    with pytest.raises(CheckpointError, match="plain file names"):
        open_runs(folder)


def test_absurd_sizes_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "step_5")
    meta = described(folder)
    tensor = meta.state_dict_metadata["model.ids"]
    tensor.size = tensor.chunks[0].sizes = torch.Size([1 << 60])
    tensor.chunks[0] = ChunkStorageMetadata(tensor.chunks[0].offsets, torch.Size([1 << 60]))
    (folder / ".metadata").write_bytes(pickle.dumps(meta))
    with pytest.raises(CheckpointError, match="does not fit its shape"):
        open_runs(folder)


class _Trap:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.target),))


@pytest.mark.parametrize("allow_pickle", [False, True])
def test_nothing_is_executed(allow_pickle: bool, tmp_path: Path) -> None:
    folder = write(tmp_path / "step_5")
    meta = described(folder)
    target = tmp_path / "proof"
    meta.planner_data = {"x": _Trap(target)}
    (folder / ".metadata").write_bytes(pickle.dumps(meta))
    with pytest.raises(UnsafeCheckpointError, match="mkdir"):
        open_runs(folder, allow_pickle=allow_pickle)
    assert not target.exists()
