"""What every registered format must do, in every way in which it comes.

Each kind of file is written by the library that it belongs to; where that is missing
(extra test-formats), its tests skip.
"""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_types
import numpy as np
import pytest
import torch
from checkpoint_makers import KINDS, ONE_FILE, STATE, Kind, State

from geomdiag.checkpoints import FORMATS, Checkpoint, open_runs
from geomdiag.checkpoints.formats.contract import HEAD, Format
from geomdiag.errors import CheckpointError, UnsafeCheckpointError

pytestmark = pytest.mark.filterwarnings("ignore")  # the writers' own


def test_every_registered_format_is_under_test() -> None:
    """A new format needs a writer in `checkpoint_makers.KINDS`."""
    assert {kind.format for kind in KINDS.values()} == set(FORMATS)


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_format_describes_itself(name: str) -> None:
    member = FORMATS[name]
    assert isinstance(member, Format)
    assert member.name == name
    assert member.description
    assert all(suffix.startswith((".", "_METADATA")) for suffix in member.suffixes)


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


def kinds(where: Callable[[Kind], bool]) -> pytest.MarkDecorator:
    """Let a test run over those kinds alone."""
    return pytest.mark.parametrize("kind", [n for n in KINDS if where(KINDS[n])], indirect=True)


def written(
    kind: Kind, folder: Path, state: State = STATE, name: str = "net_step_40", **beside: Any
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return kind.write(folder / f"{name}{kind.suffix}", state, **beside)


def opened(path: Path, **how: Any) -> Checkpoint:
    (series,) = open_runs(path, **how).values()
    (checkpoint,) = series
    return checkpoint


def check(checkpoint: Checkpoint, kind: Kind, state: State) -> None:
    """Compare names, types, shapes and values with those written."""
    names = kind.named(state)
    found = checkpoint.tensors
    assert set(found) == set(names.values())
    for name, stored in names.items():
        spec, value, expected = found.spec(stored), found[stored], ml_types.as_read(state[name])
        assert spec.dtype == ml_types.name_of(state[name])
        assert spec.shape == value.shape == expected.shape
        assert value.dtype == expected.dtype
        np.testing.assert_array_equal(value, expected)
        if value.ndim:
            wanted = np.arange(len(expected))[::-2].repeat(2)  # from the last on, each twice
            rows = found.rows(stored, wanted)
            assert rows.dtype == expected.dtype
            np.testing.assert_array_equal(rows, expected[wanted])


def test_round_trip(kind: Kind, tmp_path: Path) -> None:
    path = written(kind, tmp_path)
    (series,) = open_runs(path).values()
    assert series.format == kind.format
    (checkpoint,) = series
    assert checkpoint.step == 40
    assert checkpoint.kind == "state"
    check(checkpoint, kind, STATE)
    with pytest.raises(KeyError):
        checkpoint.tensors["absent"]


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(name, dtype) for name in KINDS for dtype in ml_types.TYPES if dtype not in KINDS[name].lacks],
    indirect=["kind"],
)
def test_types(kind: Kind, dtype: str, tmp_path: Path) -> None:
    whole = (torch.arange(24).reshape(4, 6) - 3).float().abs().to(getattr(torch, dtype))
    # Row-major, transposed and cut out of a larger tensor; one number under a key of its own.
    state = {"plain": whole, "turned": whole.t(), "cut": whole[1:3, ::2], "a.number": whole[1, 1]}
    if kind.empty:
        state |= {"empty": whole[:0], "flat": torch.zeros(0, dtype=whole.dtype)}
    check(opened(written(kind, tmp_path, state)), kind, state)


@kinds(lambda kind: "step" in kind.stores)
def test_step_and_losses_inside_come_first(kind: Kind, tmp_path: Path) -> None:
    losses = {"train_loss": 0.5, "val_acc": 0.25} if "losses" in kind.stores else {}
    (series,) = open_runs(written(kind, tmp_path, step=7, **losses)).values()
    assert series.steps.tolist() == [7]
    assert series[0].step_source == "metadata"
    check(series[0], kind, STATE)
    if losses:
        assert series.history is not None
        assert {k: v.tolist() for k, v in series.history.values.items()} == {
            "train_loss": [0.5],
            "heldout_accuracy": [0.25],
        }


def test_a_series_of_files_or_folders(kind: Kind, tmp_path: Path) -> None:
    for step in (3, 20):
        home = tmp_path / "run"
        if len(kind.files(home / "x")) != 1 and kind.suffix:  # a file and files beside it
            home = home / f"step_{step}"
        written(kind, home, {"w": np.full((2, 3), float(step))}, f"step_{step}")
    (series,) = open_runs(tmp_path).values()
    assert series.format == kind.format
    assert series.steps.tolist() == [3, 20]
    assert [np.unique(next(iter(c.tensors.values()))).item() for c in series] == [3, 20]


@pytest.mark.parametrize("kind", ONE_FILE, indirect=True)
def test_content_decides_not_the_suffix(kind: Kind, tmp_path: Path) -> None:
    path = written(kind, tmp_path)
    for suffix in (".pt", ".safetensors", ".npz", ".msgpack", ".weights", ""):
        folder = tmp_path / f"as{suffix or '-nothing'}"
        folder.mkdir()
        other = folder / f"epoch_3{suffix}"
        other.write_bytes(path.read_bytes())
        (series,) = open_runs(folder).values()
        assert series.format == kind.format
        assert series.steps.tolist() == [3]
        check(series[0], kind, STATE)


def test_recognises_its_own_and_no_other(kind: Kind, tmp_path: Path) -> None:
    path = written(kind, tmp_path)
    if path.is_dir():  # the file that stands for the folder
        marks = (".metadata", "_METADATA", "*.index.json")
        (path,) = (each for mark in marks for each in path.glob(mark))
    with path.open("rb") as file:
        head = file.read(HEAD)
    recognised = {name for name in FORMATS if FORMATS[name].recognises(path, head)}
    assert recognised == {kind.format}
    if kind.by_content and kind.suffix:
        plain = tmp_path / "nothing"
        assert {name for name in FORMATS if FORMATS[name].recognises(plain, head)} == recognised


def test_digest_is_stable_and_tells_contents_apart(kind: Kind, tmp_path: Path) -> None:
    path = written(kind, tmp_path / "a")
    one, again = opened(path), opened(path)
    assert one.digest == again.digest
    assert len(one.digest) == 64
    copied = tmp_path / "copy" / path.name
    (shutil.copytree if path.is_dir() else shutil.copy)(path, _with_parent(copied))
    for file in kind.files(path):
        if file.parent == path.parent and file != path:
            shutil.copy(file, copied.parent)
    assert opened(copied).digest == one.digest
    # The very last element of one tensor: no header tells the two apart.
    value = STATE["ids"].copy()
    value[-1] += 1
    other = opened(written(kind, tmp_path / "b", {**STATE, "ids": value}))
    assert other.digest != one.digest
    assert other.content_digest() != one.content_digest()
    assert opened(copied).content_digest() == one.content_digest()


def _with_parent(path: Path) -> Path:
    path.parent.mkdir(parents=True)
    return path


def test_truncation_is_told(kind: Kind, tmp_path: Path) -> None:
    """Each data file cut at every tenth: the typed error, which names the file or its folder."""
    path = written(kind, tmp_path, **({"step": 1} if "step" in kind.stores else {}))
    told = 0
    for file in kind.files(path):
        data = file.read_bytes()
        for tenth in range(10):
            file.write_bytes(data[: len(data) * tenth // 10])
            try:
                # Folders hold copies that nothing refers to: cutting those is harmless.
                check(opened(path), kind, STATE)
            except CheckpointError as error:
                failure = error
            else:
                assert path.is_dir(), f"cut at {tenth}/10 and not told"
                continue
            assert not isinstance(failure, UnsafeCheckpointError)
            assert str(path) in str(failure) or str(file) in str(failure)
            told += 1
        file.write_bytes(data)
    check(opened(path), kind, STATE)
    assert told >= 10 * (len(kind.files(path)) if not path.is_dir() else 1)


@kinds(lambda kind: bool(kind.data))
def test_a_missing_file_is_told(kind: Kind, tmp_path: Path) -> None:
    """Never another value in place of those that are missing."""
    path = written(kind, tmp_path)
    told = 0
    for file in kind.files(path):
        if file == path or file.suffix == ".json":  # nothing to open without it
            continue
        data = file.read_bytes()
        file.unlink()
        try:
            check(opened(path), kind, STATE)
        except CheckpointError:
            told += 1
        file.write_bytes(data)
    assert told


def test_a_checkpoint_travels_to_another_process(kind: Kind, tmp_path: Path) -> None:
    checkpoint = opened(written(kind, tmp_path))
    checkpoint.tensors  # noqa: B018 - opened here, must not travel
    sent = pickle.dumps(checkpoint)
    assert len(sent) < 8000
    check(pickle.loads(sent), kind, STATE)


def big_and_small() -> dict[str, torch.Tensor]:
    noise = torch.Generator().manual_seed(0)  # 8 MiB that no compression shortens
    big = torch.randn((1024, 2048), generator=noise)
    return {"big": big, "small": torch.arange(600, dtype=torch.float64)}


def test_opening_reads_no_values(kind: Kind, tmp_path: Path) -> None:
    path = written(kind, tmp_path, big_and_small())
    assert kind.lazy <= FORMATS[kind.format].lazy
    read = ml_types.bytes_read(lambda: (c := opened(path), c.tensors.specs()), tmp_path)
    total = sum(file.stat().st_size for file in kind.files(path))
    assert total > 1 << 20
    if kind.lazy:
        assert read < 600_000  # directories and descriptions, of 8 MiB
    else:
        assert read > total / 2, "it is lazy after all: say so in KINDS and in the format"


@kinds(lambda kind: kind.lazy)
def test_one_tensor_costs_that_tensor(kind: Kind, tmp_path: Path) -> None:
    path = written(kind, tmp_path, big_and_small())
    name = kind.named(big_and_small())["small"]
    load = opened(path).load

    def one() -> Any:
        tensors = load()
        return tensors, tensors[name]

    assert one()[1][-1] == 599
    assert ml_types.bytes_read(one, tmp_path) < 300_000


@kinds(lambda kind: kind.rows)
def test_rows_cost_those_rows(kind: Kind, tmp_path: Path) -> None:
    path = written(kind, tmp_path, big_and_small())
    name = kind.named(big_and_small())["big"]
    load = opened(path).load

    def rows() -> Any:
        tensors = load()
        return tensors, tensors.rows(name, [700, 3])

    np.testing.assert_array_equal(rows()[1], big_and_small()["big"][[700, 3]])
    assert ml_types.bytes_read(rows, tmp_path) < (8 << 20) / 4  # of 8 MiB, perhaps in chunks
