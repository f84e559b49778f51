"""Runs at addresses: on fsspec's memory file system, and on a web server of this machine."""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from checkpoint_makers import KINDS, STATE, safetensors
from helpers.range_server import serving

from geomdiag.checkpoints import FORMATS, Checkpoint, TensorSpec, open_runs
from geomdiag.checkpoints.formats.contract import Contents, Entry
from geomdiag.checkpoints.places import copies
from geomdiag.checkpoints.places.paths import RemotePath, Source
from geomdiag.checkpoints.places.remote import FileSystem
from geomdiag.errors import CheckpointError

try:
    importlib.import_module("aiohttp")
except ImportError:
    PLACES = ["memory"]
else:
    PLACES = ["memory", "web"]
needs_web = pytest.mark.skipif("web" not in PLACES, reason="aiohttp is not installed")


@pytest.fixture(autouse=True)
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()


@pytest.fixture(params=PLACES)
def address(request: pytest.FixtureRequest, tmp_path: Path, memory: Any) -> Iterator[Any]:
    """Return the address that `tmp_path` has once it is filled and this is called."""
    if request.param == "web":
        with serving(tmp_path) as served:
            yield lambda: served.address
        return

    def put() -> str:
        memory.put(f"{tmp_path}/", "/place", recursive=True)
        return "memory://place"

    yield put


def same(one: Checkpoint, two: Checkpoint) -> None:
    assert one.step == two.step
    assert one.metadata == two.metadata
    assert one.tensors.specs() == two.tensors.specs()
    for name in one.tensors:
        np.testing.assert_array_equal(one.tensors[name], two.tensors[name], strict=True)
    assert one.digest == two.digest


@pytest.mark.filterwarnings("ignore")  # the writers' own
@pytest.mark.parametrize("name", list(KINDS))
def test_every_format_is_read_as_on_this_machine(name: str, address: Any, tmp_path: Path) -> None:
    kind = KINDS[name]
    run = tmp_path / "sweep" / "run"
    run.mkdir(parents=True)
    for step in (40, 100):
        kind.write(run / f"net_step_{step}{kind.suffix}", STATE)
    (local,) = open_runs(run).values()
    (found,) = open_runs(f"{address()}/sweep/run").values()
    assert found.name == local.name
    assert found.format == local.format
    assert found.steps.tolist() == local.steps.tolist()
    assert found.notices == local.notices
    for one, two in zip(found, local, strict=True):
        assert isinstance(one.path, RemotePath)
        same(one, two)
    same(pickle.loads(pickle.dumps(found[1])), local[1])


def test_what_lies_beside_is_read(address: Any, tmp_path: Path) -> None:
    for seed in (0, 1):
        run = tmp_path / "runs" / f"seed={seed}" / "checkpoints"
        run.mkdir(parents=True)
        for step in (0, 50):
            safetensors(run / f"epoch=3-step={step}.safetensors", STATE)
        (run.parent / "config.json").write_text(f'{{"seed": {seed}, "weight_decay": 1.0}}')
        (run.parent / "metrics.csv").write_text("step,train_loss\n0,3.5\n50,0.25\n")
        np.save(run.parent / "train_indices.npy", np.array([0, 2, 5]))
    local = open_runs(tmp_path / "runs")
    runs = open_runs(f"{address()}/runs")
    assert list(runs) == list(local) == ["seed=0", "seed=1"]
    for name, series in runs.items():
        assert series.steps.tolist() == [0, 50]
        assert series.config == local[name].config
        assert series.coordinates == local[name].coordinates == {"seed": int(name[-1])}
        assert series.history is not None
        assert series.history.values["train_loss"].tolist() == [3.5, 0.25]
        assert series.split is not None
        assert series.split.value.tolist() == [0, 2, 5]
    alone = open_runs(f"{address()}/runs/seed=1/checkpoints")
    assert list(alone) == list(open_runs(tmp_path / "runs/seed=1/checkpoints"))
    assert alone["seed=1"].config["seed"] == 1  # from the folder above


def test_one_file_by_itself(address: Any, tmp_path: Path) -> None:
    safetensors(tmp_path / "net_step_7.safetensors", STATE)
    (series,) = open_runs(f"{address()}/net_step_7.safetensors").values()
    assert series.name == "net_step_7"
    assert series.steps.tolist() == [7]


def test_what_is_not_there_is_told(address: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    place = address()
    with pytest.raises(CheckpointError, match="no such file or folder"):
        open_runs(f"{place}/nowhere")
    with pytest.raises(CheckpointError, match=r"no checkpoints in this folder; found 1 \.txt"):
        open_runs(f"{place}/")


def test_a_truncated_file_is_told_by_its_address(address: Any, tmp_path: Path) -> None:
    whole = safetensors(tmp_path / "net_step_7.safetensors", STATE).read_bytes()
    for name in ("a_step_1.safetensors", "b_step_1.pt"):
        (tmp_path / name).write_bytes(whole[:200])
    place = address()
    for name in ("a_step_1.safetensors", "b_step_1.pt"):
        with pytest.raises(CheckpointError, match=name):
            open_runs(f"{place}/{name}")


def test_a_checkpoint_that_changes_is_seen_when_opened_again(memory: Any, tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        path = KINDS["pytorch"].write(tmp_path / "step_1.pt", {"w": np.full((2, 3), value)})
        memory.put(str(path), "/run/step_1.pt")
        (series,) = open_runs("memory://run/step_1.pt").values()
        assert series[0].tensors["w"][0, 0] == value


@needs_web
@pytest.mark.parametrize("dated", [False, True])
def test_a_change_that_the_server_does_not_tell_is_seen(
    dated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same size, and no time or the same second: a copy of the last opening must not be used."""
    if dated:
        facts = FileSystem._web_facts
        now = format_datetime(datetime.now(UTC), usegmt=True)
        monkeypatch.setattr(
            FileSystem,
            "_web_facts",
            lambda self, inside: {**facts(self, inside), "Last-Modified": now},
        )
    with serving(tmp_path) as served:
        for value in (1.0, 2.0):
            KINDS["pytorch"].write(tmp_path / "step_3.pt", {"w": np.full(9, value)})
            (series,) = open_runs(served.address).values()
            assert series[0].tensors["w"].max() == value


def test_an_address_given_as_a_path_object_is_explained() -> None:
    with pytest.raises(CheckpointError, match="give an address as text"):
        open_runs(Path("memory://run"))


@pytest.mark.parametrize(
    ("text", "package"),
    [("s3://bucket/run", "s3fs"), ("gs://bucket/run", "gcsfs"), ("wandb://a/b", "wandbfs")],
)
def test_a_missing_package_is_named(text: str, package: str) -> None:
    try:
        importlib.import_module(package)
    except ImportError:
        with pytest.raises(CheckpointError, match=f"pip install {package}"):
            open_runs(text)
    else:
        pytest.skip(f"{package} is installed")


def test_without_aiohttp_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "http", raising=False)
    with pytest.raises(CheckpointError, match=r"pip install 'geomdiag\[remote\]'"):
        open_runs("http://127.0.0.1:9/run")


def test_the_root_of_a_file_system(memory: Any, tmp_path: Path) -> None:
    path = safetensors(tmp_path / "net_step_7.safetensors", STATE)
    memory.put(str(path), "/net_step_7.safetensors")
    (series,) = open_runs("memory://").values()
    assert str(series[0].path) == "memory://net_step_7.safetensors"


def test_an_unknown_protocol_is_told() -> None:
    with pytest.raises(CheckpointError, match="nosuch://a: this address cannot be opened"):
        open_runs("nosuch://a")


def test_files_of_this_machine_by_address(tmp_path: Path) -> None:
    path = safetensors(tmp_path / "net_step_7.safetensors", STATE)
    (series,) = open_runs(path.as_uri()).values()
    assert series[0].path == path  # read as any other


def test_a_chained_address(memory: Any, tmp_path: Path) -> None:
    safetensors(tmp_path / "net_step_7.safetensors", STATE)
    memory.put(f"{tmp_path}/", "/place", recursive=True)
    (series,) = open_runs("simplecache::memory://place").values()
    assert series.steps.tolist() == [7]
    np.testing.assert_array_equal(series[0].tensors["ids"], STATE["ids"])


@pytest.mark.filterwarnings("ignore")  # the writers' own
@pytest.mark.parametrize("name", ["torchscript", "torch-export", "onnx", "onnx-external"])
def test_a_model_runs_by_itself(name: str, address: Any, tmp_path: Path) -> None:
    kind = KINDS[name]
    path = kind.write(tmp_path / f"net_step_4{kind.suffix}", STATE)
    if name.startswith("onnx"):
        pytest.importorskip("onnxruntime")
    (series,) = open_runs(f"{address()}/{path.name}", allow_pickle=True).values()
    rows = np.array([[1, 2], [0, 3], [5, 6]])
    assert series[0].program is not None
    times = 1 if name.startswith("onnx") else 2  # the identity, and twice the inputs
    np.testing.assert_array_equal(series[0].program().run(rows), rows * times)


class _OwnFormat:
    """A format of another package, which knows files of this machine only."""

    name, description, suffixes = "own", "for the test", (".own",)
    extra, lazy, safe = "", False, True

    def recognises(self, path: Any, head: bytes) -> bool:
        return head.startswith(b"OWN")

    def open(self, path: Path, *, allow_pickle: bool = False) -> Contents:
        assert isinstance(path, Path)
        return Contents(
            entries=[
                Entry(load=partial(_own_arrays, path), specs={"w": TensorSpec((2,), "float64")})
            ]
        )


def _own_arrays(path: Path) -> dict[str, Any]:
    return {"w": np.frombuffer(path.read_bytes()[3:])}


def test_formats_of_others_are_given_files(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    list(FORMATS)
    monkeypatch.setitem(FORMATS._targets, "own", "of:tests")
    monkeypatch.setitem(FORMATS._loaded, "own", _OwnFormat())
    memory.pipe("/run/step_3.own", b"OWN" + np.array([1.5, 2.5]).tobytes())
    monkeypatch.setattr(copies, "BUDGET", 1)  # such a copy stays
    (series,) = open_runs("memory://run").values()
    assert series.steps.tolist() == [3]
    assert series[0].tensors["w"].tolist() == [1.5, 2.5]


# --- what it costs -----------------------------------------------------------------------------


@needs_web
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", ["safetensors", "numpy", "hdf5", "flax", "onnx", "equinox", "torch-distributed"]
)
def test_one_tensor_is_fetched_alone(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    state = {
        "embed.weight": rng.normal(size=(64, 64)).astype(np.float32),
        "big": rng.normal(size=(1 << 20,)).astype(np.float32),
    }
    kind = KINDS[name]
    path = kind.write(tmp_path / f"net_step_3{kind.suffix}", state)
    with serving(tmp_path) as served:
        (series,) = open_runs(f"{served.address}/{path.name}").values()
        tensors = series[0].tensors
        small = next(n for n in tensors if tensors.spec(n).shape == (64, 64))
        np.testing.assert_array_equal(tensors[small], state["embed.weight"])
        assert served.bytes < 0.1 * state["big"].nbytes


@needs_web
def test_a_file_that_is_wanted_whole_is_fetched_once(tmp_path: Path) -> None:
    path = KINDS["pytorch"].write(
        tmp_path / "step_3.pt", {"w": np.arange(1 << 18, dtype=np.float32)}
    )
    with serving(tmp_path) as served:
        (series,) = open_runs(f"{served.address}/step_3.pt").values()
        _ = series[0].digest, series[0].tensors["w"]
        again = pickle.loads(pickle.dumps(series[0]))  # as a worker process gets it
        _ = again.digest, again.tensors["w"]
        assert served.bytes < 1.1 * path.stat().st_size


@needs_web
def test_a_server_that_gives_whole_files_only(tmp_path: Path) -> None:
    state = {"big": np.arange(1 << 16, dtype=np.float32), "tail": np.ones(5, dtype=np.float32)}
    for step in (0, 10):
        safetensors(tmp_path / f"step_{step}.safetensors", state)
    with serving(tmp_path, ranges=False) as served:
        (series,) = open_runs(served.address).values()
        np.testing.assert_array_equal(series[1].tensors["tail"], state["tail"])


@needs_web
def test_a_query_is_no_part_of_the_name(tmp_path: Path) -> None:
    safetensors(tmp_path / "net_step_7.safetensors", STATE)
    with serving(tmp_path) as served:
        address = f"{served.address}/net_step_7.safetensors?download=true"
        (series,) = open_runs(address).values()
        assert series.steps.tolist() == [7]
        assert all("?download=true" in p for _, p in served.requests if "safetensors" in p)


@needs_web
def test_a_server_is_asked_once_for_a_folder(tmp_path: Path) -> None:
    for step in range(5):
        safetensors(tmp_path / f"step_{step}.safetensors", STATE)
    with serving(tmp_path) as served:
        open_runs(served.address)
        assert len([path for _, path in served.requests if path == "/"]) <= 2
        assert all("wandb" not in path and ".toml" not in path for _, path in served.requests)


@needs_web
def test_a_server_that_fails_is_told(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        place = served.address
    with pytest.raises(CheckpointError, match="cannot be reached: ClientConnectorError"):
        open_runs(f"{place}/run")


# --- copies ------------------------------------------------------------------------------------


def test_copies_make_room_for_others(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "BUDGET", 100_000)
    state = {"w": np.zeros(10_000, dtype=np.float32)}
    for step in range(5):
        path = KINDS["pytorch"].write(tmp_path / f"step_{step}.pt", state)
        memory.put(str(path), f"/run/step_{step}.pt")
    (series,) = open_runs("memory://run").values()
    folder = copies.shared_folder()
    assert folder is not None
    held = sum(p.stat().st_size for p in folder.glob("[0-9a-f]*/*"))
    assert held <= 100_000
    for checkpoint in series:  # those that were dropped are fetched again
        np.testing.assert_array_equal(checkpoint.tensors["w"], state["w"])


def test_what_has_no_room_is_refused(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = KINDS["pytorch"].write(tmp_path / "step_1.pt", STATE)
    memory.put(str(path), "/run/step_1.pt")
    monkeypatch.setattr(copies, "_RESERVE", 1 << 62)
    with pytest.raises(CheckpointError, match="set TMPDIR to a folder with more room"):
        open_runs("memory://run")


def test_where_no_copy_has_room_the_digest_is_read_in_place(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = safetensors(tmp_path / "step_1.safetensors", STATE)
    memory.put(str(path), "/run/step_1.safetensors")
    monkeypatch.setattr(copies, "_RESERVE", 1 << 62)
    (series,) = open_runs("memory://run").values()
    (local,) = open_runs(path).values()
    assert series[0].digest == local[0].digest


def test_copies_are_removed_at_the_end(tmp_path: Path) -> None:
    path = safetensors(tmp_path / "step_1.safetensors", STATE)
    (tmp_path / "tmp").mkdir()
    script = textwrap.dedent(f"""
        import os, fsspec
        from geomdiag.checkpoints import open_runs

        fsspec.filesystem("memory").put({str(path)!r}, "/run/step_1.safetensors")
        (series,) = open_runs("memory://run").values()
        series[0].digest
        assert os.listdir({str(tmp_path / "tmp")!r})
    """)
    result = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert not list((tmp_path / "tmp").glob("geomdiag-*"))


def test_a_size_that_the_source_does_not_tell(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe("/run/a.bin", b"0123456789")
    source = FileSystem(memory, "/", "memory://")
    monkeypatch.setattr(source, "size", lambda _: None)
    assert Source.length(source, "run/a.bin") == 10  # counted
    assert not source.copied
    assert RemotePath(source, "run/a.bin").stat().st_size == 10  # of the copy, kept for the rest
    assert "run/a.bin" in source.copied
