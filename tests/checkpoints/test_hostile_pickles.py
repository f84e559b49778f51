"""Pickles that call nothing and do harm all the same: forged types, bombs, programs, tars."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geomdiag.checkpoints import open_runs
from geomdiag.checkpoints.formats.inert import CalledError, read_inert
from geomdiag.checkpoints.formats.pickles import read_restricted
from geomdiag.checkpoints.formats.unfolding import Unfolding
from geomdiag.errors import CheckpointError, UnsafeCheckpointError

#: An object of a class that is not there, so that torch itself refuses the file.
STRANGER = b"cgone\nConfig\n)\x81"
WEIGHT = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQK\x00K\x02K\x03\x86K\x03K\x01\x86\x89"
    b"ccollections\nOrderedDict\n)RtR"
)
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
OBJECTS = b"cnumpy\ndtype\n(U\x01O\x89\x88tR"
#: Records of a pointer, with the flag taken off that says so.
FORGED = (
    b"cnumpy\ndtype\n(U\x02V8\x89\x88tR(K\x03U\x01|N(U\x01ft}(U\x01f(" + OBJECTS + b"K\x00tuK\x08"
    b"K\x01K\x00tb"
)
MANY = b"J\x00\x84\xd7\x17"  # 4·10⁸


def mapping(**items: bytes) -> bytes:
    """A pickled dict of pickled values."""
    pairs = (b"U" + bytes([len(key)]) + key.encode() + value for key, value in items.items())
    return b"}(" + b"".join(pairs) + b"u"


def doubled(first: bytes, again: bytes) -> bytes:
    """Sixty containers, each holding the one before twice (where ``again`` says ``@``)."""
    text = first + b"q\x00"
    for i in range(1, 60):
        text += b"0" + again.replace(b"@", b"h" + bytes([i - 1])) + b"q" + bytes([i])
    return text


def module(children: bytes) -> bytes:
    """A pickled module of a class that is not there."""
    state = mapping(_parameters=mapping(w=WEIGHT), _buffers=b"}", _modules=children)
    return b"cgone\nNet\n)\x81" + state + b"b"


def write(path: Path, body: bytes, **members: bytes) -> Path:
    """Write a torch.save file around a pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + body + b".")
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/data/0", np.arange(6, dtype="<f4").tobytes())
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_the_files_below_are_read_where_nothing_is_wrong(tmp_path: Path) -> None:
    body = mapping(model=mapping(w=WEIGHT), x=STRANGER, losses=ARRAY)
    (series,) = open_runs(write(tmp_path / "step_7.pt", body)).values()
    np.testing.assert_array_equal(series[0].tensors["w"], np.arange(6).reshape(2, 3))


@pytest.mark.parametrize("name", ["train_losses", "train_indices", "train_loss"])
@pytest.mark.parametrize(
    "value",
    [
        b"cnumpy.core.multiarray\nscalar\n(" + FORGED + b"c_codecs\nencode\n(U\x08AAAAAAAA"
        b"U\x06latin1tRtR",
        ARRAY + b"(K\x01(K\x01t" + FORGED + b"\x89c_codecs\nencode\n(U\x08AAAAAAAAU\x06latin1tRtb",
        ARRAY + b"(K\x01(K\x01t" + OBJECTS + b"\x89c_codecs\nencode\n(U\x08AAAAAAAAU\x06latin1tRtb",
        ARRAY + b"(K\x01(" + MANY + b"t" + OBJECTS + b"\x89]tb",
        b"cnumpy\nndarray\n((" + MANY + b"tU\x01OtR",
    ],
    ids=["number", "records", "objects", "too-many", "ndarray"],
)
def test_forged_arrays_are_refused(value: bytes, name: str, tmp_path: Path) -> None:
    """NumPy would take the file's bytes for pointers, or fill gigabytes; a crash fails, too."""
    body = mapping(model=mapping(w=WEIGHT), x=STRANGER, **{name: value})
    with pytest.raises(CheckpointError):
        open_runs(write(tmp_path / "model.pt", body))


def test_an_array_takes_no_more_than_it_has(tmp_path: Path) -> None:
    huge = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + MANY + b"tU\x01OtR"
    held = read_inert(write(tmp_path / "model.pt", mapping(y=huge)), zipped=True)
    assert held["y"].size == 0


@pytest.mark.parametrize(
    "value",
    [
        np.arange(6, dtype=">f4").reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([True, False]),
        np.array([1 + 2j], dtype=np.complex64),
        np.array(["ab", "c"]),
        np.array([[1, "a"], [None, 2.5]], dtype=object),
        np.float16(1.5),
        np.int64(-3),
        np.bool_(True),
        np.zeros((0, 4), dtype=np.uint8),
    ],
    ids=lambda value: f"{value.dtype}{value.shape}",
)
def test_honest_arrays_come_as_they_were(value: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"y": value}, path)
    found = read_inert(path, zipped=True)["y"]
    assert found.dtype == value.dtype.newbyteorder("=")  # NumPy turns the bytes round
    assert found.shape == value.shape
    np.testing.assert_array_equal(found, value)


@pytest.mark.parametrize(
    "body",
    [
        mapping(model=doubled(mapping(w=WEIGHT), mapping(a=b"@", b=b"@"))),
        mapping(model=b"}q\x00(U\x01ah\x00U\x01w" + WEIGHT + b"u"),
        doubled(module(b"}"), module(mapping(a=b"@", b=b"@"))),
    ],
    ids=["dicts", "itself", "modules"],
)
def test_weights_that_unfold_without_end_are_refused(
    body: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Unfolding.__init__, "__defaults__", (50_000,))  # a second, not ten
    path = write(tmp_path / "model.pt", body)
    with pytest.raises(CheckpointError, match=r"model\.pt: .*(unfolds to more|100 deep)"):
        open_runs(path)


@pytest.mark.parametrize("name", ["config", "train_indices", "train_losses"])
def test_lists_that_unfold_without_end_are_left_out(name: str, tmp_path: Path) -> None:
    bomb = doubled(b"](K\x01K\x01e", b"](@@e")
    body = mapping(model=mapping(w=WEIGHT), **{name: mapping(a=bomb) if name == "config" else bomb})
    (series,) = open_runs(write(tmp_path / "model.pt", body)).values()
    assert list(series[0].tensors) == ["w"]
    assert series.split is None


@pytest.mark.filterwarnings("ignore:'torch.load' received a zip file")
def test_a_program_is_not_loaded_however_it_is_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("it was loaded"))
    constants = pickle.dumps((), 2)
    twice = {"archive/constants.pkl": constants, "archive/more/constants.pkl": constants}
    path = write(tmp_path / "model.pt", mapping(model=mapping(w=WEIGHT), x=STRANGER), **twice)
    with pytest.raises(CalledError, match="TorchScript"):
        read_inert(path, zipped=True)
    with pytest.raises(UnsafeCheckpointError, match="TorchScript"):
        open_runs(path)


def test_a_tar_in_disguise_is_not_unpacked(tmp_path: Path) -> None:
    """Torch's oldest files are tars, of which it unpacks members, links and modes included."""
    name = (b"\x80\x02cgone\nConfig\n0\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.").decode("latin1")
    path, target = tmp_path / "model.pt", tmp_path / "target"
    target.write_bytes(b"mine")
    target.chmod(0o600)
    with tarfile.open(path, "w", encoding="latin1", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo(name), io.BytesIO())
        link = tarfile.TarInfo("storages")
        link.type, link.linkname, link.mode = tarfile.LNKTYPE, f"../../../../{target}", 0o666
        archive.addfile(link)
    with pytest.raises(KeyError):  # no pickle after the first
        read_inert(path, zipped=False)
    with pytest.raises(CheckpointError):
        open_runs(path)
    assert (target.stat().st_mode & 0o777, target.stat().st_nlink) == (0o600, 1)


def test_a_program_that_unfolds_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Unfolding.__init__, "__defaults__", (50_000,))
    path = tmp_path / "model.pt"
    bomb = doubled(mapping(a=b"K\x01"), mapping(a=b"@", b=b"@"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data/0", bytes(24))
        archive.writestr("model/data.pkl", b"\x80\x02" + bomb + b".")
        archive.writestr("model/constants.pkl", pickle.dumps((), 2))
        archive.writestr("model/code/__torch__.py", "")
    with pytest.raises(CheckpointError, match=r"model\.pt: .*unfolds to more"):
        open_runs(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_bytearray_is_not_made_as_long_as_it_says(zipped: bool, tmp_path: Path) -> None:
    body = b"\x96" + (1 << 45).to_bytes(8, "little")  # more than any machine has
    path = tmp_path / "model.pt"
    if zipped:
        write(path, body)
    else:
        head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {})]
        path.write_bytes(b"".join(head) + b"\x80\x02" + body + b".")
    with pytest.raises(CalledError, match="bytearray"):
        read_inert(path, zipped)
    with pytest.raises(CheckpointError, match="it holds a bytearray"):
        read_restricted(path, b"\x80\x05" + body + b".", dict[str, Any]().__getitem__)


def test_settings_with_data_among_them_cost_only_themselves(tmp_path: Path) -> None:
    path = tmp_path / "step_3.pt"
    large = {str(i): i for i in range(100_001)}
    torch.save({"model": {"w": torch.ones(2, 2)}, "config": large, "args": {"seed": 4}}, path)
    (series,) = open_runs(path).values()
    assert series.config == {"seed": 4}
    assert any("'config' are left out" in notice for notice in series.notices)
