"""One training alone writes a result."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from small_training import fresh

import geomdiag as gd
from geomdiag.errors import StoreError
from geomdiag.live import Monitor
from geomdiag.live.lock import Lock

fcntl = pytest.importorskip("fcntl", reason="the system has no locks of this kind")


def names(folder: Path) -> list[str]:
    return [one.name for one in folder.iterdir()]


def held_elsewhere(target: Path) -> subprocess.Popen[str]:
    """Start a process that has the lock and keeps it until its input ends."""
    script = textwrap.dedent(
        """
        import fcntl, os, sys
        file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
        fcntl.lockf(file, fcntl.LOCK_EX)
        os.write(file, str(os.getpid()).encode())
        print("locked", flush=True)
        sys.stdin.read()
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", script, str(target.with_name(f".{target.name}.lock"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


def test_a_second_training_is_refused_before_it_begins(tmp_path: Path) -> None:
    out = tmp_path / "run.nc"
    with held_elsewhere(out) as other:
        with pytest.raises(StoreError, match=rf"by another training \(process {other.pid}\)"):
            Monitor(fresh(), "modadd:p=7", out=out, analyzers=["fit"])
        other.kill()  # whoever dies lets go of it
    with Monitor(fresh(), "modadd:p=7", out=out, analyzers=["fit"], quiet=True) as monitor:
        monitor.step(0)
    assert names(tmp_path) == ["run.nc"]


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
    Lock(tmp_path / "nowhere" / "run.nc").take()  # what is wrong there is told by the writing

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    lock = Lock(tmp_path / "run.nc")
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
    with held_elsewhere(out) as other:
        other.kill()
