"""Archives of runs: read as the folders they hold, and refused where they are hostile."""

from __future__ import annotations

import gzip
import io
import lzma
import pickle
import random
import shutil
import stat
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest
from checkpoint_makers import KINDS, STATE, npz, pytorch, safetensors
from fuzzing import bounded, damaged, read_all

from geomdiag.checkpoints import open_runs
from geomdiag.checkpoints.formats import archives
from geomdiag.checkpoints.places import archived
from geomdiag.checkpoints.runs import name_of
from geomdiag.errors import CheckpointError


def zipped(folder: Path, path: Path, packing: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", packing) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent))
    return path


def tarred(folder: Path, path: Path) -> Path:
    mode = {".gz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz", ".tgz": "w:gz"}.get(path.suffix, "w")
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        archive.add(folder, folder.name)
    return path


PACKERS: dict[str, Callable[[Path, Path], Path]] = {
    ".zip": zipped,
    ".deflated.zip": lambda folder, path: zipped(folder, path, zipfile.ZIP_DEFLATED),
    **dict.fromkeys((".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".tgz"), tarred),
}


def sweep(folder: Path) -> Path:
    for seed in (0, 1):
        run = folder / f"seed={seed}"
        run.mkdir(parents=True)
        for step in (0, 50):
            safetensors(run / f"step_{step}.safetensors", STATE, seed=seed)
        (run / "config.json").write_text(f'{{"seed": {seed}}}')
        (run / "metrics.csv").write_text("step,train_loss\n0,3.5\n50,0.25\n")
    return folder


@pytest.mark.parametrize("ending", list(PACKERS))
def test_an_archive_is_read_as_its_folder(ending: str, tmp_path: Path) -> None:
    folder = sweep(tmp_path / "runs")
    local = open_runs(folder)
    path = PACKERS[ending](folder, tmp_path / f"packed{ending}")
    shutil.rmtree(folder)  # all comes out of the archive
    (tmp_path / "elsewhere").mkdir()
    runs = open_runs(path)
    assert list(runs) == list(local) == ["seed=0", "seed=1"]
    for name, series in runs.items():
        assert series.steps.tolist() == [0, 50]
        assert series.config == local[name].config
        assert series.coordinates == local[name].coordinates
        assert series.notices == local[name].notices
        assert series.history is not None
        checkpoint = pickle.loads(pickle.dumps(series[1]))
        assert str(checkpoint.path) == f"{path}/runs/{name}/step_50.safetensors"
        np.testing.assert_array_equal(checkpoint.tensors["ids"], STATE["ids"])


@pytest.mark.filterwarnings("ignore")  # the writers' own
@pytest.mark.parametrize("ending", [".zip", ".deflated.zip", ".tar"])
@pytest.mark.parametrize("name", list(KINDS))
def test_every_format_in_an_archive(name: str, ending: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    run = tmp_path / "run"
    run.mkdir()
    kind.write(run / f"net_step_40{kind.suffix}", STATE)
    (local,) = open_runs(run).values()
    (found,) = open_runs(PACKERS[ending](run, tmp_path / f"a{ending}")).values()
    assert found.name == local.name
    assert found.steps.tolist() == local.steps.tolist()
    assert found[0].tensors.specs() == local[0].tensors.specs()
    for tensor in local[0].tensors:
        np.testing.assert_array_equal(found[0].tensors[tensor], local[0].tensors[tensor])
    assert found[0].digest == local[0].digest


@pytest.mark.parametrize("ending", [".zip", ".deflated.zip", ".tar", ".tar.gz"])
def test_an_archive_at_an_address(ending: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for step in (0, 10):
        pytorch(run / f"step_{step}.pt", STATE)
    path = PACKERS[ending](run, tmp_path / f"a{ending}")
    memory = fsspec.filesystem("memory")
    memory.put(str(path), f"/archives/a{ending}")
    try:
        (series,) = open_runs(f"memory://archives/a{ending}").values()
        checkpoint = pickle.loads(pickle.dumps(series[1]))
        np.testing.assert_array_equal(checkpoint.tensors["ids"], STATE["ids"])
        assert series[1].digest == checkpoint.digest
    finally:
        memory.store.clear()


def test_a_folder_inside_is_named_by_a_chained_address(tmp_path: Path) -> None:
    path = zipped(sweep(tmp_path / "runs"), tmp_path / "all.zip")
    runs = open_runs(f"zip://runs/seed=1::{path}")
    assert list(runs) == ["seed=1"]
    with pytest.raises(CheckpointError, match="no such file or folder in the archive"):
        open_runs(f"zip://runs/seed=2::{path}")


def test_files_at_the_top_are_named_after_the_archive(tmp_path: Path) -> None:
    path = tmp_path / "wide.tar"
    with tarfile.open(path, "w") as archive:
        for step in (0, 10):
            file = safetensors(tmp_path / f"step_{step}.safetensors", STATE)
            archive.add(file, f"./{file.name}")
    assert list(open_runs(path)) == ["wide"]


def test_a_file_that_is_a_zip_is_no_archive_of_files(tmp_path: Path) -> None:
    plain = npz(tmp_path / "net.npz", STATE)
    for path in (plain, Path(shutil.copy(plain, tmp_path / "net_step_3.zip"))):
        (series,) = open_runs(path).values()
        assert series.format == "numpy"
        np.testing.assert_array_equal(series[0].tensors["ids"], STATE["ids"])
    torches = pytorch(tmp_path / "x.pt", STATE).rename(tmp_path / "torch_step_3.zip")
    (series,) = open_runs(torches).values()
    assert series.format == "pytorch"


def test_a_zip_of_named_arrays_is_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "dump.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for step in (0, 10):
            file = io.BytesIO()
            np.save(file, np.full((5, 3), step, dtype=np.float32))
            archive.writestr(f"embedding_step_{step}.npy", file.getvalue())
    (series,) = open_runs(path).values()
    assert series.steps.tolist() == [0, 10]
    assert series[1].tensors["embedding"][0, 0] == 10


@pytest.mark.parametrize("first", ["config.json", "data/weights/step_0.safetensors"])
def test_a_first_member_named_like_a_known_format_misleads_nobody(
    first: str, tmp_path: Path
) -> None:
    file = safetensors(tmp_path / "step_0.safetensors", STATE)
    path = tmp_path / "run.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(first, b'{"seed": 1}' if first.endswith("json") else file.read_bytes())
        archive.write(file, "more/step_5.safetensors")
    assert sum(len(series) for series in open_runs(path).values()) >= 1


def test_archives_in_a_folder_are_named_in_a_notice(tmp_path: Path) -> None:
    folder = sweep(tmp_path / "runs")
    zipped(folder / "seed=0", folder / "old.zip")
    runs = open_runs(folder)
    assert list(runs) == ["seed=0", "seed=1"]
    (notice,) = runs.notices
    assert notice.startswith("1 archive(s) such as old.zip are not looked into")
    assert f"geomdiag analyze {folder / 'old.zip'}" in notice


def test_a_folder_of_archives_alone_says_what_to_do(tmp_path: Path) -> None:
    zipped(sweep(tmp_path / "runs"), tmp_path / "old.zip")
    shutil.rmtree(tmp_path / "runs")
    with pytest.raises(CheckpointError, match="or to an archive itself"):
        open_runs(tmp_path)


def test_an_archive_that_changes_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    for value in (1.0, 2.0):
        run = tmp_path / f"run{value}"
        run.mkdir()
        pytorch(run / "step_1.pt", {"w": np.full((2, 3), value)})
        zipped(run, path, zipfile.ZIP_DEFLATED)
        (series,) = open_runs(path).values()
        assert series[0].tensors["w"][0, 0] == value


def test_an_empty_archive_is_told(tmp_path: Path) -> None:
    for path in (tmp_path / "a.zip", tmp_path / "a.tar"):
        (tmp_path / "run").mkdir(exist_ok=True)
        if path.suffix == ".zip":
            zipfile.ZipFile(path, "w").close()
        else:
            tarfile.open(path, "w").close()
        with pytest.raises(CheckpointError, match="there are no checkpoints"):
            open_runs(path)


def test_a_compressed_file_that_is_no_tar_is_told(tmp_path: Path) -> None:
    data = safetensors(tmp_path / "step_1.safetensors", STATE).read_bytes()
    (tmp_path / "x.safetensors.gz").write_bytes(gzip.compress(data))
    with pytest.raises(CheckpointError, match="no tar in it; decompress it first"):
        open_runs(tmp_path / "x.safetensors.gz")


@pytest.mark.parametrize("ending", [".zip", ".deflated.zip", ".tar", ".tar.gz", ".tar.xz"])
def test_a_truncated_archive_is_told(ending: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for step in range(3):
        safetensors(run / f"step_{step}.safetensors", STATE)
    whole = PACKERS[ending](run, tmp_path / f"whole{ending}").read_bytes()
    for tenth in range(1, 10):
        path = tmp_path / f"cut{tenth}{ending}"
        path.write_bytes(whole[: len(whole) * tenth // 10])
        with pytest.raises(CheckpointError, match=path.name):
            open_runs(path)


# --- hostile -----------------------------------------------------------------------------------


def member(name: str, **what: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in what.items():
        setattr(info, key, value)
    return info


OUTSIDE = ["../step_1.pt", "a/../../step_1.pt", "/etc/step_1.pt", "..\\step_1.pt", "C:/step_1.pt"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("ending", [".zip", ".tar"])
def test_names_that_lead_out_are_refused(name: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    if ending == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(zipfile.ZipInfo(name), b"data")
    else:
        with tarfile.open(path, "w") as tar:
            tar.addfile(member(name, size=4), io.BytesIO(b"data"))
    with pytest.raises(CheckpointError, match="lie outside the archive"):
        open_runs(path)


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE],
)
def test_links_and_devices_in_a_tar_are_refused(kind: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        tar.addfile(member("step_1.pt", type=kind, linkname="/etc/passwd"))
    with pytest.raises(CheckpointError, match="a link, a device"):
        open_runs(path)


def test_links_and_secrets_in_a_zip_are_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("step_1.pt")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, b"/etc/passwd")
    with pytest.raises(CheckpointError, match="a link or device"):
        open_runs(tmp_path / "a.zip")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    data[data.index(b"PK\x01\x02") + 38 : data.index(b"PK\x01\x02") + 42] = bytes(4)
    (tmp_path / "b.zip").write_bytes(data)
    with pytest.raises(CheckpointError, match="is encrypted"):
        open_runs(tmp_path / "b.zip")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("names", [("a/x.pt", "a/x.pt"), ("a/x.pt", "a//x.pt"), ("./x.pt", "x.pt")])
@pytest.mark.parametrize("ending", [".zip", ".tar"])
def test_names_that_occur_twice_are_refused(
    names: tuple[str, str], ending: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a{ending}"
    if ending == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, b"data")
    else:
        with tarfile.open(path, "w") as tar:
            for name in names:
                tar.addfile(member(name, size=4), io.BytesIO(b"data"))
    with pytest.raises(CheckpointError, match="twice"):
        open_runs(path)


def test_a_file_that_is_a_folder_too_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x.pt", b"data")
        archive.writestr("x.pt/y.pt", b"data")
    with pytest.raises(CheckpointError, match="both as a file and as a folder"):
        open_runs(tmp_path / "a.zip")


def test_bombs_are_refused_soon(tmp_path: Path) -> None:
    nothing = bytes(1 << 20)
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        archive.addfile(member("step_1.pt", size=66 << 20), _Zeros())
    for name, packed in (
        ("a.tar.gz", gzip.compress(tar.getvalue(), 1)),
        ("a.tar.xz", lzma.compress(tar.getvalue(), preset=0)),
    ):
        (tmp_path / name).write_bytes(packed)
        began = time.perf_counter()
        with pytest.raises(CheckpointError, match="refused as a bomb"):
            open_runs(tmp_path / name)
        assert time.perf_counter() - began < 10
    with (
        zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed_,
        packed_.open("step_1.safetensors", "w") as file,
    ):
        for _ in range(66):
            file.write(nothing)
    with pytest.raises(CheckpointError, match="refused as a zip bomb"):
        open_runs(tmp_path / "a.zip")


class _Zeros(io.RawIOBase):
    def read(self, size: int = -1) -> bytes:
        return bytes(size)


def test_a_sparse_member_and_one_beyond_the_end_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    info = member("step_1.pt", type=tarfile.GNUTYPE_SPARSE)
    header = info.tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(header + bytes(1024))
    with pytest.raises(CheckpointError, match="sparse"):
        open_runs(path)
    path.write_bytes(member("step_1.pt", size=1 << 40).tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(CheckpointError, match="truncated"):
        open_runs(path)


def test_a_table_of_contents_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(40):
            archive.writestr(f"run/step_{number}.txt", b"")
    monkeypatch.setattr(archives, "_CONTENTS", 2000)
    with pytest.raises(CheckpointError, match="table of contents has"):
        open_runs(tmp_path / "a.zip")
    monkeypatch.undo()
    monkeypatch.setattr(archived, "_MOST", 39)
    with pytest.raises(CheckpointError, match="more than 39 members"):
        open_runs(tmp_path / "a.zip")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory on Linux")
@pytest.mark.parametrize("ending", [".zip", ".deflated.zip", ".tar", ".tar.gz"])
def test_a_damaged_archive_is_read_or_refused(ending: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    safetensors(run / "step_0.safetensors", STATE)
    pytorch(run / "step_1.pt", STATE)
    whole = PACKERS[ending](run, tmp_path / f"whole{ending}").read_bytes()
    seen = set()
    for seed in range(60):
        path = tmp_path / f"damaged{ending}"
        path.write_bytes(damaged(whole, random.Random(seed)))
        with bounded():
            seen.add(read_all(path))
    assert "refused" in seen


def test_nothing_is_written_under_a_member_s_name(tmp_path: Path) -> None:
    """Names that are odd, though they stay inside, are copied under plain ones."""
    data = pytorch(tmp_path / "x.pt", STATE).read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("run/step_1:x|y.pt", data)
    (series,) = open_runs(tmp_path / "a.zip").values()
    np.testing.assert_array_equal(series[0].tensors["ids"], STATE["ids"])


# --- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("s3://bucket/sweep/run-1.5/", "run-1.5"),
        ("https://host/a/run.tar.gz?token=x/y", "run"),
        ("https://host/model_step_5.safetensors", "model_step_5"),
        ("zip://seed=0::https://host/all.zip", "all"),
        ("s3://bucket", "bucket"),
        ("runs.tar.bz2", "runs"),
    ],
)
def test_what_a_result_is_called(
    value: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs.tar.bz2").touch()
    assert name_of(value) == name
