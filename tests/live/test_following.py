"""Checkpoints that are not whole yet, and those that are gone again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import xarray as xr
from safetensors.torch import save, save_file
from small_training import fresh
from torch import Tensor

import geomdiag as gd
from geomdiag.analyzers import alignment
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
        assert look.fresh == {"run": (20,)}
        assert "removed before it could be measured" in look.errors["run step 10"]
        look = follower.look()
        assert not look.errors
        assert look.tree is not None
        assert look.tree["run"]["step"].values.tolist() == [20]


def test_comparing_all_checkpoints_takes_its_share_of_the_time_and_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = tmp_path / "run", tmp_path / "run.nc"
    run.mkdir()
    options = {"analyzers": ["fit", "alignment"], "format": "netcdf", "workers": 1}
    clock = [0.0]
    monkeypatch.setattr("geomdiag.live.follow.time.monotonic", lambda: clock[0])
    real = alignment.alignment

    def slow(*given: Any) -> Any:
        clock[0] += 100.0
        return real(*given)

    monkeypatch.setattr(alignment, "ANALYZER", replace(alignment.ANALYZER, compute=slow))
    options["analyzers"] = ["fit", alignment.ANALYZER]
    with Follower(run, out, "modadd:p=7", settle=0, **options) as follower:
        for step, later, behind in ((0, 0, False), (10, 299, True), (20, 0, True), (30, 1, False)):
            clock[0] += later
            saved(run, step, fresh(seed=step).state_dict())
            look = follower.look()
            assert look.fresh == {"run": (step,)}
            assert look.behind == behind
            assert look.tree is not None
            assert ("alignment" in look.tree["run"]) != behind
            assert ("left for later" in look.tree["run"].attrs["not_computed"]) == behind
        saved(run, 40, fresh(seed=40).state_dict())
        assert follower.look().behind
        assert follower.look().behind
        clock[0] += 300
        look = follower.look()  # nothing is new, and there is time
        assert not look.behind
        assert not look.changed
        saved(run, 50, fresh(seed=50).state_dict())
        assert follower.look().behind
    left = gd.load(out)["run"]
    assert "alignment" not in left
    with Follower(run, out, "modadd:p=7", settle=0, **options) as follower:
        assert not follower.look(complete=True).behind
    expected = gd.analyze(run, "modadd:p=7", analyzers=options["analyzers"], workers=1)
    xr.testing.assert_identical(gd.load(out)["run"].to_dataset(), expected["run"].to_dataset())


def test_what_a_run_that_is_gone_lacks_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("geomdiag.live.follow.COMPARING", 1e-9)  # there is never time
    for run in ("a", "b"):
        (tmp_path / "runs" / run).mkdir(parents=True)
        saved(tmp_path / "runs" / run, 0, fresh(seed=ord(run)).state_dict())
    options = {"analyzers": ["fit", "alignment"], "format": "netcdf", "workers": 1}
    with Follower(
        tmp_path / "runs", tmp_path / "run.nc", "modadd:p=7", settle=0, **options
    ) as follower:
        assert not follower.look().behind
        for run in ("a", "b"):
            saved(tmp_path / "runs" / run, 10, fresh(seed=10 + ord(run)).state_dict())
        assert follower.look().behind
        shutil.rmtree(tmp_path / "runs" / "b")
        look = follower.look(complete=True)
        assert not look.behind
        assert look.tree is not None
        assert set(look.tree.children) == {"a", "b"}


def test_rows_that_were_chosen_stay_when_their_file_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = tmp_path / "run", tmp_path / "run.nc"
    run.mkdir()
    options = {"analyzers": ["dimension"], "format": "netcdf", "workers": 1}
    options |= {"mapping": {"embedding": "words"}, "tokens": "1:8"}

    def word(step: int) -> Path:
        table = torch.randn(10, 4, generator=torch.Generator().manual_seed(step))
        return saved(run, step, {"words": table})

    for step in (0, 10, 20):
        path = word(step)
        with monkeypatch.context() as patch:
            if step == 10:  # a process that is killed when it has measured
                patch.setattr("geomdiag.store.save", lambda *_: (_ for _ in ()).throw(SystemExit))
                with pytest.raises(SystemExit):
                    Follower(run, out, "modadd:p=7", **options).look()
            else:
                Follower(run, out, "modadd:p=7", **options).look()
        path.unlink()
    found = gd.load(out)["run"]
    assert found["step"].values.tolist() == [0, 10, 20]
    assert set(found["status"].values) == {"ok"}
    for step in (0, 10, 20):
        word(step)
    expected = gd.analyze(run, "modadd:p=7", analyzers=["dimension"], workers=1,
                          mapping=options["mapping"], tokens=options["tokens"])  # fmt: skip
    xr.testing.assert_equal(found["dimension"], expected["run"]["dimension"])
