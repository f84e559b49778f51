"""What is measured while the result cannot be written, or by a process that is killed, is kept."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import xarray as xr
from small_training import fresh
from typer.testing import CliRunner

import geomdiag as gd
from geomdiag import store
from geomdiag.errors import DiskFullError, StoreError
from geomdiag.live import Follower
from geomdiag_cli.app import app

OPTIONS: dict[str, Any] = {"analyzers": ["fit", "dimension"], "workers": 1, "format": "netcdf"}

Fill = Callable[[int], None]


@pytest.fixture
def fill(monkeypatch: pytest.MonkeyPatch) -> Fill:
    """Let every write of bytes fail, or with 0 let all pass again."""
    write, failure = Path.write_bytes, [0]

    def failing(path: Path, data: bytes) -> int:
        if failure[0]:
            raise OSError(failure[0], os.strerror(failure[0]))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", failing)
    monkeypatch.setattr("geomdiag.live.retry.FIRST", 0.0)

    def change(number: int) -> None:
        failure[0] = number

    return change


def save(step: int, *folders: Path) -> None:
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(fresh(seed=step).state_dict(), folder / f"step_{step}.pt")


def interrupt() -> None:
    raise KeyboardInterrupt


def same_as_analyzed(out: Path, everything: Path) -> None:
    expected = gd.analyze(everything, "modadd:p=7", analyzers=OPTIONS["analyzers"], workers=1)
    found, wanted = gd.load(out)["run"].to_dataset(), expected["run"].to_dataset()
    for name in ("step", "digest", "status", "loss", "accuracy", "dimension"):
        xr.testing.assert_equal(found[name], wanted[name])


@pytest.mark.parametrize(
    "remains", [pytest.param(True, marks=pytest.mark.slow), False], ids=["no removal", "removed"]
)
def test_a_full_disk_loses_nothing(tmp_path: Path, fill: Fill, remains: bool) -> None:
    run, everything, out = tmp_path / "run", tmp_path / "all" / "run", tmp_path / "run.nc"
    with Follower(run, out, "modadd:p=7", **OPTIONS) as follower:
        fill(errno.ENOSPC)
        for step in (0, 10, 20):
            save(step, run, everything)
            if step and not remains:
                (run / f"step_{step - 10}.pt").unlink()
            look = follower.look()
            assert "No space left on device. Free some space" in look.unsaved
            assert look.fresh == {"run": (step,)}
            assert look.tree is not None
            assert look.tree["run"]["step"].values[-1] == step
            assert not out.exists()
        assert follower.look().unsaved  # it is tried again, and fails again
        fill(0)
        assert not follower.look().unsaved
        same_as_analyzed(out, everything)
        save(30, run, everything)
        assert follower.look().fresh == {"run": (30,)}
    same_as_analyzed(out, everything)
    assert {one.name for one in tmp_path.iterdir()} == {"run", "all", "run.nc"}


def test_what_could_not_be_written_is_written_at_the_end_or_told(
    tmp_path: Path, fill: Fill
) -> None:
    run, out = tmp_path / "run", tmp_path / "run.nc"
    save(0, run)
    fill(errno.EDQUOT)
    follower = Follower(run, out, "modadd:p=7", **OPTIONS)
    assert follower.look().unsaved
    with pytest.raises(DiskFullError, match="Free some space"):
        follower.close()
    fill(0)
    follower.close()
    same_as_analyzed(out, run)


def test_a_folder_that_cannot_be_made_for_lack_of_room_is_made_later(
    tmp_path: Path, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = tmp_path / "run", tmp_path / "results" / "run.nc"
    save(0, run)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    follower = Follower(run, out, "modadd:p=7", **OPTIONS)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", full)
        assert "Free some space" in follower.look().unsaved
        with pytest.raises(StoreError, match="Free some space"):
            follower.close()
    look = follower.look()
    assert look.fresh == {"run": (0,)}
    assert not look.unsaved
    follower.close()
    same_as_analyzed(out, run)


def test_refused_at_the_start_is_final_and_later_is_not(tmp_path: Path, fill: Fill) -> None:
    run, out = tmp_path / "run", tmp_path / "run.nc"
    save(0, run)
    fill(errno.EACCES)
    with pytest.raises(StoreError, match="Check the folder's permissions"):
        Follower(run, out, "modadd:p=7", **OPTIONS).look()
    fill(0)
    with Follower(run, out, "modadd:p=7", **OPTIONS) as follower:
        follower.look()
        save(10, run)
        fill(errno.EACCES)
        assert "Permission denied" in follower.look().unsaved
        fill(0)
        assert not follower.look().unsaved
    same_as_analyzed(out, run)


def test_what_a_killed_process_had_read_is_kept_though_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, everything, out = tmp_path / "run", tmp_path / "all" / "run", tmp_path / "run.nc"

    for step in (0, 10, 20, 30):  # the second time there is a result already
        save(step, run, everything)
        with monkeypatch.context() as patch:
            if step in (0, 20):
                patch.setattr(store, "save", lambda *_: interrupt())
                with pytest.raises(KeyboardInterrupt):
                    Follower(run, out, "modadd:p=7", **OPTIONS).look()
            else:
                Follower(run, out, "modadd:p=7", **OPTIONS).look()
                same_as_analyzed(out, everything)
        (run / f"step_{step}.pt").unlink()


def test_the_command_tells_it_and_goes_on(
    tmp_path: Path, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = tmp_path / "run", tmp_path / "run.nc"
    save(0, run)
    fill(errno.ENOSPC)
    command = ["watch", str(run), "--task", "modadd:p=7", "--analyzers", "fit,dimension"]
    command += ["--out", str(out), "--report", str(tmp_path / "page.html")]
    full = CliRunner().invoke(app, [*command, "--once"])
    assert full.exit_code == 2
    assert "Error: cannot write" in full.stderr
    looks = iter([lambda: None, lambda: fill(0), lambda: None])
    monkeypatch.setattr("geomdiag_cli.watch.time.sleep", lambda _: next(looks, interrupt)())
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0
    assert done.stderr.count("not safe yet: cannot write") == 1
    assert "No space left on device" in done.stderr
    assert "written again" in done.stderr
    assert "run" in (tmp_path / "page.html").read_text(encoding="utf-8")
    same_as_analyzed(out, run)
