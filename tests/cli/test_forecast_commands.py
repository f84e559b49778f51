"""`geomdiag forecast`, `calibrate` and `evaluate`, as a user runs them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from helpers.synthetic_corpus import a_corpus
from typer.testing import CliRunner

import geomdiag as gd
from geomdiag.dynamics.corpus import save_corpus
from geomdiag.dynamics.hazard import SETTINGS
from geomdiag_cli.app import app

ROOT = Path(__file__).resolve().parents[2]
SERIES = ROOT / "fixtures" / "series" / "modadd-p31-mlp"


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Result of the first 30 checkpoints of a real run, which generalises later."""
    folder = tmp_path_factory.mktemp("early")
    run = folder / "runs" / "seed=0"
    run.mkdir(parents=True)
    for file in sorted((SERIES / "seed=0").glob("step_*.safetensors"))[:30]:
        shutil.copy(file, run)
    shutil.copy(SERIES / "seed=0" / "run.json", run)
    tree = gd.analyze(folder / "runs", "modadd", workers=1)
    return gd.save(tree, folder / "early.geomdiag.zarr")


def invoke(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_forecast_of_a_run_that_still_goes_on(result: Path) -> None:
    text = " ".join(invoke("forecast", result).split())
    assert "seed=0" in text
    assert "from losses and geometry" in text
    assert "(24.5 times this) with a chance of" in text
    assert "90 % interval" in text
    found = json.loads(invoke("forecast", result, "--budget", 5000, "--json"))["runs"]["seed=0"]
    assert set(found) == {"step", "verdict", "geometry", "losses"}
    for mode in ("geometry", "losses"):
        assert list(found[mode]["onset"]) == ["0.05", "0.25", "0.5", "0.75", "0.95"]
        chances = list(found[mode]["probability"].values())
        assert chances == sorted(chances)
        assert 0 <= found[mode]["never"] <= 1
    assert "by step 5000" in found["verdict"]


def test_forecast_refuses_what_is_no_budget_or_result(result: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["forecast", str(result), "--budget", "-1"])
    assert done.exit_code == 2
    assert "expected a positive number of steps" in " ".join(done.output.split())
    assert CliRunner().invoke(app, ["forecast", str(tmp_path / "none.zarr")]).exit_code == 2


def test_analyze_holds_a_run_against_the_threshold(result: Path) -> None:
    run = gd.load(result)["seed=0"]
    assert "runs of modadd:p=31" in str(run["threshold_verdict"].values)
    assert "not below" in str(run["threshold_verdict"].values)


def test_own_thresholds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    corpus = save_corpus(a_corpus(tasks=2, seeds=12), tmp_path / "mine.zarr.zip")
    text = invoke("calibrate", corpus)
    assert "modadd:p=5: symmetry_" in text
    assert "written: criterion.json" in text
    criterion = json.loads(Path("criterion.json").read_text())
    assert criterion["source"] == "mine.zarr.zip"
    criterion["tasks"]["modadd:p=31"] = criterion["tasks"].pop("modadd:p=5")
    criterion["tasks"]["modadd:p=31"][0] |= {
        "signal": "symmetry_js[commutativity,mean]",
        "level": 1e9,
    }
    Path("own.json").write_text(json.dumps(criterion))
    written: list[object] = []
    real = gd.store.save
    monkeypatch.setattr(gd.store, "save", lambda *given: (written.append(given), real(*given))[1])
    text = invoke(
        "analyze",
        SERIES,
        "--task",
        "modadd",
        "--analyzers",
        "fit,symmetry",
        "--criterion",
        "own.json",
    )
    assert "never above" in text
    kept = gd.load("modadd-p31-mlp.geomdiag.zarr")["seed=0"]
    assert float(kept["threshold"]) == 1e9
    assert len(written) == 1
    done = CliRunner().invoke(
        app, ["analyze", str(SERIES), "--task", "modadd", "--criterion", str(corpus)]
    )
    assert done.exit_code == 2


def test_evaluate_writes_a_page_and_a_forecaster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setitem(SETTINGS, "max_iter", 5)  # quick; how good it is, other tests ask
    corpus = save_corpus(a_corpus(tasks=3, seeds=6), tmp_path / "mine.zarr.zip")
    page, forecaster = tmp_path / "docs" / "page.md", tmp_path / "forecaster.json"
    text = invoke("evaluate", corpus, "--out", page, "--save", forecaster)
    assert "90 % intervals cover" in text
    written = page.read_text()
    for heading in ("## What was expected", "## False alarms", "extrapolated held-out loss"):
        assert heading in written
    for name in ("error", "reliability", "alarms"):
        assert (page.parent / "figures" / f"page-{name}.svg").is_file()
        assert f"figures/page-{name}.svg" in written
    assert set(json.loads(forecaster.read_text())["modes"]) == {"geometry", "losses"}


def test_evaluate_needs_several_tasks(tmp_path: Path) -> None:
    corpus = save_corpus(a_corpus(tasks=2, seeds=9), tmp_path / "mine.zarr.zip")
    done = CliRunner().invoke(app, ["evaluate", str(corpus)])
    assert done.exit_code == 2
    assert "an evaluation needs 3 tasks" in " ".join(done.output.split())
