"""`geomdiag plot` on stored results, corpora and checkpoints."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from helpers.synthetic_corpus import a_corpus, a_run
from typer.testing import Result

import geomdiag as gd
from geomdiag.dynamics.corpus import save_corpus
from geomdiag.plots import FIGURES

pytest.importorskip("matplotlib")
SERIES = Path(__file__).resolve().parents[2] / "fixtures" / "series"
GRID = SERIES / "comparison-5x5-transformer"
Command = Callable[..., Result]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small runs, one of which did not generalise."""
    path = tmp_path_factory.mktemp("plot") / "runs.geomdiag.zarr"
    nodes = {f"/seed={i}": a_run(i, "modadd:p=5", solves=i == 0) for i in range(2)}
    return gd.save(xr.DataTree.from_dict(nodes), path)


def test_the_list_tells_every_figure(geomdiag: Command) -> None:
    done = geomdiag("plot", "--list")
    assert done.exit_code == 0, done.stderr
    for name in FIGURES:
        assert f"\n{name} " in done.stdout
    words = " ".join(done.stdout.split())
    assert "kind of what it shows" in words


def test_a_figure_of_a_run_goes_where_it_is_named(geomdiag: Command, result: Path) -> None:
    done = geomdiag("plot", "dynamics", result, "--run", "seed=0")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "figure: runs.seed=0.dynamics.svg\n"
    text = Path("runs.seed=0.dynamics.svg").read_text(encoding="utf-8")
    assert "modadd:p=5, run seed=0" in text
    again = geomdiag("plot", "dynamics", result, "--run", "seed=0", "-o", "again.svg")
    assert again.stdout == "figure: again.svg\n"
    assert Path("again.svg").read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("suffix", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")]
)
def test_the_suffix_is_the_format(
    geomdiag: Command, result: Path, suffix: str, magic: bytes
) -> None:
    done = geomdiag("plot", "dynamics", result, "--run", "seed=1", "--out", f"a.{suffix}")
    assert done.exit_code == 0, done.stderr
    assert Path(f"a.{suffix}").read_bytes().startswith(magic)


def test_a_figure_of_many_runs_takes_results_and_corpora(
    geomdiag: Command, result: Path, tmp_path: Path
) -> None:
    assert geomdiag("plot", "interventions", result).exit_code == 0
    assert "Time to generalise" in Path("runs.interventions.svg").read_text(encoding="utf-8")
    corpus = save_corpus(a_corpus(tasks=2, seeds=6), tmp_path / "corpus.zarr.zip")
    done = geomdiag("plot", "generalisation", corpus)
    assert done.exit_code == 2
    assert "choose one with task (--task): modadd:p=5, modadd:p=6" in done.stderr
    done = geomdiag("plot", "generalisation", corpus, "--task", "modadd:p=6", "-o", "g.svg")
    assert done.exit_code == 0, done.stderr
    assert "6 runs of modadd:p=6" in Path("g.svg").read_text(encoding="utf-8")


def test_a_figure_of_the_embedding_takes_checkpoints(geomdiag: Command) -> None:
    done = geomdiag("plot", "embedding", GRID, "--task", "comparison:5x5", "--step", 0)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "figure: comparison-5x5-transformer.embedding.0.svg\n"
    first = Path("comparison-5x5-transformer.embedding.0.svg").read_text(encoding="utf-8")
    assert "comparison:5x5, step 0" in first
    done = geomdiag("plot", "embedding", GRID, "-t", "comparison:5x5", "-o", "last.svg")
    assert "comparison:5x5, step 2500" in Path("last.svg").read_text(encoding="utf-8")


def test_a_result_without_a_forecast_is_given_one(
    geomdiag: Command, result: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import geomdiag.dynamics.forecast as room

    asked: list[str] = []

    def made(dataset: xr.Dataset) -> xr.Dataset:
        asked.append(str(dataset.attrs["run"]))
        n = dataset.sizes["step"]
        onset = np.full((1, n, 1), 2000.0)
        never = np.full((1, n), 0.5)
        return xr.Dataset(
            {
                "onset": (("forecast_mode", "step", "quantile"), onset),
                "onset_never": (("forecast_mode", "step"), never),
            },
            {"forecast_mode": ["losses"], "quantile": [0.5]},
        )

    monkeypatch.setattr(room, "forecast_run", made)
    done = geomdiag("plot", "forecast", result, "--run", "seed=1", "-o", "f.svg")
    assert done.exit_code == 0, done.stderr
    assert asked == ["seed=1"]
    assert "When run seed=1 generalises" in Path("f.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tea", "RESULT"], "unknown figure 'tea'. Known: circular-coordinate, dual-grid"),
        (["dynamics", "RESULT"], "there are 2 runs; choose one with --run: seed=0, seed=1"),
        (["dynamics", "RESULT", "--run", "seed=7"], "there is no run 'seed=7'; known: seed=0"),
        (["dynamics", "RESULT", "--run", "seed=0", "--step", "3"], "dynamics shows no single step"),
        (["interventions", "RESULT", "--run", "seed=0"], "interventions shows many runs"),
        (["dynamics", "RESULT", "--run", "seed=0", "-t", "modadd"], "a result, which knows"),
        (["dynamics", "RESULT", "--allow-pickle"], "dynamics reads no checkpoints"),
        (["dynamics", "RESULT", "-o", "a.jpeg"], "found the suffix '.jpeg', expected one of .svg"),
        (["dynamics", "none.zarr"], "there is no result at"),
        (["spectrum", "RESULT", "--run", "seed=0"], "the result has no 'power'"),
        (["embedding", "GRID"], "say what the checkpoints are of: --task"),
        (["embedding", "none", "-t", "modadd"], "there is no such file or folder"),
        (["embedding", "GRID", "-t", "comparison:5x5", "--step", "9999"], "no checkpoint of step"),
        (["circular-coordinate", "GRID", "-t", "comparison:5x5"], "form no abelian group"),
        (["dynamics"], "Missing argument 'RESULT'"),
    ],
)
def test_what_cannot_be_drawn_is_an_error_and_leaves_no_file(
    geomdiag: Command, result: Path, arguments: list[str], message: str
) -> None:
    places = {"RESULT": result, "GRID": GRID}
    done = geomdiag("plot", *(places.get(one, one) for one in arguments))
    assert done.exit_code == 2
    words = " ".join(done.stderr.replace("│", " ").split())
    assert message in words
    assert "Traceback" not in done.stderr
    assert not list(Path().iterdir())


def test_a_result_without_checkpoints_is_an_error(geomdiag: Command, tmp_path: Path) -> None:
    path = gd.save(xr.DataTree.from_dict({"/a": xr.Dataset()}), tmp_path / "empty.zarr")
    done = geomdiag("plot", "dynamics", path)
    assert done.exit_code == 2
    assert "holds no run with a checkpoint" in done.stderr


def test_help_loads_no_matplotlib() -> None:
    code = (
        "import sys; from geomdiag_cli.app import main; sys.argv = ['geomdiag', 'plot', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert not {'matplotlib', 'xarray', 'torch'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "KIND" in done.stdout
