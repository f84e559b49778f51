"""One process alone writes a result: a training, an analysis, or what follows a folder."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from small_training import fresh

import geomdiag as gd
from geomdiag._lock import Lock
from geomdiag.errors import StoreError
from geomdiag.live import Follower, Monitor

fcntl = pytest.importorskip("fcntl", reason="the system has no locks of this kind")


def names(folder: Path) -> list[str]:
    return [one.name for one in folder.iterdir()]


@contextmanager
def held_elsewhere(target: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process that has the lock and keeps it until it is killed."""
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from geomdiag._lock import Lock
        lock = Lock(Path(sys.argv[1]), "geomdiag watch")
        lock.take()
        print("locked", flush=True)
        sys.stdin.read()
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(target)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def saved(folder: Path) -> Path:
    """Save a network as a run of one checkpoint."""
    folder.mkdir()
    torch.save(fresh().state_dict(), folder / "step_0.pt")
    return folder


def test_whoever_comes_second_is_refused_before_it_begins(tmp_path: Path) -> None:
    out, run = tmp_path / "run.nc", saved(tmp_path / "run")
    options = {"analyzers": ["fit"], "workers": 1, "format": "netcdf"}
    gd.analyze_into(out, run, "modadd:p=7", **options)
    before = out.read_bytes()
    with held_elsewhere(out) as other:
        about = rf"another process \(geomdiag watch, pid {other.pid} on {platform.node()}, since \d"
        with pytest.raises(StoreError, match=about):
            Monitor(fresh(), "modadd:p=7", out=out, analyzers=["fit"])
        with pytest.raises(StoreError, match=about):
            gd.analyze_into(out, run, "modadd:p=7", **options)
        with pytest.raises(StoreError, match=about):
            Follower(tmp_path / "nothing yet", out, "modadd:p=7", **options).look()
        assert gd.load(out)["run"]["step"].values.tolist() == [0]  # readers need no lock
        assert set(names(tmp_path)) == {"run.nc", "run", ".run.nc.lock"}
    assert out.read_bytes() == before
    assert ".run.nc.lock" in names(tmp_path)  # of a process that was killed: it stops nobody
    gd.analyze_into(out, run, "modadd:p=7", **options)
    with Follower(run, out, "modadd:p=7", **options) as follower:
        assert follower.look().tree is not None
    with Monitor(fresh(), "modadd:p=7", out=out, analyzers=["fit"], if_exists="replace") as monitor:
        monitor.step(0)
    assert set(names(tmp_path)) == {"run.nc", "run"}


def test_an_analysis_takes_nothing_from_others_of_its_process(tmp_path: Path) -> None:
    out, run = tmp_path / "run.nc", saved(tmp_path / "run")
    options = {"analyzers": ["fit"], "workers": 1, "format": "netcdf"}
    monitor = Monitor(fresh(), "modadd:p=7", out=out, analyzers=["fit"], quiet=True)
    with pytest.raises(StoreError, match="another monitor of this process"):
        gd.analyze_into(out, run, "modadd:p=7", **options)
    monitor.close()

    def meanwhile(done: int, total: int, label: str) -> None:
        with pytest.raises(StoreError, match="another geomdiag analyze of this process"):
            gd.analyze_into(out, run, "modadd:p=7", **options)
        with pytest.raises(StoreError, match="another geomdiag analyze of this process"):
            Follower(run, out, "modadd:p=7", **options).look()

    gd.analyze_into(out, run, "modadd:p=7", progress=meanwhile, **options)
    follower = Follower(run, out, "modadd:p=7", **options)
    follower.look()
    later = Follower(run, out, "modadd:p=7", **options)
    later.look()
    with pytest.raises(StoreError, match="a later geomdiag watch of this process"):
        follower.look()
    del later, follower  # what is forgotten holds nothing
    gd.analyze_into(out, run, "modadd:p=7", **options)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_a_forked_process_has_none_of_its_parents_locks(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "run.nc", "monitor")
    lock.take()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other tests' threads
        child = os.fork()
    if child == 0:
        try:
            Lock(tmp_path / "run.nc", "monitor").take()
        except StoreError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    lock.release()


def test_an_older_monitor_of_this_process_does_not_overwrite_a_later_one(tmp_path: Path) -> None:
    out = tmp_path / "run.nc"
    network = fresh()
    older = Monitor(network, "modadd:p=7", out=out, analyzers=["fit"], quiet=True)
    older.step(0)
    later = Monitor(network, "modadd:p=7", out=out, analyzers=["fit"], quiet=True)
    later.step(100)
    with pytest.raises(StoreError, match="written by a later monitor of this process"):
        older.write()
    later.close()
    assert gd.load(out)["run"]["step"].values.tolist() == [0, 100]
    assert names(tmp_path) == ["run.nc"]


def test_a_lock_without_a_place_or_room_for_the_process_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Lock(
        tmp_path / "nowhere" / "run.nc", "monitor"
    ).take()  # what is wrong there is told by the writing

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    lock = Lock(tmp_path / "run.nc", "monitor")
    lock.take()
    assert names(tmp_path) == [".run.nc.lock"]
    lock.release()
    assert names(tmp_path) == []


def test_a_refused_monitor_holds_no_lock(tmp_path: Path) -> None:
    out = tmp_path / "run.nc"
    with Monitor(fresh(), "modadd:p=7", out=out, analyzers=["fit"], quiet=True) as monitor:
        monitor.step(0)
    with pytest.raises(StoreError, match="cannot be continued"):
        Monitor(fresh(), "modadd:p=7", out=out, analyzers=["dimension"])
    with held_elsewhere(out):
        pass
