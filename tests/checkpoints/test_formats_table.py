"""What `geomdiag formats` says of each format is true: extra, lazy, runs by itself, safe.

(That what is called lazy is, `test_formats_contract.py` counts.)
"""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_makers import KINDS, STATE, Kind, MakesAFolder, malicious

from geomdiag.checkpoints import FORMATS, open_runs
from geomdiag.errors import CheckpointError, UnsafeCheckpointError

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore")  # the writers' own


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


def write(kind: Kind, folder: Path, **beside: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return kind.write(folder / f"net_step_4{kind.suffix}", STATE, **beside)


def packages(extra: str) -> set[str]:
    """Return the packages that an extra of geomdiag brings."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["optional-dependencies"][extra]
    return {re.split(r"[^\w.-]", line)[0].lower() for line in wanted} - {"geomdiag"}


def test_the_page_lists_every_format() -> None:
    page = (ROOT / "docs/formats.md").read_text(encoding="utf-8")
    table = page.split("\n## ")[0]
    rows = dict(re.findall(r"^\| `([\w-]+)` \|[^|]*\|([^|]*)\|", table, flags=re.MULTILINE))
    assert set(rows) == set(FORMATS)
    for name, extra in rows.items():
        assert (FORMATS[name].extra or "–") in extra


def test_the_table_is_printed() -> None:
    def told(*more: str) -> str:
        call = "from geomdiag_cli.app import main; main()"
        command = [sys.executable, "-c", call, "formats", *more]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    rows = {row["name"]: row for row in json.loads(told("--json"))}
    assert set(rows) == set(FORMATS)
    lines = {line.split()[0]: line.split() for line in told().splitlines() if line[:1].strip()}
    for name, row in rows.items():
        form = FORMATS[name]
        runs = getattr(form, "runs", False)
        assert (row["lazy"], row["safe"], row["extra"]) == (form.lazy, form.safe, form.extra)
        assert row["runs"] == runs
        answers = ["yes" if each else "no" for each in (form.lazy, runs, form.safe)]
        assert lines[name][1:5] == [form.extra or "-", *answers]


def test_only_what_the_extra_brings_is_needed(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the extra, an error that names it; without everything else, nothing is missed."""
    path = write(kind, tmp_path)
    form = FORMATS[kind.format]
    own = packages(form.extra) if form.extra else set()
    assert bool(own) == bool(form.extra)
    extras = {FORMATS[name].extra for name in FORMATS} - {""}
    everything = {name for extra in extras for name in packages(extra)}
    for name in everything - own:
        monkeypatch.setitem(sys.modules, name, None)

    def use() -> None:
        (checkpoint,) = next(iter(open_runs(path).values()))
        assert len(dict(checkpoint.tensors)) == len(STATE)
        if form.extra and getattr(form, "runs", False):
            assert checkpoint.program is not None
            checkpoint.program()

    use()
    for name in own:
        monkeypatch.setitem(sys.modules, name, None)
    if own:
        with pytest.raises(CheckpointError, match=rf"pip install 'geomdiag\[{form.extra}\]'"):
            use()


def test_runs_by_itself_or_not(kind: Kind, tmp_path: Path) -> None:
    path = write(kind, tmp_path)
    (checkpoint,) = next(iter(open_runs(path).values()))
    assert (checkpoint.program is not None) == getattr(FORMATS[kind.format], "runs", False)
    if checkpoint.program is None:
        return
    if not FORMATS[kind.format].extra:  # run by torch, as code
        with pytest.raises(UnsafeCheckpointError, match="--allow-pickle"):
            checkpoint.program()
        (checkpoint,) = next(iter(open_runs(path, allow_pickle=True).values()))
        assert checkpoint.program is not None
    rows = np.arange(6).reshape(3, 2)
    assert checkpoint.program().run(rows).shape == rows.shape


def traps(kind: Kind, folder: Path, target: Path) -> Iterator[Path]:
    """Yield checkpoints with something that makes `target` when unpickled, in every place."""
    trap = pickle.dumps(MakesAFolder(target), protocol=2)
    path = write(kind, folder / "plain")
    for file in kind.files(path):
        data = file.read_bytes()
        file.write_bytes(trap)
        yield path
        file.write_bytes(data)
        if zipfile.is_zipfile(file) and data.startswith(b"PK"):
            with zipfile.ZipFile(file) as archive:
                members = {name: archive.read(name) for name in archive.namelist()}
            for replaced in members:
                with zipfile.ZipFile(file, "w") as archive:
                    for name, held in members.items():
                        archive.writestr(name, trap if name == replaced else held)
                yield path
            file.write_bytes(data)
    try:
        yield write(kind, folder / "given", extra=MakesAFolder(target))
    except Exception:  # a writer that takes no objects, each with an error of its own
        return


def test_reading_runs_nothing(kind: Kind, tmp_path: Path) -> None:
    assert FORMATS[kind.format].safe
    target = tmp_path / "proof"
    pickle.loads(pickle.dumps(MakesAFolder(target)))
    target.rmdir()  # the trap is one
    for path in traps(kind, tmp_path, target):
        try:
            for checkpoint in next(iter(open_runs(path).values())):
                dict(checkpoint.tensors)
        except CheckpointError:
            pass
        assert not target.exists(), path


@pytest.mark.parametrize(
    ("how", "suffix"), [("zip", ".pt"), ("legacy", ".pt"), ("pickle", ".pt"), ("npz", ".npz")]
)
def test_the_refusal_names_what_would_run(how: str, suffix: str, tmp_path: Path) -> None:
    target = tmp_path / "proof"
    path = malicious(tmp_path / f"bad{suffix}", target, how)
    with pytest.raises(UnsafeCheckpointError, match="allow-pickle") as caught:
        open_runs(path)
    assert path.name in str(caught.value)
    assert ("mkdir" in str(caught.value)) == (how != "npz")
    assert not target.exists()


def test_pickles_run_only_when_allowed(tmp_path: Path) -> None:
    target = tmp_path / "proof"
    path = malicious(tmp_path / "bad.pt", target, "zip")
    (series,) = open_runs(path, allow_pickle=True).values()
    assert target.exists()
    target.rmdir()
    np.testing.assert_array_equal(series[0].tensors["ids"], STATE["ids"])
