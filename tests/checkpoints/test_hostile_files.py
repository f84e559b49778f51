"""Files made to harm: refused with the error of the contract, within seconds and little memory."""

from __future__ import annotations

import io
import json
import math
import os
import resource
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import fuzzing
import numpy as np
import pytest
import torch
from checkpoint_makers import KINDS, STATE, exported, tensors, torchscript

from geomdiag.checkpoints import open_runs
from geomdiag.errors import CheckpointError, UnsafeCheckpointError


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """Write a zip again, uncompressed, with the members that `change` returns."""
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members:
            if (new := change(name, data)) is not None:
                archive.writestr(name, new)
    return path


@pytest.mark.parametrize("kind", ["numpy", "pytorch", "torchscript", "torch-export"])
def test_members_of_one_name(kind: str, tmp_path: Path) -> None:
    suffix, writer = KINDS[kind].suffix, KINDS[kind].write
    path = writer(tmp_path / f"step_1{suffix}", STATE)
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        archive.writestr(archive.namelist()[0], b"again")
    with pytest.raises(CheckpointError, match="twice"):
        open_runs(path)


def test_an_array_that_expands(tmp_path: Path) -> None:
    """A megabyte of zip that would be a gigabyte of zeros."""
    path = tmp_path / "step_1.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 27,)}
    )
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("w.npy", "w", force_zip64=True) as file,
    ):
        file.write(header.getvalue())
        for _ in range(128):
            file.write(bytes(1 << 23))
    with pytest.raises(CheckpointError, match="zip bomb"):
        open_runs(path)


@pytest.mark.parametrize("shape", [(1 << 40,), (1 << 62, 1 << 62), (3, 1 << 33), (-4,)])
@pytest.mark.parametrize("form", [".npy", ".npz"])
def test_absurd_shapes_in_numpy_headers(shape: tuple[int, ...], form: str, tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": shape}
    )
    data = header.getvalue() + bytes(64)
    path = tmp_path / f"embedding_step_1{form}"
    if form == ".npy":
        path.write_bytes(data)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("embedding.npy", data)
    with pytest.raises(CheckpointError, match=path.name):
        open_runs(path)


def header_of(path: Path, text: str, data: bytes = b"") -> Path:
    path.write_bytes(struct.pack("<Q", len(text)) + text.encode() + data)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
         '"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', "there twice"),
        ('{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}',
         "cannot lie"),
        ('{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}',
         "truncated"),
        ('{"a":{"dtype":"F32","shape":[-1,-1],"data_offsets":[0,4]}}', "cannot lie"),
        ('{"a":{"dtype":"F32","shape":[' + "1," * 99 + '1],"data_offsets":[0,4]}}', "100 axes"),
        ('{"a":' * 100_000, "damaged"),
        ('{"a":{"dtype":"F32","shape":[1e400],"data_offsets":[0,4]}}', "damaged"),
    ],
)  # fmt: skip
def test_hostile_safetensors_headers(text: str, message: str, tmp_path: Path) -> None:
    path = header_of(tmp_path / "step_1.safetensors", text, bytes(4))
    with pytest.raises(CheckpointError, match=message):
        next(iter(open_runs(path).values()))[0].load()


@pytest.mark.parametrize(
    ("rows", "message"), [(b"\xff\xff\xff\x7f", "needs"), (b"\xff" * 4, "cannot be negative")]
)
def test_torchscript_sizes(rows: bytes, message: str, tmp_path: Path) -> None:
    path = torchscript(tmp_path / "step_1.pt", STATE)
    true, false = b"(K\x0cK\x05t", b"(J" + rows + b"K\x05t"  # the embedding's 12 x 5
    rewritten(path, lambda n, d: d.replace(true, false) if n.endswith("data.pkl") else d)
    with pytest.raises(CheckpointError, match=message):
        open_runs(path)


@pytest.mark.parametrize("call", [b"cposix\nsystem\n", b"cbuiltins\neval\n", b"ctorch\nload\n"])
def test_torchscript_names_nothing_else(call: bytes, tmp_path: Path) -> None:
    path = torchscript(tmp_path / "step_1.pt", STATE)
    trap = b"\x80\x02" + call + b"X\x04\x00\x00\x00true\x85R."
    rewritten(path, lambda n, d: trap if n.endswith("data.pkl") else d)
    with pytest.raises(UnsafeCheckpointError, match=call.split()[0].decode()[1:]):
        open_runs(path)


def test_a_memo_that_would_fill_the_memory(tmp_path: Path) -> None:
    path = torchscript(tmp_path / "step_1.pt", STATE)
    trap = b"\x80\x02}r\xff\xff\xff\xff."  # LONG_BINPUT 2^32 - 1
    rewritten(path, lambda n, d: trap if n.endswith("data.pkl") else d)
    with pytest.raises(CheckpointError):
        open_runs(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 << 20  # KiB


def test_export_descriptions(tmp_path: Path) -> None:
    def change(size: int) -> Callable[[str, bytes], bytes]:
        def of(name: str, data: bytes) -> bytes:
            if not name.endswith("model_weights_config.json"):
                return data
            held = json.loads(data)
            held["config"]["embed.weight"]["tensor_meta"]["sizes"][0]["as_int"] = size
            return json.dumps(held).encode()

        return of

    for size, message in ((1 << 60, "needs"), (-1, "cannot be negative")):
        path = rewritten(exported(tmp_path / "step_1.pt2", STATE), change(size))
        with pytest.raises(CheckpointError, match=message):
            open_runs(path)


def test_a_broadcast_tensor_is_not_spread_out(tmp_path: Path) -> None:
    """One stored number said to be 2^40 of them by strides of nought."""
    path = exported(tmp_path / "step_1.pt2", {"w": np.ones((2, 2), np.float32)})

    def change(name: str, data: bytes) -> bytes:
        if not name.endswith("model_weights_config.json"):
            return data
        held = json.loads(data)
        meta = held["config"]["w"]["tensor_meta"]
        meta["sizes"] = [{"as_int": 1 << 20}, {"as_int": 1 << 20}]
        meta["strides"] = [{"as_int": 0}, {"as_int": 0}]
        return json.dumps(held).encode()

    with pytest.raises(CheckpointError, match="too large to be spread out"):
        open_runs(rewritten(path, change))


def test_a_large_header_takes_little_memory(tmp_path: Path) -> None:
    """In a process of its own, whose greatest memory can be read."""
    text = "{" + ",".join(f'"{i}":[]' for i in range(2_600_000)) + "}"
    path = header_of(tmp_path / "step_1.safetensors", text)
    program = (
        "import resource, sys, pathlib\n"
        "from geomdiag.checkpoints.formats.safetensors import FORMAT\n"
        "from geomdiag.errors import CheckpointError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    FORMAT.open(pathlib.Path(sys.argv[1]))\n"
        "except CheckpointError:\n    pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) < 500 * 1024  # KiB


SAVED = tensors({"w": np.ones((2, 3))})
NUMBERS = [math.inf, -math.inf, math.nan, 10**30, -(10**30), 2.5]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", ["pytorch", "safetensors", "numpy", "hdf5", "torch-export"])
def test_steps_that_are_none(kind: str, number: float, tmp_path: Path) -> None:
    """What is no step number is not taken for one, and is no reason to fail."""
    if kind == "hdf5" and isinstance(number, int):
        pytest.skip("HDF5 has no such integers")
    suffix, writer = KINDS[kind].suffix, KINDS[kind].write
    if kind == "numpy" and isinstance(number, int):
        number = float(number)
    path = writer(tmp_path / f"net_step_4{suffix}", STATE, step=number, train_loss=0.5)
    (series,) = open_runs(path).values()
    assert series.steps.tolist() == [4]


@pytest.mark.parametrize(
    "beside",
    [
        {"steps": [math.inf, 1.0], "train_losses": [1.0, 2.0]},
        {"steps": [10**30, 1], "train_losses": [1.0, 2.0]},
        {"train_losses": [10**400, 1]},
        {"best_step": math.inf},
        {"config": {"seed": 10**400}},
    ],
)
def test_numbers_beyond_all_bounds(beside: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    torch.save({"model": SAVED, **beside}, path)
    (series,) = open_runs(path).values()
    assert set(series[0].tensors) == {"w"}


@pytest.mark.parametrize("step", [10**25, "9" * 30, "9" * 5000])
def test_series_with_steps_beyond_all_bounds(step: object, tmp_path: Path) -> None:
    torch.save({"checkpoints": {step: SAVED, 3: SAVED}}, tmp_path / "run.pt")
    assert fuzzing.read_all(tmp_path / "run.pt") in ("read", "refused")  # nothing else is raised


@pytest.mark.parametrize("header", [b"{'descr': '<f8', 'shape': (", b"{" * 200, b"[1]"])
def test_numpy_headers_that_are_no_literals(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "step_1.npz"
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w.npy", data)
    with pytest.raises(CheckpointError, match="no header of an array"):
        open_runs(path)


def test_an_index_with_a_name_longer_than_names_can_be(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "x" * 5000 + ".safetensors"}}))
    with pytest.raises(CheckpointError, match="is missing"):
        open_runs(index)


def test_an_hdf5_heap_without_end(tmp_path: Path) -> None:
    """An object of no bytes, which the HDF5 library steps over for ever."""
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "step_1.h5"
    with h5py.File(path, "w") as file:
        file["w"] = np.ones(3)
        file.attrs["author"] = "a text of no fixed length"
    data = bytearray(path.read_bytes())
    first = data.index(b"GCOL") + 16
    data[first : first + 16] = bytes(16)
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="heaps of texts"):
        open_runs(path)


def test_an_hdf5_attribute_whose_name_is_no_text(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "step_1.h5"
    with h5py.File(path, "w") as file:
        file["w"] = np.ones(3)
        file.attrs["author"] = 5
    path.write_bytes(path.read_bytes().replace(b"author", b"auth\xffr"))
    (series,) = open_runs(path).values()
    assert set(series[0].tensors) == {"w"}


def test_an_hdf5_chunk_larger_than_its_dataset(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "step_1.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("w", (3, 3), "f8", chunks=(12345, 11), maxshape=(None, None))
    data = path.read_bytes()
    stored = struct.pack("<III", 12345, 11, 8)
    assert data.count(stored) == 1
    path.write_bytes(data.replace(stored, struct.pack("<III", 1 << 24, 11, 8)))
    with pytest.raises(CheckpointError, match="would unfold"):
        open_runs(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("chunks", [[1 << 31], [1 << 62], [0], [-1]])
def test_an_orbax_chunk_larger_than_its_array(chunks: list[int], tmp_path: Path) -> None:
    folder = KINDS["orbax-files"].write(tmp_path / "net_step_4", {"w": np.ones(9)})
    (place,) = folder.glob("params*w/.zarray")
    place.write_text(json.dumps({**json.loads(place.read_text()), "chunks": chunks}))
    with pytest.raises(CheckpointError, match=r"would unfold|cannot be opened"):
        open_runs(folder)


@pytest.mark.parametrize(
    "lines",
    [
        ["a0: &a0 {x: 1}", *(f"a{i}: &a{i} {{p: *a{i - 1}, q: *a{i - 1}}}" for i in range(1, 40))],
        ["a0: &a0 {x: 1}", *(f"a{i}: &a{i}\n  <<: [*a{i - 1}, *a{i - 1}]" for i in range(1, 40))],
        ["config: &c", "  a: *c", "  seed: 3"],
        ["&c", "split: *c"],
        ["seed: !!python/object/apply:os.mkdir [proof]"],
    ],
    ids=["aliases", "merges", "itself", "split", "object"],
)
def test_settings_in_yaml_that_do_harm(
    lines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "step_3.npz", w=np.ones((2, 2)))
    (tmp_path / "config.yaml").write_text("\n".join(lines))
    (series,) = open_runs(tmp_path).values()
    assert any("config.yaml: not read" in notice for notice in series.notices)
    assert not series.config
    assert not (tmp_path / "proof").exists()


def test_settings_in_yaml_may_share(tmp_path: Path) -> None:
    np.savez(tmp_path / "step_3.npz", w=np.ones((2, 2)))
    (tmp_path / "config.yaml").write_text("base: &b {lr: 0.1}\nmodel:\n  <<: *b\n  seed: 4\n")
    (series,) = open_runs(tmp_path).values()
    assert series.config == {"base": {"lr": 0.1}, "model": {"lr": 0.1, "seed": 4}}


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    np.savez(tmp_path / "step_3.npz", w=np.ones((2, 2)))
    os.mkfifo(tmp_path / "step_4.npz")
    os.mkfifo(tmp_path / "config.json")
    (series,) = open_runs(tmp_path).values()
    assert series.steps.tolist() == [3]
