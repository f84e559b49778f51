"""`TensorMap.rows`: the same numbers as indexing the whole, and only their bytes."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from geomdiag.checkpoints import TensorMap, open_runs
from geomdiag.errors import CheckpointError

State = Mapping[str, np.ndarray]
STATE = {
    "embed.weight": np.arange(60, dtype=np.float32).reshape(12, 5) / 7,
    "bias": np.linspace(-1, 1, 9),
    "mask": np.tril(np.ones((3, 3), dtype=bool)),
    "heads": np.arange(48, dtype=np.int64).reshape(4, 3, 4),
    "halves": np.array([[0.5, -2.0]], dtype=np.float16),
    "gain": np.array(2.5, dtype=np.float32),
}


def pytorch(path: Path, state: State) -> None:
    torch.save({name: torch.from_numpy(value) for name, value in state.items()}, path)


def legacy(path: Path, state: State) -> None:
    held = {name: torch.from_numpy(value) for name, value in state.items()}
    torch.save(held, path, _use_new_zipfile_serialization=False)


def exported(path: Path, state: State) -> None:
    class Holder(torch.nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs * 2

    holder = Holder()
    for name, value in state.items():
        holder.register_buffer(name.replace(".", "_"), torch.from_numpy(value))
    program = torch.export.export(holder, (torch.zeros(2, 3),))
    torch.export.save(program, path)


def hdf5(path: Path, state: State) -> None:
    with pytest.importorskip("h5py").File(path, "w") as file:
        for name, value in state.items():
            file.create_dataset(name, data=value)


def flax(path: Path, state: State) -> None:
    serialization = pytest.importorskip("flax.serialization", exc_type=ImportError)
    path.write_bytes(serialization.msgpack_serialize({"params": dict(state)}))


#: suffix and writer
WRITERS: dict[str, tuple[str, Callable[[Path, State], None]]] = {
    "pytorch": (".pt", pytorch),
    "pytorch-legacy": (".pth", legacy),
    "safetensors": (".safetensors", lambda path, state: save_file(dict(state), path)),
    "numpy": (".npz", lambda path, state: np.savez(path, **state)),
    "torch-export": (".pt2", exported),
    "hdf5": (".h5", hdf5),
    "flax": (".msgpack", flax),
}
INDICES = ([3, 0, 3, 11], [5], [2, 3, 4, 9, 1], [])


def written(kind: str, folder: Path, state: State = STATE) -> TensorMap:
    suffix, write = WRITERS[kind]
    path = folder / f"net_step_1{suffix}"
    write(path, state)
    return tensors_of(path)


def tensors_of(path: Path) -> TensorMap:
    (series,) = open_runs(path).values()
    return series[0].tensors


@pytest.mark.parametrize("kind", list(WRITERS))
def test_rows_are_those_of_the_whole(kind: str, tmp_path: Path) -> None:
    tensors = written(kind, tmp_path)
    for stored, whole in STATE.items():
        name = stored if stored in tensors else stored.replace(".", "_")
        for indices in INDICES:
            wanted = [index for index in indices if whole.ndim and index < len(whole)]
            if not whole.ndim:
                continue
            found = tensors.rows(name, wanted)
            assert found.dtype == whole.dtype
            np.testing.assert_array_equal(found, whole[np.array(wanted, dtype=int)])
    with pytest.raises(KeyError):
        tensors.rows("absent", [0])


@pytest.mark.parametrize("kind", list(WRITERS))
@pytest.mark.parametrize(
    ("name", "indices", "message"),
    [
        ("embed.weight", [0, 12], r"'embed[._]weight' of shape \(12, 5\) has no row 12"),
        ("embed.weight", [-1], "has no row -1: rows go from 0 to 11"),
        ("embed.weight", [0.5], "float64 of shape"),
        ("embed.weight", [[1]], r"shape \(1, 1\)"),
        ("gain", [0], "at least one axis"),
    ],
)
def test_rows_that_are_not_there_are_told(
    kind: str, name: str, indices: list[int], message: str, tmp_path: Path
) -> None:
    tensors = written(kind, tmp_path)
    name = name if name in tensors else name.replace(".", "_")
    with pytest.raises(CheckpointError, match=message):
        tensors.rows(name, indices)


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float16, torch.float64]
)
def test_types_that_numpy_lacks_are_widened(dtype: torch.dtype, tmp_path: Path) -> None:
    from safetensors import torch as safetensors

    whole = torch.arange(40).reshape(10, 2, 2).to(dtype)
    safetensors.save_file({"w": whole}, tmp_path / "a_step_1.safetensors")
    torch.save({"w": whole}, tmp_path / "b_step_1.pt")
    for path in sorted(tmp_path.iterdir()):
        tensors = tensors_of(path)
        found = tensors.rows("w", [7, 2])
        np.testing.assert_array_equal(found, tensors["w"][[7, 2]])
        assert found.dtype == tensors["w"].dtype
        assert found.any()


def test_arrays_by_columns_and_compressed_ones(tmp_path: Path) -> None:
    whole = np.arange(60.0).reshape(12, 5)
    np.savez(tmp_path / "columns_step_1.npz", w=np.asfortranarray(whole))
    np.savez_compressed(tmp_path / "packed_step_1.npz", w=whole)
    np.savez(tmp_path / "big_step_1.npz", w=whole.astype(">f8"))
    for path in sorted(tmp_path.iterdir()):
        np.testing.assert_array_equal(tensors_of(path).rows("w", [9, 9, 1]), whole[[9, 9, 1]])


def test_a_file_that_shrank_is_told(tmp_path: Path) -> None:
    tensors = written("safetensors", tmp_path)
    path = tmp_path / "net_step_1.safetensors"
    os.truncate(path, path.stat().st_size // 4)
    with pytest.raises(CheckpointError, match="ends inside"):
        tensors.rows("embed.weight", [11])


# --- what it costs ------------------------------------------------------------------------------


def sparse_language_model(path: Path, rows: int, width: int, written: dict[int, bytes]) -> Path:
    """Write a safetensors file of which almost all is a hole of the disk."""
    size = rows * width * 4
    header = json.dumps(
        {"wte.weight": {"dtype": "F32", "shape": [rows, width], "data_offsets": [0, size]}}
    ).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for row, data in written.items():
            file.seek(8 + len(header) + row * width * 4)
            file.write(data)
        file.truncate(8 + len(header) + size)
    return path


def bytes_read() -> int:
    counts = Path("/proc/self/io").read_text(encoding="ascii").split()
    return int(counts[counts.index("rchar:") + 1])


def resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/io").exists(), reason="the system does not count what is read"
)


@needs_proc
def test_twelve_rows_of_four_gigabytes(tmp_path: Path) -> None:
    width, rows = 4096, 262_144  # 4 GiB
    values = np.random.default_rng(0).standard_normal((12, width)).astype(np.float32)
    tokens = [7, 200_000, 262_143, 11, 12, 13, 0, 99_999, 131_072, 5, 6, 260_000]
    written = {token: row.tobytes() for token, row in zip(tokens, values, strict=True)}
    path = sparse_language_model(tmp_path / "lm_step_1.safetensors", rows, width, written)
    assert path.stat().st_size > 4 << 30
    if path.stat().st_blocks * 512 > 64 << 20:
        pytest.skip("this file system keeps no holes")
    before, memory = bytes_read(), resident()
    found = tensors_of(path).rows("wte.weight", tokens)
    cost, grown = bytes_read() - before, resident() - memory
    np.testing.assert_array_equal(found, values)
    assert values.nbytes <= cost < 1 << 20
    assert grown < 16 << 20


@needs_proc
def test_rows_of_a_mapped_file_touch_only_their_pages(tmp_path: Path) -> None:
    whole = np.ones((4096, 4096), dtype=np.float32)  # 64 MiB
    tensors = written("pytorch", tmp_path, {"w": whole})
    tensors.rows("w", [1])
    before = resident()
    rows = tensors.rows("w", [4000, 17, 2000])
    grown = resident() - before
    assert rows.shape == (3, 4096)
    assert grown < 8 << 20
    kept = tensors["w"]
    assert kept.nbytes < resident() - before  # the measure does see what is read


@needs_proc
@pytest.mark.parametrize("kind", ["numpy", "torch-export", "hdf5", "flax"])
def test_rows_of_plain_bytes_are_all_that_is_read(kind: str, tmp_path: Path) -> None:
    whole = np.random.default_rng(0).standard_normal((8192, 256)).astype(np.float32)  # 8 MiB
    tensors = written(kind, tmp_path, {"w": whole})
    tensors.rows("w", [0])
    before = bytes_read()
    found = tensors.rows("w", [8000, 3])
    assert bytes_read() - before < 1 << 20
    np.testing.assert_array_equal(found, whole[[8000, 3]])
