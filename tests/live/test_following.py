"""Checkpoints that are not whole yet, and those that are gone again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file
from small_training import fresh
from torch import Tensor

from geomdiag.errors import CheckpointError
from geomdiag.live import Follower


def test_sharded_checkpoints_are_seen_when_they_are_whole(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    follower = Follower(run, tmp_path / "run.nc", "modadd:p=7", analyzers=["fit"])
    assert "no checkpoints" in follower.look().problem
    for step in (10, 20):
        folder = run / f"checkpoint-{step}"
        folder.mkdir()
        state = fresh(seed=step).state_dict()
        parts = [dict(list(state.items())[:3]), dict(list(state.items())[3:])]
        names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
        places = {key: names[part] for part in (0, 1) for key in parts[part]}
        index = folder / "model.safetensors.index.json"
        text = json.dumps({"weight_map": places})
        last = save(parts[1])
        for write in (
            lambda: index.write_text(text[:100]),  # noqa: B023 - called at once
            lambda: index.write_text(text),  # noqa: B023
            lambda: save_file(parts[0], folder / names[0]),  # noqa: B023
            lambda: (folder / names[1]).write_bytes(last[:200]),  # noqa: B023
        ):
            write()
            look = follower.look()
            assert index in look.making
            assert not look.fresh
            assert not look.errors
            assert look.changed
        (folder / names[1]).write_bytes(last)
        look = follower.look()
        assert look.fresh == {"run": (step,)}
        assert not look.making
        assert not look.problem
        (folder / "trainer_state.json").write_text('{"global_step": ')
        assert not follower.look().errors


def test_an_address_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="only a folder of this machine"):
        Follower("s3://bucket/runs", tmp_path / "run.nc", "modadd:p=7")


def saved(folder: Path, step: int, state: dict[str, Tensor]) -> Path:
    path = folder / f"step_{step}.safetensors"
    save_file(state, path)
    return path


def test_a_result_of_failures_alone_stops_nobody(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "run.nc"
    run.mkdir()
    options = {"analyzers": ["fit"], "format": "netcdf", "workers": 1}
    broken = {name: tensor * torch.nan for name, tensor in fresh().state_dict().items()}
    first = saved(run, 10, broken)
    with Follower(run, out, "modadd:p=7", **options) as follower:
        assert "NaN" in follower.look().errors["run step 10"]
    first.unlink()
    saved(run, 20, fresh().state_dict())
    with Follower(run, out, "modadd:p=7", **options) as follower:
        assert follower.look().fresh == {"run": (20,)}


def test_what_is_removed_before_it_could_be_measured_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    first = saved(run, 10, fresh().state_dict())
    saved(run, 20, fresh(seed=20).state_dict())
    options = {"analyzers": ["fit"], "format": "netcdf", "workers": 1}
    with Follower(run, tmp_path / "run.nc", "modadd:p=7", **options) as follower:
        monkeypatch.setattr(follower, "_stored", first.unlink)  # opened, and not yet read
        look = follower.look()
        assert list(look.errors) == ["run step 10"]
        assert "removed before it could be measured" in look.errors["run step 10"]
        look = follower.look()
        assert not look.errors
        assert look.tree is not None
        assert look.tree["run"]["step"].values.tolist() == [20]
