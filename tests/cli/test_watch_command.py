"""`geomdiag watch` beside a training that writes slowly and in pieces."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from typer.testing import Result

import geomdiag as gd

Command = Callable[..., Result]
#: What is quick to compute; a netCDF file is quick to write.
QUICK = ("--task", "modadd", "--analyzers", "fit,dimension", "--out", "live.nc")
OFTEN = ("--interval", "0.1")


def in_order(source: Path) -> list[Path]:
    """Return a run's settings, then its checkpoints in order of step."""
    return sorted(source.iterdir(), key=lambda path: (path.suffix == ".safetensors", path.name))


def pieces(runs: Path, target: Path) -> Iterator[None]:
    """Write all runs of a folder as their trainer would, stopping within every file."""
    for run in sorted(runs.iterdir()):
        for file in in_order(run):
            data = file.read_bytes()
            part = len(data) // 3 + 1
            (target / run.name).mkdir(parents=True, exist_ok=True)
            with (target / run.name / file.name).open("wb") as out:
                for start in range(0, len(data), part):
                    out.write(data[start : start + part])
                    out.flush()
                    yield


def assert_as_analyzed(geomdiag: Command, folder: Path) -> None:
    """Hold the result against that of `geomdiag analyze`."""
    done = geomdiag("analyze", folder, *QUICK[:-1], "at-once.nc", "--quiet")
    assert done.exit_code == 0
    for name, node in gd.load("at-once.nc").children.items():
        xr.testing.assert_identical(gd.load("live.nc")[name].to_dataset(), node.to_dataset())


def test_result_is_that_of_analyze_and_half_files_are_no_errors(
    geomdiag: Command, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(runs / "seed=1")
    growing = tmp_path / "growing"
    written = pieces(runs, growing)
    monkeypatch.setattr("geomdiag_cli.watch.time.sleep", lambda _: next(written, None))
    result = geomdiag("watch", growing, *QUICK, "--until-idle", "0.3")
    assert next(written, "all is written") == "all is written"
    assert result.exit_code == 0, result.output
    assert "failed" not in result.output
    assert "cannot" not in result.output
    lines = [line for line in result.stdout.splitlines() if "new checkpoint" in line]
    assert [line.partition(" (")[0] for line in lines] == [
        f"seed=0: step {step}" for step in (0, 1, 60)
    ]
    assert all("(1 new checkpoint of " in line for line in lines)
    assert "accuracy train " in lines[-1]
    assert_as_analyzed(geomdiag, growing)


@pytest.mark.slow
def test_beside_a_writer_with_a_pace_of_its_own(
    geomdiag: Command, trained: Path, tmp_path: Path
) -> None:
    growing = tmp_path / "growing"

    def work() -> None:
        for _ in pieces(trained, growing):
            time.sleep(0.3)

    writer = threading.Thread(target=work)
    writer.start()
    result = geomdiag("watch", growing, *QUICK, *OFTEN, "--until-idle", "3")
    writer.join()
    assert result.exit_code == 0, result.output
    assert "failed" not in result.output
    assert result.stdout.count("new checkpoint") > 1
    assert_as_analyzed(geomdiag, growing)


def test_a_broken_file_is_an_error_once_it_has_settled(
    geomdiag: Command, runs: Path, tmp_path: Path
) -> None:
    shutil.rmtree(runs / "seed=1")
    torn = runs / "seed=0" / "step_000070.safetensors"
    torn.write_bytes((runs / "seed=0" / "step_000060.safetensors").read_bytes()[:300])
    once = geomdiag("watch", runs, *QUICK, "--once")
    assert once.exit_code == 0
    assert "left out, as it is being written: step_000070.safetensors" in once.stderr
    assert gd.load("live.nc")["seed=0"]["step"].values.max() == 60
    result = geomdiag("watch", runs, *QUICK, *OFTEN, "--settle", "0.6", "--until-idle", "1")
    assert result.exit_code == 3
    assert result.stderr.count("seed=0 step 70: failed:") == 1
    assert gd.load("live.nc")["seed=0"]["status"].values.tolist()[-1] == "failed"


def test_checkpoints_that_the_trainer_removes_stay_in_the_result(
    geomdiag: Command, runs: Path
) -> None:
    geomdiag("watch", runs, *QUICK, "--once")
    before = gd.load("live.nc")["seed=0"].to_dataset()
    kept = in_order(runs / "seed=0")[-1]
    for file in in_order(runs / "seed=0"):
        if file.suffix == ".safetensors" and file != kept:
            file.unlink()
    with safe_open(kept, "numpy") as file:
        stored = {**file.metadata(), "step": "80"}
    save_file(load_file(kept), kept.with_name("step_000080.safetensors"), stored)
    result = geomdiag("watch", runs, *QUICK, "--once")
    assert result.exit_code == 0, result.output
    after = gd.load("live.nc")["seed=0"].to_dataset()
    assert after["step"].values.tolist() == [*before["step"].values.tolist(), 80]
    xr.testing.assert_equal(after["loss"].isel(step=slice(-1)), before["loss"])


def test_a_checkpoint_removed_while_it_is_looked_at_stays_in_the_result(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(runs / "seed=1")
    out = tmp_path / "live.nc"
    options = {"analyzers": ["fit"], "format": "netcdf"}
    gd.live.Follower(runs, out, "modadd:p=7", **options).look()
    before = gd.load(out)["seed=0"].to_dataset()
    first = next(one for one in in_order(runs / "seed=0") if one.suffix == ".safetensors")
    follower = gd.live.Follower(runs, out, "modadd:p=7", **options)  # knows no digests yet
    stored = follower._stored

    def meanwhile() -> xr.DataTree | None:
        first.unlink()  # the folder was opened, and nothing of it is read yet
        return stored()

    monkeypatch.setattr(follower, "_stored", meanwhile)
    assert not follower.look().fresh
    xr.testing.assert_identical(gd.load(out)["seed=0"].to_dataset(), before)
    monkeypatch.undo()
    second, opened = in_order(runs / "seed=0")[-2], follower._open

    def removed_while_opened() -> Any:
        runs, *rest = opened()
        second.unlink()
        one = next(one for one in runs["seed=0"] if one.path.name == second.name)
        one.error = "cannot be read"
        return runs, *rest

    follower = gd.live.Follower(runs, out, "modadd:p=7", **options)
    monkeypatch.setattr(follower, "_open", removed_while_opened)
    assert not follower.look().fresh
    xr.testing.assert_identical(gd.load(out)["seed=0"].to_dataset(), before)


def test_runs_whose_checkpoints_are_all_removed_stay_in_the_result(
    runs: Path, tmp_path: Path
) -> None:
    out, aside = tmp_path / "live.nc", tmp_path / "aside"
    options = {"analyzers": ["fit"], "format": "netcdf"}
    gd.live.Follower(runs, out, "modadd:p=7", **options).look()
    before = gd.load(out)["seed=1"].to_dataset()
    first, *_, last = [one for one in in_order(runs / "seed=1") if one.suffix == ".safetensors"]
    (runs / "seed=1").rename(aside)
    for follower in (gd.live.Follower(runs, out, "modadd:p=7", **options) for _ in range(2)):
        (runs / "seed=0" / first.name).unlink(missing_ok=True)
        assert not follower.look().fresh
        xr.testing.assert_identical(gd.load(out)["seed=1"].to_dataset(), before)
    (runs / "seed=1").mkdir()
    shutil.copy(aside / "run.json", runs / "seed=1")
    shutil.copy(aside / last.name, runs / "seed=1")
    assert not follower.look().fresh
    xr.testing.assert_identical(gd.load(out)["seed=1"].to_dataset(), before)
    (runs / "seed=1").rename(runs / "renamed=1")  # the last one of the run goes by another name
    assert follower.look().fresh == {"renamed=1": (60,)}
    assert set(gd.load(out).children) == {"seed=0", "renamed=1", "seed=1"}
    shutil.rmtree(runs / "renamed=1")
    aside.rename(runs / "renamed=1")
    with pytest.warns(UserWarning, match="no longer in it: the run 'seed=1'"):
        assert follower.look().fresh == {"renamed=1": (0, 1)}
    assert set(gd.load(out).children) == {"seed=0", "renamed=1"}  # now all of it does


def test_what_is_written_beside_the_last_checkpoint_counts(
    geomdiag: Command, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(runs / "seed=1")
    settings = runs / "seed=0" / "run.json"
    text = settings.read_text()
    settings.unlink()
    steps = iter([lambda: settings.write_text(text)])
    monkeypatch.setattr("geomdiag_cli.watch.time.sleep", lambda _: next(steps, int)())
    result = geomdiag("watch", runs, *QUICK, "--until-idle", "0.5")
    assert result.exit_code == 0
    run = gd.load("live.nc")["seed=0"]
    assert run.attrs["split_source"] != "unknown"
    assert "history" in run


def test_unchanged_checkpoints_are_read_once(
    geomdiag: Command, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = gd.live.Follower(runs, tmp_path / "live.nc", "modadd", analyzers=["fit"])
    first = follower.look()
    assert first.fresh == {"seed=0": (0, 1, 60), "seed=1": (0, 1, 60)}
    read: list[str] = []
    real = gd.Checkpoint.digest.func  # type: ignore[attr-defined]

    def counted(self: gd.Checkpoint) -> str:
        read.append(f"{self.path.parent.name} {self.step}")
        return str(real(self))

    monkeypatch.setattr(gd.Checkpoint.digest, "func", counted)
    last = in_order(runs / "seed=0")[-1]
    with safe_open(last, "numpy") as file:
        stored = {**file.metadata(), "step": "80"}
    save_file(load_file(last), last.with_name("step_000080.safetensors"), stored)
    assert follower.look().fresh == {"seed=0": (80,)}
    assert set(read) == {"seed=0 80"}


def test_files_under_a_temporary_name_are_passed_over(geomdiag: Command, runs: Path) -> None:
    last = in_order(runs / "seed=0")[-1]
    shutil.copy(last, last.with_name("step_000099.safetensors.tmp"))
    result = geomdiag("watch", runs, *QUICK, "--once")
    assert result.exit_code == 0
    assert [node.attrs["run"] for node in gd.load("live.nc").children.values()] == [
        "seed=0",
        "seed=1",
    ]


def test_page_is_kept_current_and_is_no_change_of_the_folder(geomdiag: Command, runs: Path) -> None:
    shutil.rmtree(runs / "seed=1")
    page = runs / "page.html"
    page.write_text("old")
    began = time.monotonic()
    options = ("--report", page, "--until-idle", "0.5")
    result = geomdiag("watch", runs, *QUICK, *OFTEN, *options)
    assert result.exit_code == 0, result.output
    assert "seed=0" in page.read_text(encoding="utf-8")
    assert time.monotonic() - began < 30  # a page that counts as a change would go on for ever


def test_page_is_made_where_nothing_is_new(geomdiag: Command, runs: Path, tmp_path: Path) -> None:
    shutil.rmtree(runs / "seed=1")
    assert geomdiag("watch", runs, *QUICK, "--once").exit_code == 0
    result = geomdiag("watch", runs, *QUICK, "--once", "--report", "page.html")
    assert result.exit_code == 0, result.output
    assert "seed=0" in Path("page.html").read_text(encoding="utf-8")
    result = geomdiag("watch", runs, *QUICK[:-1], "new.nc", "--report", tmp_path / "no" / "p.html")
    assert result.exit_code == 2
    assert "its folder does not exist" in result.stderr
    assert not Path("new.nc").exists()  # told before any work


def test_a_lone_file_may_be_written_over_again(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "last"
    folder.mkdir()
    last = folder / "last.npz"
    files = [one for one in in_order(runs / "seed=0") if one.suffix == ".safetensors"]
    follower = gd.live.Follower(
        folder, tmp_path / "live.nc", "modadd:p=7", settle=0, analyzers=["fit"], format="netcdf"
    )
    losses = []
    for file in files[:2]:
        np.savez(last, **load_file(file))  # nothing in it tells a step
        look = follower.look()
        assert look.fresh == {"last": (0,)}
        losses.append(float(gd.load(tmp_path / "live.nc")["last"]["loss"].sel(part="all").item()))
    assert losses[0] != losses[1]
    np.savez(last, **load_file(files[2]))
    with monkeypatch.context() as patch:  # small files tell when they are opened, large ones not
        patch.setattr("geomdiag.live.follow._readable", lambda _: False)
        look = follower.look()
    assert "none of them can be read" in look.problem
    assert not follower.look().changed
    assert gd.load(tmp_path / "live.nc")["last"]["status"].item() == "ok"  # as it was
    np.savez(last, **load_file(files[0]))
    assert follower.look().fresh == {"last": (0,)}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(
    geomdiag: Command, runs: Path, monkeypatch: pytest.MonkeyPatch, how: int
) -> None:
    shutil.rmtree(runs / "seed=1")
    before = signal.getsignal(how)
    monkeypatch.setattr("geomdiag_cli.watch.time.sleep", lambda _: os.kill(os.getpid(), how))
    result = geomdiag("watch", runs, *QUICK)
    assert result.exit_code == 0
    assert "Ended. result: live.nc" in result.stderr
    assert signal.getsignal(how) == before
    assert gd.load("live.nc")["seed=0"]["step"].values[-1] == 60


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_process_of_its_own(trained: Path, tmp_path: Path, how: int) -> None:
    command = [sys.executable, "-m", "geomdiag", "watch", str(trained), *QUICK, *OFTEN]
    watching = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    assert "seed=0: step 60" in watching.stdout.readline()  # it reads before it is asked to end
    watching.send_signal(how)
    _, said = watching.communicate(timeout=60)
    assert watching.returncode == 0, said
    assert "Ended. result: live.nc" in said
    assert "Traceback" not in said
    assert len(gd.load(tmp_path / "live.nc").children) == 2


def test_what_waiting_does_not_mend_ends_it(geomdiag: Command, runs: Path, tmp_path: Path) -> None:
    nothing = geomdiag("watch", tmp_path / "none", *QUICK, "--once")
    assert nothing.exit_code == 2
    assert "there is no such file or folder" in nothing.stderr
    empty = tmp_path / "empty"
    empty.mkdir()
    idle = geomdiag("watch", empty, *QUICK, *OFTEN, "--until-idle", "0.2")
    assert idle.exit_code == 2
    assert "there are no checkpoints in this folder" in idle.stderr
    unknown = geomdiag("watch", runs, "--task", "modmul:q=3", *QUICK[2:])
    assert unknown.exit_code == 2
    assert geomdiag("watch", "s3://bucket/runs", *QUICK).exit_code == 2
    assert geomdiag("watch", runs, "--analyzers", "nothing", *QUICK[:2]).exit_code == 2
