"""`geomdiag analyze` from end to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from typer.testing import Result

from geomdiag import store

Command = Callable[..., Result]
Process = Callable[..., subprocess.CompletedProcess[str]]

QUICK = ("--analyzers", "fit,symmetry,dimension")


def test_result_and_summary(geomdiag: Command, trained: Path) -> None:
    done = geomdiag("analyze", trained, "--task", "modadd")
    assert done.exit_code == 0
    assert done.stderr == ""
    for words in ("seed=0", "seed=1", "modadd:p=7", "3 checkpoints, steps 0 to 60"):
        assert words in done.stdout
    for heading in (
        "accuracy at the end",
        "memorised at",
        "translation violation",
        "effective dimen",
    ):
        assert heading in done.stdout
    assert "result: tiny.geomdiag.zarr" in done.stdout
    assert "gd.load('tiny.geomdiag.zarr')" in done.stdout
    tree = store.load("tiny.geomdiag.zarr")
    assert set(tree.children) == {"seed=0", "seed=1"}
    assert tree["seed=0"]["step"].values.tolist() == [0, 1, 60]
    assert np.isfinite(tree["seed=0"]["accuracy"].sel(part="heldout")).all()


def test_output_in_a_pipe_is_plain_and_fits_in_80_columns(process: Process, trained: Path) -> None:
    done = process("analyze", trained, "--task", "modadd", *QUICK)
    assert done.returncode == 0
    assert done.stderr == ""
    assert not [
        character for character in done.stdout if not (character.isprintable() or character == "\n")
    ]
    assert all(len(line) <= 80 and line == line.rstrip() for line in done.stdout.splitlines())


def test_json_is_all_of_stdout(geomdiag: Command, trained: Path) -> None:
    done = geomdiag("analyze", trained, "--task", "modadd", "--json", *QUICK)
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert told["result"] == "tiny.geomdiag.zarr"
    assert told["task"] == "modadd:p=7"
    assert [run["run"] for run in told["runs"]] == ["seed=0", "seed=1"]
    first = told["runs"][0]
    assert first["checkpoints"] == 3
    assert first["steps"] == [0, 60]
    assert first["failed"] == 0
    assert set(first["accuracy"]) == {"train", "heldout", "all"}
    assert {"commutativity", "associativity", "translation"} == set(first["symmetry_violation"])
    assert first["effective_dimension"]["first"] >= first["effective_dimension"]["last"] - 2


def test_quiet_prints_nothing(geomdiag: Command, trained: Path) -> None:
    done = geomdiag("analyze", trained, "--task", "modadd", "--quiet", *QUICK)
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")
    assert Path("tiny.geomdiag.zarr").is_dir()


def test_second_call_reuses_and_force_recomputes(geomdiag: Command, trained: Path) -> None:
    arguments = ("analyze", trained, "--task", "modadd", "--out", "r.zarr", *QUICK)
    assert "earlier result" not in geomdiag(*arguments).stdout
    assert "taken from the earlier result: 6 finished checkpoints" in geomdiag(*arguments).stdout
    assert "earlier result" not in geomdiag(*arguments, "--force").stdout


def test_netcdf_by_format_or_by_suffix(geomdiag: Command, trained: Path) -> None:
    done = geomdiag("analyze", trained, "--task", "modadd", "--format", "netcdf", *QUICK)
    assert done.exit_code == 0
    assert Path("tiny.geomdiag.nc").is_file()
    assert geomdiag("analyze", trained, "--task", "modadd", "-o", "x.nc", *QUICK).exit_code == 0
    assert set(store.load("x.nc").children) == {"seed=0", "seed=1"}


def test_several_paths(geomdiag: Command, trained: Path) -> None:
    paths = (trained / "seed=0", trained / "seed=1")
    done = geomdiag("analyze", *paths, "--task", "modadd", *QUICK)
    assert done.exit_code == 0
    assert len(store.load("runs.geomdiag.zarr").children) == 2


def test_skip_leaves_a_diagnostic_out(geomdiag: Command, trained: Path) -> None:
    done = geomdiag(
        "analyze", trained / "seed=0", "--task", "modadd", "--skip", "topology, distortion,helix",
        "-o", "r.zarr",
    )  # fmt: skip
    assert done.exit_code == 0
    (node,) = store.load("r.zarr").children.values()
    assert "persistence" not in node
    assert "accuracy" in node


def test_default_and_all_stand_for_many_diagnostics(geomdiag: Command, trained: Path) -> None:
    arguments = ("analyze", trained / "seed=0", "--task", "modadd")
    more = ("--analyzers", "default,gradient", "--skip", "distortion", "-o", "more.zarr")
    assert geomdiag(*arguments, *more).exit_code == 0
    (node,) = store.load("more.zarr").children.values()
    assert {"accuracy", "gradient_symmetricity"} <= set(node.data_vars)
    assert "distortion" not in node
    assert geomdiag(*arguments, "--analyzers", "all", "-o", "all.zarr").exit_code == 0
    (node,) = store.load("all.zarr").children.values()
    assert {"persistence", "distortion", "gradient_symmetricity"} <= set(node.data_vars)


def test_two_workers_give_the_same_bytes(geomdiag: Command, trained: Path) -> None:
    for workers in (1, 2):
        out = f"w{workers}.zarr"
        arguments = ("--task", "modadd", "-o", out, "--workers", workers, *QUICK)
        assert geomdiag("analyze", trained / "seed=0", *arguments).exit_code == 0
    one, two = ({p.relative_to(f): p.read_bytes() for p in Path(f).rglob("*") if p.is_file()}
                for f in ("w1.zarr", "w2.zarr"))  # fmt: skip
    assert one == two


def test_a_failed_checkpoint_is_told_and_the_rest_analysed(geomdiag: Command, runs: Path) -> None:
    broken = runs / "seed=0" / "step_000001.safetensors"
    broken.write_bytes(broken.read_bytes()[:-40])
    done = geomdiag("analyze", runs, "--task", "modadd", "-o", "r.zarr", *QUICK)
    assert done.exit_code == 3
    assert "step 1 failed" in done.stdout
    assert broken.name in done.stdout
    tree = store.load("r.zarr")
    assert tree["seed=0"]["status"].values.tolist() == ["ok", "failed", "ok"]
    quiet = geomdiag("analyze", runs, "--task", "modadd", "-o", "r.zarr", "--quiet", *QUICK)
    assert quiet.exit_code == 3
    assert "step 1 failed" in quiet.stderr


def test_steps_that_failed_for_one_reason_are_told_together(
    geomdiag: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "dumps"
    folder.mkdir()
    for step in range(4):
        np.savez(folder / f"step_{step}.npz", logits=np.zeros((49, 7)), embedding=np.eye(5))
    for more in ([], ["--quiet"]):
        done = geomdiag("analyze", folder, "--task", "modadd:p=7", "-o", "r.zarr", *more, *QUICK)
        assert done.exit_code == 3
        assert (done.stderr if more else done.stdout).count("4 steps, 0 to 3, failed: ") == 1


def test_recorded_curves_that_contradict_the_weights_are_shouted(
    geomdiag: Command, runs: Path
) -> None:
    path = runs / "seed=0" / "step_000060.safetensors"
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    metadata["heldout_loss"] = str(2 * float(metadata["heldout_loss"]))
    save_file(weights, path, metadata)
    done = geomdiag("analyze", runs / "seed=0", "--task", "modadd", *QUICK)
    assert done.exit_code == 0
    assert "STORED AND RECOMPUTED VALUES DISAGREE\n    compare: heldout_loss" in done.stdout
    quiet = geomdiag("analyze", runs / "seed=0", "--task", "modadd", "--quiet", *QUICK)
    assert "STORED AND RECOMPUTED VALUES DISAGREE" in quiet.stderr


def test_a_split_given_by_hand_counts(geomdiag: Command, trained: Path) -> None:
    arguments = ("--task", "modadd", "--json", "--split", "python:seed=3,fraction=0.5", *QUICK)
    told = json.loads(geomdiag("analyze", trained / "seed=0", *arguments).stdout)
    assert told["runs"][0]["split_source"] == "python:seed=3,fraction=0.5"


def test_many_runs_become_lines_of_a_table(
    geomdiag: Command, trained: Path, tmp_path: Path
) -> None:
    import shutil

    for seed in range(6):
        shutil.copytree(trained / "seed=0", tmp_path / "many" / f"run-{seed}")
    done = geomdiag("analyze", tmp_path / "many", "--task", "modadd", *QUICK)
    assert done.exit_code == 0
    assert all(len(line) <= 80 for line in done.stdout.splitlines() if "result" not in line)
    assert done.stdout.count("run-5") == 2


def test_a_model_of_ones_own(
    geomdiag: Command, trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "my_model.py").write_text(
        "import numpy as np\n"
        "def factory(state):\n"
        "    return lambda inputs: np.eye(7, dtype=np.float32)[np.asarray(inputs).sum(1) % 7]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = ("--task", "modadd:p=7", "--model", "my_model:factory", "--json")
    told = json.loads(
        geomdiag("analyze", trained / "seed=0", *arguments, "--analyzers", "fit").stdout
    )
    assert told["runs"][0]["accuracy"]["all"] == 1.0


PATIENCE = """
import pathlib
import numpy as np

LIMIT = pathlib.Path(__file__).with_name("limit")
calls = 0

def factory(state):
    global calls
    calls += 1
    if LIMIT.exists() and calls > 2:
        raise KeyboardInterrupt
    return lambda inputs: np.eye(7, dtype=np.float32)[np.asarray(inputs).sum(1) % 7]
"""


def test_an_interrupted_analysis_goes_on_where_it_was(
    geomdiag: Command, trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "patience.py").write_text(PATIENCE)
    (tmp_path / "limit").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = ("analyze", trained, "--task", "modadd:p=7", "--model", "patience:factory",
                 "--analyzers", "fit", "-o", "r.zarr", "--workers", 1)  # fmt: skip
    stopped = geomdiag(*arguments)
    assert stopped.exit_code == 130
    assert stopped.stdout == ""
    assert "Finished steps are kept" in stopped.stderr
    assert not Path("r.zarr").exists()
    (tmp_path / "limit").unlink()
    done = geomdiag(*arguments)
    assert done.exit_code == 0
    assert "taken from the earlier result: 2 finished checkpoints" in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def _until_closed(terminal: int) -> str:
    shown = b""
    try:
        while piece := os.read(terminal, 4096):
            shown += piece
    except OSError:  # how Linux says that nobody writes to it any more
        pass
    return shown.decode()


def test_progress_is_shown_on_a_terminal_and_only_on_stderr(trained: Path, tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "geomdiag", "analyze", str(trained / "seed=0"), "-t", "modadd"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(
        [*command, *QUICK], stdout=subprocess.PIPE, stderr=theirs, cwd=tmp_path, env=environment
    ) as running:
        os.close(theirs)
        assert running.stdout is not None
        with ThreadPoolExecutor(1) as reader:  # what a slow machine shows fills a terminal's buffer
            terminal = reader.submit(_until_closed, ours)
            out = running.stdout.read().decode()
            shown = terminal.result()
    os.close(ours)
    assert running.returncode == 0
    assert "checkpoints" in shown
    assert "\x1b[" in shown
    assert "\x1b" not in out
