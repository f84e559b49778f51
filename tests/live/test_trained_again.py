"""A run that is trained again in the folder of an earlier training whose files are removed."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import xarray as xr
from safetensors.torch import load_file, save_file
from small_training import fresh
from typer.testing import CliRunner

import geomdiag as gd
from geomdiag.live import Follower, Look
from geomdiag_cli.app import app

QUICK: dict[str, Any] = {"analyzers": ["fit"], "format": "netcdf", "workers": 1}
AGAIN = "of an earlier training and left out"


class Place:
    """Folder and result of a run, with a follower in this process or a new one for each look."""

    def __init__(self, folder: Path, restarted: bool) -> None:
        self.run, self.out = folder / "runs" / "a", folder / "run.nc"
        self.run.mkdir(parents=True)
        self.restarted = restarted
        self._follower: Follower | None = None

    def write(self, training: int, *steps: int, keep: int = 3, run: str = "a") -> None:
        """Save checkpoints as a trainer does that keeps the last ones it has written."""
        folder = self.run.with_name(run)
        folder.mkdir(exist_ok=True)
        for step in steps:
            path = folder / f"step_{step}.safetensors"
            save_file(fresh(seed=1000 * training + step).state_dict(), path)
            time = 10**18 + (training * 10**6 + step) * 10**9
            os.utime(path, ns=(time, time))
            old = sorted(folder.glob("step_*"), key=lambda one: one.stat().st_mtime_ns)
            for one in old[:-keep]:
                one.unlink()

    def look(self, **options: Any) -> Look:
        if self._follower is None:
            self._follower = Follower(
                self.run.parent, self.out, "modadd:p=7", settle=0, **{**QUICK, **options}
            )
        look = self._follower.look()
        self.end() if self.restarted else None
        return look

    def end(self) -> None:
        if self._follower is not None:
            self._follower.close()
        self._follower = None

    def steps(self, run: str = "a") -> list[int]:
        steps: list[int] = self.result(run)["step"].values.tolist()
        return steps

    def result(self, run: str = "a", name: str = "run.nc") -> xr.Dataset:
        return gd.load(self.out.with_name(name))[run].to_dataset()

    def results(self) -> set[str]:
        return {one.name for one in self.out.parent.glob("*.nc")}


@pytest.fixture
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    made = Place(tmp_path, getattr(request, "param", False))
    yield made
    made.end()


both_ways = pytest.mark.parametrize(
    "place", [False, True], ids=["running", "restarted"], indirect=True
)


def train(place: Place, training: int, steps: Iterable[int]) -> None:
    """Write checkpoints one by one, looking after each; nothing may be left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in steps:
            place.write(training, step)
            assert place.look().fresh == {"a": (step,)}


def assert_of(place: Place, rows: Iterable[tuple[int, int]], folder: Path) -> None:
    """Hold the result against an analysis of these trainings' checkpoints."""
    (folder / "a").mkdir(parents=True)
    for training, step in rows:
        state = fresh(seed=1000 * training + step).state_dict()
        save_file(state, folder / "a" / f"step_{step}.safetensors")
    expected = gd.analyze(folder, "modadd:p=7", analyzers=["fit"], workers=1)["a"].to_dataset()
    found = place.result()
    assert "earlier_training" not in found.attrs
    said, *others = found.attrs["notices"].splitlines()
    assert AGAIN in said
    found.attrs["notices"] = "\n".join(others)
    xr.testing.assert_identical(found, expected)


@both_ways
def test_a_run_trained_from_scratch_has_the_rows_of_the_later_training_alone(
    place: Place, tmp_path: Path
) -> None:
    train(place, 1, (0, 10, 20, 30, 40))
    before = place.result()
    for file in place.run.iterdir():
        file.unlink()
    place.write(2, 0)
    with pytest.warns(RuntimeWarning, match=r"a: 4 rows from step 10 to 40 are of an earlier") as w:
        assert place.look().fresh == {"a": (0,)}
    assert "step 0 came after them; the result with them is kept as run.earlier.nc" in str(w[0])
    assert place.steps() == [0]
    assert not place.look().fresh  # it stays so, though nothing is new
    assert place.steps() == [0]
    train(place, 2, (10, 20, 30))
    assert_of(place, [(2, 0), (2, 10), (2, 20), (2, 30)], tmp_path / "expected")
    assert place.results() == {"run.nc", "run.earlier.nc"}
    xr.testing.assert_identical(place.result(name="run.earlier.nc"), before)


def test_a_run_taken_up_at_an_earlier_step_keeps_what_came_before(
    place: Place, tmp_path: Path
) -> None:
    train(place, 1, (0, 10, 20, 30, 40, 50))
    for file in place.run.iterdir():
        file.unlink()
    place.write(2, 15)  # fresh: no step of this number was there
    with pytest.warns(RuntimeWarning, match="a: 4 rows from step 20 to 50"):
        place.look()
    assert place.steps() == [0, 10, 15]
    train(place, 2, (20, 25))
    assert_of(place, [(1, 0), (1, 10), (2, 15), (2, 20), (2, 25)], tmp_path / "expected")


@both_ways
def test_files_of_the_earlier_training_count_while_they_lie_there(place: Place) -> None:
    train(place, 1, (10, 20, 30, 40))  # of which 10 is removed
    place.write(2, 5, keep=9)
    with pytest.warns(RuntimeWarning, match="a: the row of step 10 is of an earlier"):
        place.look()
    assert place.steps() == [5, 20, 30, 40]
    (place.run / "step_30.safetensors").unlink()
    with pytest.warns(
        RuntimeWarning, match="a: the row of step 30 is.*step 5 came.*run.earlier.nc"
    ):
        assert not place.look().fresh  # and nothing new says so
    assert place.steps() == [5, 20, 40]
    place.write(2, 20, keep=9)
    place.look()
    for step in (20, 40):
        (place.run / f"step_{step}.safetensors").unlink()
    with pytest.warns(RuntimeWarning, match="a: the row of step 40 is"):
        place.look()
    assert place.steps() == [5, 20]  # the new one of step 20 is of the later training
    assert place.results() == {"run.nc", "run.earlier.nc"}


def test_files_that_are_copied_out_of_order_are_of_one_training(place: Place) -> None:
    for steps in ((10, 100), (20, 30)):
        place.write(1, *steps, keep=9)
        place.look()
    for file in place.run.iterdir():
        if file.name != "step_30.safetensors":
            file.unlink()
    place.look()
    assert place.steps() == [10, 20, 30, 100]


def test_the_best_checkpoint_says_its_step_in_other_bytes(place: Place) -> None:
    train(place, 1, (0, 10, 20))
    best = place.run / "best.safetensors"
    state = load_file(place.run / "step_10.safetensors")
    save_file(state, best, {"step": "10"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        place.look()
        train_on = (30, 40, 50)
        for step in train_on:  # step_10 is removed, and best stands for it
            place.write(1, step)
            place.look()
        digests = place.result()["digest"].values.tolist()
        assert digests[1] == gd.open_runs(place.run.parent)["a"][0].digest
        assert place.steps() == [0, 10, 20, 30, 40, 50]
        save_file(load_file(place.run / "step_50.safetensors"), best, {"step": "50"})
        place.look()
    assert place.steps() == [0, 10, 20, 30, 40, 50]


def test_a_file_that_tells_no_step_ends_nothing(place: Place) -> None:
    train(place, 1, (10, 20))
    for file in place.run.iterdir():
        file.unlink()
    save_file(fresh(seed=7).state_dict(), place.run / "last.safetensors")
    place.look()
    assert place.steps() == [0, 10, 20]


def test_a_checkpoint_that_cannot_be_measured_ends_nothing(place: Place) -> None:
    train(place, 1, (10, 20, 30, 40))
    broken = {name: value * torch.nan for name, value in fresh().state_dict().items()}
    save_file(broken, place.run / "step_5.safetensors")
    assert "NaN" in place.look().errors["a step 5"]
    assert place.steps() == [5, 10, 20, 30, 40]
    place.write(2, 5)
    with pytest.warns(RuntimeWarning, match="10"):
        place.look()
    assert 10 not in place.steps()


def test_other_runs_are_left_alone(place: Place) -> None:
    for step in (0, 10, 20, 30):
        for training, run in ((1, "a"), (2, "b")):
            place.write(training, step, run=run)
        place.look()
    other = place.result("b")
    for file in place.run.iterdir():
        file.unlink()
    place.write(3, 10)
    with pytest.warns(RuntimeWarning, match="^a: 2 rows from step 20 to 30") as warned:
        place.look()
    assert len(warned) == 1
    assert place.steps() == [0, 10]
    xr.testing.assert_identical(place.result("b"), other)
    assert set(gd.load(place.out.with_name("run.earlier.nc")).children) == {"a"}


def killed(place: Place, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """Look, and be killed when all is measured."""
    place.end()
    with monkeypatch.context() as patch:
        patch.setattr(
            "geomdiag.analysis.run._measure_runs", lambda *_: (_ for _ in ()).throw(SystemExit)
        )
        with pytest.raises(SystemExit):
            place.look(**options)
    place.end()


@pytest.mark.parametrize("removed", [False, True])
def test_rows_of_the_journal_are_later_than_those_of_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: bool
) -> None:
    place = Place(tmp_path, restarted=True)
    train(place, 1, (0, 10, 20, 30, 40))
    for file in place.run.iterdir():
        file.unlink()
    place.write(2, 0, 10)
    monkeypatch.setattr("geomdiag.live.earlier.Earlier.leave_out", lambda *_: None)
    killed(place, monkeypatch)
    monkeypatch.undo()
    if removed:  # before the next look the new ones are gone as well
        place.write(2, 20, keep=1)
    with pytest.warns(RuntimeWarning, match=f"rows from step {30 if removed else 20} to 40"):
        place.look()
    assert place.steps() == ([0, 10, 20] if removed else [0, 10])


def test_rows_of_the_journal_may_be_of_the_earlier_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path, restarted=True)
    place.write(1, 0)
    place.look()
    place.write(1, 10, 20, 30)
    killed(place, monkeypatch)
    for file in place.run.iterdir():
        file.unlink()
    place.write(2, 10)
    with pytest.warns(RuntimeWarning, match="2 rows from step 20 to 30"):
        killed(place, monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it was told, and the journal has them no more
        place.look()
    assert place.steps() == [0, 10]
    assert not list(tmp_path.glob("run.earlier*"))  # no result ever had them


def test_milestones_end_no_rows_of_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path, restarted=True)
    place.write(1, 0)
    place.look()
    place.write(1, 10, 20, 30, keep=9)
    killed(place, monkeypatch)
    for step in (20, 30):
        (place.run / f"step_{step}.safetensors").unlink()
    place.write(1, 40, keep=9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        place.look()
    assert place.steps() == [0, 10, 20, 30, 40]


def test_what_compares_checkpoints_knows_rows_of_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path, restarted=True)
    options = {"analyzers": ["fit", "alignment"]}
    place.write(1, 0, 10)
    place.look(**options)
    place.write(2, 10)  # as many rows as before
    killed(place, monkeypatch, **options)
    place.look(**options)
    expected = gd.analyze(place.run.parent, "modadd:p=7", analyzers=options["analyzers"], workers=1)
    xr.testing.assert_identical(place.result()["alignment"], expected["a"]["alignment"])


def test_what_compares_checkpoints_is_of_the_later_training(tmp_path: Path) -> None:
    place = Place(tmp_path, restarted=True)
    options = {"analyzers": ["fit", "alignment"]}
    for step in (0, 10, 20, 30):
        place.write(1, step)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is not there once a checkpoint is gone
            place.look(**options)
    for file in place.run.iterdir():
        file.unlink()
    assert "alignment" not in place.result()
    place.write(2, 0)
    with pytest.warns(RuntimeWarning, match="3 rows from step 10 to 30"):
        place.look(**options)
    place.write(2, 10)
    place.look(**options)
    expected = gd.analyze(place.run.parent, "modadd:p=7", analyzers=options["analyzers"], workers=1)
    found = place.result()
    xr.testing.assert_identical(found["alignment"], expected["a"]["alignment"])
    assert found.attrs["not_computed"] == expected["a"].attrs["not_computed"]


def test_the_command_says_so_and_analyze_takes_what_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path, restarted=True)
    monkeypatch.chdir(tmp_path)

    options = ("--out", "run.nc", "--task", "modadd:p=7", "--analyzers", "fit")
    for step in (0, 10, 20, 30):
        place.write(1, step)
        place.look()
    assert place.steps() == [0, 10, 20, 30]
    for file in place.run.iterdir():
        file.unlink()
    place.write(2, 0)
    result = subprocess.run(
        [sys.executable, "-m", "geomdiag", "watch", "runs", *options, "--once"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert f"a: 3 rows from step 10 to 30 are {AGAIN}" in " ".join(result.stderr.split())
    assert place.steps() == [0]
    for file in place.run.iterdir():
        file.unlink()
    place.write(3, 10)
    analyze = ["analyze", "runs", *options, "--workers", "1"]
    refused = CliRunner().invoke(app, analyze)
    assert "holds the result of other checkpoints" in refused.stderr
    assert CliRunner().invoke(app, [*analyze, "--force"]).exit_code == 0
    assert place.steps() == [10]
