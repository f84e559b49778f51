"""TensorFlow checkpoints: those kept in ``tensorflow_files/``, and fresh ones where it is there."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ml_types
import numpy as np
import pytest
from tensorflow_maker import STEPS, values

from geomdiag.checkpoints import Series, open_runs
from geomdiag.checkpoints.formats import tensorflow as format_
from geomdiag.errors import CheckpointError

HERE = Path(__file__).parent


@pytest.fixture(scope="module", params=["kept", "fresh"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What tensorflow_maker wrote; only for reading."""
    if request.param == "kept":
        return HERE / "tensorflow_files"
    if not all(map(importlib.util.find_spec, ("tensorflow", "tf_keras"))):
        pytest.skip("tensorflow or tf_keras is not installed")
    folder = tmp_path_factory.mktemp("fresh")
    command = [sys.executable, str(HERE / "tensorflow_maker.py"), str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return folder


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """One checkpoint that a test may spoil: its index."""
    for file in (HERE / "tensorflow_files" / "manager").glob("ckpt-2.*"):
        shutil.copy(file, tmp_path)
    return tmp_path / "ckpt-2.index"


def only(path: Path) -> Series:
    (series,) = open_runs(path).values()
    assert series.format == "tensorflow"
    return series


def test_checkpoints_of_objects(written: Path) -> None:
    series = only(written / "manager")
    assert series.steps.tolist() == list(STEPS)  # not 1, 2, 3, which count the saves
    assert {each.step_source for each in series} == {"metadata"}
    assert series.unit == "step"
    for checkpoint, step in zip(series, STEPS, strict=True):
        expected = {
            "embed": values(5, 3, shift=step),
            "layers.0": values(3, 2),
            "layers.1": values(2, shift=0.5),
            "half": values(4),
            "odd.name/x": values(2),
        }
        assert set(checkpoint.tensors) == set(expected)  # no slots, counters or text
        for name, value in expected.items():
            found = checkpoint.tensors[name]
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, value)
        assert checkpoint.tensors.spec("half").dtype == "bfloat16"
    (told,) = series.notices
    assert told.startswith("ckpt-1.index and 2 other(s): ")
    assert "'model/words' are left out: text" in told


def test_a_checkpoint_as_tensorflow_names_it(written: Path) -> None:
    series = only(written / "manager" / "ckpt-2")
    assert series.steps.tolist() == [250]
    with pytest.raises(CheckpointError, match="no such file"):
        open_runs(written / "manager" / "ckpt-20")


def test_a_saved_model_by_its_folder(written: Path) -> None:
    for path in ("exported", "exported/variables", "exported/variables/variables.index"):
        series = only(written / path)
        assert len(series) == 1
        np.testing.assert_array_equal(series[0].tensors["layers.0"], values(3, 2))
    assert only(written / "exported").name == "exported"


def test_a_series_of_saved_models(tmp_path: Path) -> None:
    for step in (5, 30):
        target = tmp_path / "runs" / f"step_{step}"
        shutil.copytree(HERE / "tensorflow_files" / "exported", target)
    changed = values(3, 2)[::-1].tobytes()
    data = target / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes().replace(values(3, 2).tobytes(), changed))
    series = only(tmp_path / "runs")
    assert series.steps.tolist() == [5, 30]


def test_checkpoints_by_name(written: Path) -> None:
    series = only(written / "saver")
    assert series.steps.tolist() == [31]
    assert series[0].step_source == "metadata"
    assert list(series[0].tensors) == ["dense.kernel"]  # without Adam's slots and powers
    np.testing.assert_array_equal(series[0].tensors["dense.kernel"], values(3, 2))
    (notice,) = series.notices
    assert "'parted' are left out: stored in slices" in notice


def test_several_data_files(written: Path) -> None:
    series = only(written / "two_files")
    assert series.steps.tolist() == [70]
    assert list(series[0].tensors) == ["a.kernel", "b.kernel"]
    np.testing.assert_array_equal(series[0].tensors["a.kernel"], values(3, 2))
    np.testing.assert_array_equal(series[0].tensors["b.kernel"], values(2, 4))


def test_weights_of_keras_2(written: Path) -> None:
    series = only(written / "keras")
    assert series.steps.tolist() == [12]  # Keras' count of updates
    expected = {
        "layer_with_weights-0.embeddings": values(7, 4),
        "layer_with_weights-1.bias": values(7),
        "layer_with_weights-1.kernel": values(8, 7),
    }
    assert set(series[0].tensors) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(series[0].tensors[name], value)


def test_a_step_that_is_never_counted(tmp_path: Path) -> None:
    for number in (1, 2):  # the state of one step under two numbers, then changed
        for kind in ("index", "data-00000-of-00001"):
            source = HERE / "tensorflow_files" / "manager" / f"ckpt-1.{kind}"
            shutil.copy(source, tmp_path / f"ckpt-{number}.{kind}")
    series = only(tmp_path)
    assert len(series) == 1  # the same twice
    data = tmp_path / "ckpt-2.data-00000-of-00001"
    changed = values(3, 2)[::-1].tobytes()
    data.write_bytes(data.read_bytes().replace(values(3, 2).tobytes(), changed))
    series = only(tmp_path)
    assert series.steps.tolist() == [1, 2]
    assert any("store the same step (100) and differ" in notice for notice in series.notices)


def test_the_checksum_is_that_of_the_standard() -> None:
    # RFC 3720, B.4: the CRC-32C of 32 bytes of zeros, of ones, and of 0, 1, 2, ...
    for data, crc in (
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ):
        masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
        assert format_.masked_crc(data) == masked


# --- damaged and hostile files -----------------------------------------------------------------


def test_a_missing_data_file(copy: Path) -> None:
    (copy.parent / "ckpt-2.data-00000-of-00001").unlink()
    with pytest.raises(CheckpointError, match=r"'ckpt-2\.data-00000-of-00001', which is missing"):
        open_runs(copy)


def test_a_truncated_data_file(copy: Path) -> None:
    data = copy.parent / "ckpt-2.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        open_runs(copy)


def test_every_flipped_byte_of_the_index_is_told(copy: Path) -> None:
    whole = copy.read_bytes()
    footer = len(whole) - 48
    for at in [
        *range(0, footer, 7),
        *range(footer, footer + 6),
        *range(len(whole) - 8, len(whole)),
    ]:
        spoilt = bytearray(whole)
        spoilt[at] ^= 0x15
        copy.write_bytes(spoilt)
        try:
            series = only(copy)
        except CheckpointError:
            continue
        # The block that describes the table itself is of no use to us, nor is its place.
        described = _blocks(whole)
        assert not any(start <= at < stop for start, stop in described), at
        assert series.steps.tolist() == [250]


def _blocks(whole: bytes) -> list[tuple[int, int]]:
    """Return where the blocks that hold names lie, checksums included."""
    table = format_._Table(Path("x"), whole)
    _, at = table._handle(len(whole) - 48, len(whole) - 8)
    index, _ = table._handle(at, len(whole) - 8)
    held = [index, *(table._handle(a, b)[0] for _, a, b in table._block(*index))]
    return [(offset, offset + size + 5) for offset, size in held]


def _index(entries: list[tuple[bytes, bytes]], *, kind: int = 0, restarts: int = 1) -> bytes:
    """Return an index that no TensorFlow would write."""

    def varint(number: int) -> bytes:
        out = b""
        while number > 0x7F:
            out += bytes([number & 0x7F | 0x80])
            number >>= 7
        return out + bytes([number])

    def block(held: list[tuple[bytes, bytes]], kind: int = 0) -> bytes:
        body = b"".join(b"\0" + varint(len(k)) + varint(len(v)) + k + v for k, v in held)
        body += bytes(4) + restarts.to_bytes(4, "little") + bytes([kind])
        return body + format_.masked_crc(body).to_bytes(4, "little")

    data = block(entries, kind)
    place = varint(0) + varint(len(data) - 5)
    index = block([(b"~", place)])
    footer = varint(0) * 2 + varint(len(data)) + varint(len(index) - 5)
    return data + index + footer.ljust(40, b"\0") + format_.MAGIC


HEADER = (b"", b"\x08\x01")
#: float32, shape (2, 3), 24 bytes at 0
ENTRY = b"\x08\x01\x12\x08\x12\x02\x08\x02\x12\x02\x08\x03\x28\x18"


def entry(shape: bytes = ENTRY[2:12], dtype: int = 1, rest: bytes = b"\x28\x18") -> bytes:
    return bytes([0x08, dtype]) + shape + rest


#: Case to what makes the index, and what is said of it.
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "no header": (lambda: _index([(b"w", ENTRY)]), "does not say how many data files|data file 0"),
    "other byte order": (lambda: _index([(b"", b"\x08\x01\x10\x01")]), "other byte order"),
    "no shards": (lambda: _index([(b"", b"\x08\x00")]), "0 data files"),
    "many shards": (lambda: _index([(b"", b"\x08\xff\xff\xff\xff\x0f")]), "4294967295 data files"),
    "shard outside": (
        lambda: _index([HEADER, (b"w", entry(rest=b"\x18\x07\x28\x18"))]),
        "data file 7 of 1",
    ),
    "twice": (lambda: _index([HEADER, (b"w", ENTRY), (b"w", ENTRY)]), "occur twice"),
    "out of order": (lambda: _index([HEADER, (b"w", ENTRY), (b"a", ENTRY)]), "out of order"),
    "compressed": (lambda: _index([HEADER, (b"w", ENTRY)], kind=1), "compressed"),
    "restarts": (lambda: _index([HEADER], restarts=1 << 30), "restarts"),
    "wrong size": (lambda: _index([HEADER, (b"w", entry(rest=b"\x28\x10"))]), "takes 24 bytes"),
    "beyond the file": (
        lambda: _index([HEADER, (b"w", entry(rest=b"\x20\xff\x7f\x28\x18"))]),
        "truncated or damaged",
    ),
    "negative": (
        lambda: _index([HEADER, (b"w", entry(b"\x12\x0d\x12\x0b\x08" + b"\xff" * 9 + b"\x01"))]),
        "a shape of",
    ),
    "huge": (
        lambda: _index([HEADER, (b"w", entry(b"\x12\x08\x12\x06\x08" + b"\xff" * 4 + b"\x07"))]),
        "needs 8589934588 bytes",
    ),
    "no utf-8": (lambda: _index([HEADER, (b"\xff\xfe", ENTRY)]), "utf-8"),
    "nothing": (lambda: _index([HEADER]), "no variables of a network"),
}


def test_the_hand_made_index_is_one(copy: Path) -> None:
    copy.write_bytes(_index([HEADER, (b"w", ENTRY)]))
    assert only(copy)[0].tensors["w"].shape == (2, 3)


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_indexes(case: str, copy: Path) -> None:
    make, message = HOSTILE[case]
    copy.write_bytes(make())
    with pytest.raises(CheckpointError, match=message):
        open_runs(copy)


def test_a_huge_index_is_not_read(copy: Path) -> None:
    with copy.open("r+b") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(CheckpointError, match="larger than 8 MiB"):
        open_runs(copy)


def test_other_files_of_that_name_are_no_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "faiss.index").write_bytes(b"IxFI" + bytes(100))
    np.savez(tmp_path / "step_1.npz", **{"w": np.ones((2, 2))})
    (series,) = open_runs(tmp_path).values()
    assert series.format == "numpy"


def test_reading_imports_no_tensorflow() -> None:
    call = (
        "import sys; from geomdiag.checkpoints import open_runs; "
        f"(series,) = open_runs({str(HERE / 'tensorflow_files' / 'manager')!r}).values(); "
        "assert series[0].tensors['embed'].size == 15; "
        "assert not {'tensorflow', 'google.protobuf'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", call], check=True, timeout=60)


def test_types_are_all_known() -> None:
    assert set(format_._TYPES.values()) >= {*ml_types.TYPES} - {
        "float8_e4m3fnuz",
        "float8_e5m2fnuz",
    }
