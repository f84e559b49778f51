"""What every registered format must do."""

from __future__ import annotations

import pickle
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from checkpoint_makers import ELSEWHERE, STATE, WRITERS, malicious

from geomdiag.checkpoints import FORMATS, open_runs
from geomdiag.checkpoints.formats.contract import HEAD, Format
from geomdiag.errors import CheckpointError, UnsafeCheckpointError


def test_every_registered_format_is_under_test() -> None:
    assert {name for name, _, _ in WRITERS.values()} | ELSEWHERE == set(FORMATS)


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_format_describes_itself(name: str) -> None:
    member = FORMATS[name]
    assert isinstance(member, Format)
    assert member.name == name
    assert member.description
    assert all(suffix.startswith((".", "_METADATA")) for suffix in member.suffixes)
    assert member.safe


def test_the_page_lists_every_format() -> None:
    page = (Path(__file__).parents[2] / "docs/formats.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w-]+)` \|[^|]*\|([^|]*)\|", page, flags=re.MULTILINE))
    assert set(rows) == set(FORMATS)
    for name, extra in rows.items():
        assert (FORMATS[name].extra or "–") in extra


@pytest.fixture(params=list(WRITERS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def written(kind: str, folder: Path, stem: str = "net_step_40", **beside: object) -> Path:
    _, suffix, write = WRITERS[kind]
    return write(folder / f"{stem}{suffix}", STATE, **beside)


def test_round_trip(kind: str, tmp_path: Path) -> None:
    path = written(kind, tmp_path)
    (series,) = open_runs(path).values()
    assert series.format == WRITERS[kind][0]
    (checkpoint,) = series
    assert checkpoint.step == 40
    assert checkpoint.step_source == "file name"
    assert checkpoint.kind == "state"
    assert set(checkpoint.tensors) == set(STATE)
    for name, expected in STATE.items():
        found = checkpoint.tensors[name]
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape == checkpoint.tensors.spec(name).shape
        assert checkpoint.tensors.spec(name).dtype == str(expected.dtype)
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(KeyError):
        checkpoint.tensors["absent"]


def test_step_and_losses_inside_come_first(kind: str, tmp_path: Path) -> None:
    path = written(kind, tmp_path, step=7, train_loss=0.5, val_acc=0.25)
    (series,) = open_runs(path).values()
    assert series.steps.tolist() == [7]
    assert series[0].step_source == "metadata"
    assert set(series[0].tensors) == set(STATE)
    assert series.history is not None
    assert {k: v.tolist() for k, v in series.history.values.items()} == {
        "train_loss": [0.5],
        "heldout_accuracy": [0.25],
    }


def test_content_decides_not_the_suffix(kind: str, tmp_path: Path) -> None:
    name, _, _ = WRITERS[kind]
    path = written(kind, tmp_path)
    for suffix in (".pt", ".safetensors", ".npz", ".msgpack", ".weights", ""):
        folder = tmp_path / f"as{suffix or '-nothing'}"
        folder.mkdir()
        other = folder / f"epoch_3{suffix}"
        other.write_bytes(path.read_bytes())
        (series,) = open_runs(folder).values()
        assert series.format == name
        assert series.steps.tolist() == [3]
        np.testing.assert_array_equal(series[0].tensors["ids"], STATE["ids"])


def test_recognises_its_own_and_no_other(kind: str, tmp_path: Path) -> None:
    head = written(kind, tmp_path).read_bytes()[:HEAD]
    plain = tmp_path / "nothing"
    recognised = {name for name in FORMATS if FORMATS[name].recognises(plain, head)}
    assert recognised == {WRITERS[kind][0]}


def test_digest_is_stable_and_tells_contents_apart(kind: str, tmp_path: Path) -> None:
    path = written(kind, tmp_path)
    (one,) = next(iter(open_runs(path).values()))
    (again,) = next(iter(open_runs(path).values()))
    assert one.digest == again.digest
    assert len(one.digest) == 64
    _, suffix, write = WRITERS[kind]
    changed = {**STATE, "ids": STATE["ids"] + 1}
    (other,) = next(iter(open_runs(write(tmp_path / f"other{suffix}", changed)).values()))
    assert other.digest != one.digest
    assert other.content_digest() != one.content_digest()


def test_truncation_is_told(kind: str, tmp_path: Path) -> None:
    path = written(kind, tmp_path, step=1)
    data = path.read_bytes()
    for tenth in range(10):
        folder = tmp_path / str(tenth)
        folder.mkdir()
        short = folder / path.name
        short.write_bytes(data[: len(data) * tenth // 10])
        with pytest.raises(CheckpointError, match=path.name) as caught:
            open_runs(short)
        assert not isinstance(caught.value, UnsafeCheckpointError)


def test_damage_inside_is_told_or_harmless(kind: str, tmp_path: Path) -> None:
    """Flipped bytes give a `CheckpointError` or other values, never another exception."""
    data = written(kind, tmp_path, step=1).read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged"
    for _ in range(60):
        damaged = bytearray(data)
        for position in rng.integers(0, min(len(data), 700), size=3):
            damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            for series in open_runs(path).values():
                for checkpoint in series:
                    dict(checkpoint.tensors)
        except CheckpointError:
            pass


def test_a_checkpoint_travels_to_another_process(kind: str, tmp_path: Path) -> None:
    (checkpoint,) = next(iter(open_runs(written(kind, tmp_path)).values()))
    checkpoint.tensors  # noqa: B018 - opened here, must not travel
    sent = pickle.dumps(checkpoint)
    assert len(sent) < 4000
    np.testing.assert_array_equal(pickle.loads(sent).tensors["mask"], STATE["mask"])


def test_opening_reads_no_values(kind: str, tmp_path: Path) -> None:
    if kind == "pytorch-legacy":
        pytest.skip("the older torch format can only be read as a whole")
    _, suffix, write = WRITERS[kind]
    big = {"weight": np.ones((2048, 1024), dtype=np.float32)}  # 8 MiB
    path = write(tmp_path / f"big{suffix}", big)
    open_runs(path)
    tracemalloc.start()
    (series,) = open_runs(path).values()
    assert series[0].tensors.spec("weight").shape == (2048, 1024)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
    assert series[0].tensors["weight"].sum() == 2048 * 1024


@pytest.mark.parametrize(
    ("how", "suffix"), [("zip", ".pt"), ("legacy", ".pt"), ("pickle", ".pt"), ("npz", ".npz")]
)
def test_nothing_is_executed(how: str, suffix: str, tmp_path: Path) -> None:
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
