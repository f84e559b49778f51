"""A result survives the way to disk and back, and whatever happens on the way."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from geomdiag import _replace, store
from geomdiag.errors import StoreError

FORMATS = ["zarr", "netcdf"]


def tree(seed: int = 0, steps: int = 5) -> xr.DataTree:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(steps, 3, 2))
    values[1] = np.nan
    node = xr.Dataset(
        {
            "loss": (("step", "part", "measure"), values, {"units": "nat", "higher_is_better": 0}),
            "key_block": (("step", "part"), rng.random((steps, 3)) > 0.5),
            "status": ("step", np.array(["ok", "failed", "ok", "partial", "ok"][:steps])),
            "error": ("step", np.array(["", "naïve — reason", "", "", ""][:steps])),
            "instances": ((), np.int64(2**40), {"units": "1"}),
        },
        coords={
            "step": np.arange(steps) * 10,
            "part": ["all", "train", "heldout"],
            "measure": ["λ=0.38", "x"],
        },
        attrs={"run": "a/b c[1]:2", "empty": "", "seed": seed, "share": 0.5, "list": ["a", "b"]},
    )
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs={"task": "modadd:p=5"}), "/a b[1]": node})


def content(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return {"": path.read_bytes()}
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def leftovers(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.name.startswith("."))


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_saved_is_loaded(tmp_path: Path, format: store.Format) -> None:
    original = tree()
    path = store.save(original, tmp_path / "deep" / "r", format)
    loaded = store.load(path)
    xr.testing.assert_identical(original, loaded)
    assert loaded["a b[1]"]["status"].dtype.kind == "U"
    assert leftovers(tmp_path / "deep") == []


def test_plain_xarray_opens_it_without_a_warning(tmp_path: Path) -> None:
    store.save(tree(), tmp_path / "r.zarr")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with xr.open_datatree(tmp_path / "r.zarr", engine="zarr") as opened:
            assert opened["a b[1]"]["status"].values[1] == "failed"


def test_the_whole_store_is_gone_through_once_however_many_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zarr

    one = tree(steps=2)["a b[1]"].to_dataset()
    many = xr.DataTree.from_dict({"/": xr.Dataset(), **{f"/seed={n}": one for n in range(3)}})
    consolidate = zarr.consolidate_metadata
    calls: list[object] = []

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        return consolidate(*arguments, **options)

    monkeypatch.setattr(zarr, "consolidate_metadata", counted)
    path = store.save(many, tmp_path / "r.zarr")
    assert len(calls) == 1
    listed = json.loads((path / "zarr.json").read_text())["consolidated_metadata"]["metadata"]
    there = {
        file.parent.relative_to(path).as_posix(): json.loads(file.read_text())
        for file in path.glob("*/**/zarr.json")
    }
    assert list(listed) == sorted(there)
    for name, own in there.items():
        # a group's entry says besides that it has no list of its own
        assert {**listed[name], "consolidated_metadata": None} == {
            **own,
            "consolidated_metadata": None,
        }


@pytest.mark.parametrize("format", FORMATS)
def test_same_tree_same_bytes(tmp_path: Path, format: store.Format) -> None:
    store.save(tree(), tmp_path / "one", format)
    time.sleep(0.01)
    shuffled = tree()
    shuffled["a b[1]"].attrs = dict(reversed(shuffled["a b[1]"].attrs.items()))
    store.save(shuffled, tmp_path / "two", format)
    store.save(store.load(tmp_path / "one"), tmp_path / "three", format)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    if format == "zarr":  # HDF5 files keep the order in which variables were made
        assert content(tmp_path / "one") == content(tmp_path / "three")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("swap", [True, False])
def test_replaces_an_older_result(
    tmp_path: Path, format: store.Format, swap: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not swap:
        monkeypatch.setattr(_replace, "_swap", lambda one, other: False)
    store.save(tree(0), tmp_path / "r", "zarr")
    store.save(tree(1), tmp_path / "r", format)
    assert store.load(tmp_path / "r")["a b[1]"].attrs["seed"] == 1
    assert leftovers(tmp_path) == []


def test_refuses_to_replace_what_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "precious.pt").write_bytes(b"weights")
    (tmp_path / "notes.txt").write_text("precious")
    for name in ("runs", "notes.txt"):
        with pytest.raises(StoreError, match="no geomdiag result"):
            store.save(tree(), tmp_path / name)
    assert (tmp_path / "runs" / "precious.pt").read_bytes() == b"weights"


def test_messages_of_load(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="geomdiag analyze"):
        store.load(tmp_path / "nothing.zarr")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(StoreError, match="no geomdiag result"):
        store.load(tmp_path / "text")
    path = store.save(tree(), tmp_path / "r.zarr")
    (path / "zarr.json").write_text("{ broken")
    with pytest.raises(StoreError, match="--force"):
        store.load(path)


def test_an_unknown_format_lists_the_known() -> None:
    with pytest.raises(StoreError, match="zarr, netcdf"):
        store.save(tree(), "x", "parquet")  # type: ignore[arg-type]


# Every call through which a save touches the disk outside zarr; each is made to fail in turn.
POINTS = ["fsync", "rename", "replace", "write_text", "_swap", "_write_zarr"]


@pytest.mark.parametrize("point", POINTS)
def test_a_full_disk_leaves_the_old_result(
    tmp_path: Path, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(tree(0), tmp_path / "r.zarr")
    before = content(tmp_path / "r.zarr")

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    owner = {"fsync": os, "_swap": _replace, "_write_zarr": store}.get(point, Path)
    with monkeypatch.context() as patch:
        if point == "rename":  # only met where the system cannot exchange
            patch.setattr(_replace, "_swap", lambda one, other: False)
        patch.setattr(owner, point, full)
        if point == "replace":
            patch.setattr(store, "_write_zarr", lambda t, p: Path(p).replace(p))
        with pytest.raises(StoreError, match="Free some space") as caught:
            store.save(tree(1), tmp_path / "r.zarr")
    assert "r.zarr" in str(caught.value)
    assert content(tmp_path / "r.zarr") == before
    assert leftovers(tmp_path) == []


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write .*permissions"):
        store.save(tree(), tmp_path / "file" / "r.zarr")
    with pytest.raises(StoreError, match="cannot write"):
        store.Journal.beside(tmp_path / "file" / "r.zarr").open()


BIG_WRITER = """
import resource, signal, sys
sys.path[:0] = sys.argv[2:]
import numpy as np
import xarray as xr
from geomdiag import store
from tests.analysis.test_store import tree
store.save(tree(0), sys.argv[1])
noise = np.random.default_rng(0).normal(size=100_000)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    store.save(xr.DataTree(xr.Dataset({"x": ("i", noise)})), sys.argv[1])
except store.StoreError as error:
    print(error)
"""


def test_a_file_size_limit_is_survived(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-c", BIG_WRITER, str(tmp_path / "r.zarr"), root],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Free some space" in done.stdout
    assert store.load(tmp_path / "r.zarr")["a b[1]"].attrs["seed"] == 0
    assert leftovers(tmp_path) == []


def test_a_death_between_two_renamings_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.save(tree(0), tmp_path / "r.zarr")
    path.rename(tmp_path / ".r.zarr.old")
    assert store.load(path)["a b[1]"].attrs["seed"] == 0
    assert leftovers(tmp_path) == []


def test_leftovers_of_dead_writers_are_removed(tmp_path: Path) -> None:
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    pid = int(dead.stdout)
    old = tmp_path / f".r.zarr.{_replace._machine()}-{pid}.tmp"
    alive = tmp_path / f".r.zarr.{_replace._machine()}-{os.getppid()}.tmp"
    foreign = tmp_path / f".r.zarr.00000000-{pid}.tmp"
    for folder in (old, alive, foreign):
        folder.mkdir()
    store.save(tree(), tmp_path / "r.zarr")
    assert leftovers(tmp_path) == sorted([alive.name, foreign.name])


WRITER = """
import sys
sys.path[:0] = sys.argv[2:]
from tests.analysis.test_store import tree
from geomdiag import store
print("ready", flush=True)
for seed in range(1, 100_000):
    store.save(tree(seed), sys.argv[1])
    print(seed, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kill as on Unix")
def test_a_kill_at_any_moment_leaves_a_whole_result(tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    root = str(Path(__file__).resolve().parents[2])
    store.save(tree(0), path)
    moments = random.Random(0)
    for _ in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), root], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        with child.stdout:
            assert child.stdout.readline() == "ready\n"
            time.sleep(0.2 + moments.random() * 0.4)
            child.send_signal(signal.SIGKILL)
            said = child.stdout.read().split()
        child.wait()
        loaded = store.load(path)
        seed = int(loaded["a b[1]"].attrs["seed"])
        xr.testing.assert_identical(loaded, tree(seed))
        if said:
            assert seed >= int(said[-1])
    store.save(tree(7), path)
    assert leftovers(tmp_path) == []


def test_journal_keeps_what_it_was_given(tmp_path: Path) -> None:
    journal = store.Journal.beside(tmp_path / "r.zarr")
    assert journal.keys() == set()
    arrays = {
        "loss": np.array([[1.0, np.nan]]),
        "names": np.array(["k=1", "λ"]),
        "flag": np.array(True),
        "none": np.empty((0, 3), np.float32),
    }
    journal.open()
    journal.put("abc", {"why": "naïve"}, arrays)
    assert journal.keys() == {"abc"}
    entry = store.Journal(tmp_path / ".r.zarr.partial").get("abc")
    assert entry is not None
    header, back = entry
    assert header == {"why": "naïve"}
    for name, array in arrays.items():
        assert (back[name].dtype, back[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(back[name], array)
    journal.clear()
    assert journal.get("abc") is None
    assert leftovers(tmp_path) == []


def test_a_journal_refuses_what_is_no_plain_array(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="words"):
        store.Journal(tmp_path).put("a", {}, {"words": np.array(["a"], dtype=object)})


def test_a_torn_journal_entry_is_absent(tmp_path: Path) -> None:
    journal = store.Journal(tmp_path)
    journal.put("a", {}, {"x": np.arange(100.0)})
    file = tmp_path / "a.step"
    whole = file.read_bytes()
    for length in (0, 10, 39, 41, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert journal.get("a") is None
    file.write_bytes(whole[:-1] + b"\x7f")
    assert journal.get("a") is None
