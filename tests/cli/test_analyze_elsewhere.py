"""`geomdiag analyze` and `inspect` on runs at addresses and in archives."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.range_server import serving
from typer.testing import Result

from geomdiag import store

Command = Callable[..., Result]
Process = Callable[..., subprocess.CompletedProcess[str]]

QUICK = ("--task", "modadd", "--analyzers", "fit,dimension")


@pytest.fixture
def local(geomdiag: Command, trained: Path) -> Path:
    """The result of the run where it lies."""
    assert geomdiag("analyze", trained / "seed=0", *QUICK, "--out", "local.zarr").exit_code == 0
    return Path("local.zarr")


def identical(one: Path | str, two: Path | str) -> bool:
    first, second = store.load(one), store.load(two)
    pairs = zip(first.children.items(), second.children.items(), strict=True)
    return all(
        a == b and left.to_dataset().identical(right.to_dataset())
        for (a, left), (b, right) in pairs
    )


def test_an_address_gives_the_same_result_and_goes_on(
    geomdiag: Command, trained: Path, local: Path
) -> None:
    pytest.importorskip("aiohttp")
    with serving(trained.parent) as served:
        address = f"{served.address}/{trained.name}/seed=0"
        done = geomdiag("analyze", address, *QUICK)
        assert done.exit_code == 0, done.stderr
        assert "result: seed=0.geomdiag.zarr" in done.stdout
        assert identical("seed=0.geomdiag.zarr", local)
        again = geomdiag("analyze", address, *QUICK)
        assert again.exit_code == 0
        assert identical("seed=0.geomdiag.zarr", local)
        assert "http" not in json.dumps(store.load("seed=0.geomdiag.zarr")["seed=0"].attrs)


def test_a_finished_step_is_not_computed_again(
    geomdiag: Command, trained: Path, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("aiohttp")
    from geomdiag.analysis import run

    def never(*_: object) -> None:
        raise AssertionError("a finished step was measured again")

    monkeypatch.setattr(run, "measure", never)
    with serving(trained.parent) as served:
        address = f"{served.address}/{trained.name}/seed=0"
        done = geomdiag("analyze", address, *QUICK, "--out", local)
    assert done.exit_code == 0


@pytest.mark.parametrize("ending", [".zip", ".tar.gz"])
def test_an_archive_gives_the_same_result(
    ending: str, geomdiag: Command, trained: Path, local: Path
) -> None:
    path = Path(f"packed{ending}")
    if ending == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in (trained / "seed=0").rglob("*"):
                archive.write(file, file.relative_to(trained))
    else:
        with tarfile.open(path, "w:gz") as tar:
            tar.add(trained / "seed=0", "seed=0")
    done = geomdiag("analyze", path, *QUICK)
    assert done.exit_code == 0, done.stderr
    assert "result: packed.geomdiag.zarr" in done.stdout
    assert identical("packed.geomdiag.zarr", local)


def test_a_broken_checkpoint_in_an_archive_is_named_as_it_lies_there(
    geomdiag: Command, runs: Path
) -> None:
    run = runs / "seed=0"
    broken = sorted(run.rglob("*.safetensors"))[1]
    broken.write_bytes(broken.read_bytes()[:60])
    with tarfile.open("packed.tar.gz", "w:gz") as tar:
        tar.add(run, "seed=0")
    shutil.rmtree(runs)
    done = geomdiag("analyze", "packed.tar.gz", *QUICK)
    assert done.exit_code == 3
    (node,) = store.load("packed.geomdiag.zarr").children.values()
    errors = [str(error) for error in node["error"].values if error]
    assert len(errors) == 1
    assert broken.name in errors[0]
    assert "geomdiag-" not in errors[0]  # no name of this machine's temporary files


def test_inspect_at_an_address(geomdiag: Command, trained: Path) -> None:
    pytest.importorskip("aiohttp")
    with serving(trained.parent) as served:
        done = geomdiag("inspect", f"{served.address}/{trained.name}", "--json", "--no-measure")
        assert done.exit_code == 0, done.stderr
        told = json.loads(done.stdout)["runs"]
        assert [one["run"] for one in told] == ["seed=0", "seed=1"]
        assert told[0]["path"] == f"{served.address}/{trained.name}/seed=0"


def test_what_cannot_be_reached_ends_with_one_message(geomdiag: Command) -> None:
    done = geomdiag("analyze", "nosuch://bucket/run", *QUICK)
    assert done.exit_code == 2
    assert done.stderr.startswith("Error: nosuch://bucket/run: this address cannot be opened")
    assert not list(Path().iterdir())


@pytest.mark.slow
def test_workers_share_the_copies(process: Process, trained: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "packed.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in trained.rglob("*"):
            archive.write(file, file.relative_to(trained))
    for workers, out in ((1, "one.zarr"), (2, "two.zarr")):
        done = process("analyze", "packed.zip", *QUICK, "--workers", workers, "--out", out)
        assert done.returncode == 0, done.stderr
    assert identical(tmp_path / "one.zarr", tmp_path / "two.zarr")
