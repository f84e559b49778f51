"""A checkpoint of several files is waited for until all of them are there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import save, save_file
from small_training import fresh

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
