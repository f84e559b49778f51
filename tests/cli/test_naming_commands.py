"""--map, --tokens, --tokenizer and geomdiag.toml through the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import Result

import geomdiag as gd

Command = Callable[..., Result]


def strange(folder: Path, name: str = "encoder.tok.table", rows: int = 12) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    angle = 2 * np.pi * np.arange(rows) / rows
    circle = np.stack([np.cos(angle), np.sin(angle), 0 * angle, 0 * angle], axis=1)
    state = {
        name: circle.astype(np.float32),
        "core.w": np.ones((3, 4, 5), np.float32),
        "head.table": np.ones((12, 12), np.float32),
    }
    save_file(state, folder / "step_10.safetensors")
    return folder


def test_inspect_prints_the_lines_and_they_work(geomdiag: Command, tmp_path: Path) -> None:
    runs = strange(tmp_path / "runs")
    done = geomdiag("inspect", runs, "--task", "group:Z12")
    assert done.exit_code == 2
    assert "CANNOT BE ANALYSED" in done.stdout
    lines = [line.strip() for line in done.stdout.splitlines()]
    option = lines[lines.index("--map embedding=encoder.tok.table")]
    place = lines.index("[map]")
    assert lines[place - 1].endswith(str(runs / "geomdiag.toml"))
    assert "other guesses: embedding.rows=head.table, embedding.columns=head.table" in lines
    told = geomdiag("inspect", runs, "--task", "group:Z12", *option.split())
    assert told.exit_code == 0
    assert "embedding only" in told.stdout
    (runs / "geomdiag.toml").write_text(
        'task = "group:Z12"\n' + "\n".join(lines[place : place + 2]), encoding="utf-8"
    )
    done = geomdiag("analyze", runs, "--quiet", "--analyzers", "spectrum,fit")
    assert done.exit_code == 0
    (node,) = gd.load("runs.geomdiag.zarr").children.values()
    assert json.loads(node.attrs["roles"]) == {"embedding": "encoder.tok.table"}
    power = node["power"].isel(step=0).sel(matrix="embedding", block="k=1")
    assert float(power) == pytest.approx(1, abs=1e-6)
    shown = geomdiag("analyze", runs, "--analyzers", "spectrum,fit")
    assert "runs/geomdiag.toml gives task = group:Z12; map =" in " ".join(shown.stdout.split())
    assert "fit: no known architecture fits" in " ".join(shown.stdout.split())


def test_inspect_lists_the_variables_that_the_task_has(geomdiag: Command, tmp_path: Path) -> None:
    runs = strange(tmp_path / "runs", "wte.weight")
    found = {}
    for task in ("group:Z12", "graph:path-12"):
        done = geomdiag("inspect", runs, "--task", task, "--json", "--analyzers", "spectrum")
        found[task] = json.loads(done.stdout)["runs"][0]["computed"]["spectrum"]
    assert "power" in found["graph:path-12"]
    assert "block_frequency" in found["group:Z12"]
    assert "block_frequency" not in found["graph:path-12"]  # a path's blocks are no frequencies


def test_inspect_with_one_hopeless_run_of_two(geomdiag: Command, tmp_path: Path) -> None:
    strange(tmp_path / "runs/good", "wte.weight")
    strange(tmp_path / "runs/bad", "stuff")
    done = geomdiag("inspect", tmp_path / "runs", "--task", "group:Z12", "--no-measure")
    assert done.exit_code == 3


def test_tokens_and_tokenizer(geomdiag: Command, tmp_path: Path) -> None:
    runs = strange(tmp_path / "runs", "wte.weight", rows=30)
    words = tmp_path / "words.json"
    words.write_text(json.dumps({f" n{at}": at for at in range(30)}), encoding="utf-8")
    said = "strings:" + ",".join(f'" n{at}"' for at in range(0, 30, 5))
    options = ("--analyzers", "fit,spectrum")
    done = geomdiag(
        "analyze", runs, "-t", "group:Z6", "--tokens", said, "--tokenizer", words, *options
    )
    assert done.exit_code == 0, done.output
    # no network was run, so nothing is said of what only its outputs could tell
    assert "they need the network's outputs" in done.output
    assert "memorised" not in done.output
    (node,) = gd.load("runs.geomdiag.zarr").children.values()
    assert json.loads(node.attrs["tokens"])["ids"] == [0, 5, 10, 15, 20, 25]
    power = node["power"].isel(step=0).sel(matrix="embedding", block="k=1")
    assert float(power) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "no task was given"),
        (("-t", "group:Z12", "--map", "embedding"), "expected PART=TENSOR"),
        (("-t", "group:Z12", "--map", "embedding=tok.tabel"), "nearest: encoder.tok.table"),
        (("-t", "group:Z12", "--tokens", "0-11"), "write 0:12"),
        (("-t", "group:Z12", "--tokens", "0:11"), "11 tokens were given (0:11)"),
        (("-t", "group:Z12", "--tokens", "months"), "Give --tokenizer"),
        (("-t", "group:Z12", "--tokens", "0:12", "--model", "a:b"), "Leave --tokens or --model"),
    ],
)
def test_mistakes_end_with_a_word(
    options: tuple[str, ...], message: str, geomdiag: Command, tmp_path: Path
) -> None:
    runs = strange(tmp_path / "runs")
    done = geomdiag("analyze", runs, *options)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not list(Path.cwd().iterdir())


def test_a_mistake_in_the_file_ends_with_a_word(geomdiag: Command, tmp_path: Path) -> None:
    runs = strange(tmp_path / "runs")
    (runs / "geomdiag.toml").write_text('taks = "group:Z12"\n', encoding="utf-8")
    done = geomdiag("analyze", runs)
    assert done.exit_code == 2
    assert "unknown key 'taks'" in done.stderr
    assert "Did you mean 'task'?" in done.stderr
