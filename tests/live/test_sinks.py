"""Numbers under stable names, in the real libraries where these are installed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from small_training import SPLIT, fresh

from geomdiag.errors import MissingExtraError
from geomdiag.live import Monitor, sinks

ANALYZERS = ["fit", "symmetry", "dimension"]
NAME = "geometry/symmetry_violation/commutativity/mean"


def watched(*into: Any, steps: tuple[int, ...] = (0, 100), out: Path | None = None) -> Monitor:
    """Measure two steps, with everything going into the sinks."""
    network = fresh()
    monitor = Monitor(
        network, "modadd:p=7", analyzers=ANALYZERS, split=SPLIT, sinks=into, out=out, quiet=True
    )
    for step in steps:
        monitor.step(step)
    monitor.close()
    return monitor


def expected(monitor: Monitor, step: int) -> float:
    found = monitor.dataset["symmetry_violation"]
    return float(found.sel(step=step, symmetry="commutativity", statistic="mean"))


def test_any_callable_is_a_sink(tmp_path: Path) -> None:
    got: list[tuple[int, Mapping[str, float]]] = []
    monitor = watched(lambda step, values: got.append((step, values)), out=tmp_path / "run.nc")
    measured = [(step, values) for step, values in got if NAME in values]
    assert [step for step, _ in measured] == [0, 100]
    values = measured[1][1]
    assert values[NAME] == expected(monitor, 100)
    assert values["geometry/accuracy/heldout"] == float(
        monitor.dataset["accuracy"].sel(step=100, part="heldout")
    )
    assert "geometry/dimension/embedding/effective_dimension" in values
    assert all(type(value) is float for value in values.values())
    prospects = [values for _, values in got if "geometry/stage" in values]
    assert prospects[-1]["geometry/stage"] in (-1, 0, 1, 2, 3)
    last = monitor.forecast["geometry"]
    assert prospects[-1]["geometry/forecast/geometry/onset"] == last["onset"]["0.5"]


def test_a_sink_that_fails_does_not_end_the_training() -> None:
    got: list[int] = []

    def broken(step: int, values: Mapping[str, float]) -> None:
        raise OSError("no connection")

    with pytest.warns(RuntimeWarning, match="no connection") as warned:
        watched(broken, lambda step, _: got.append(step))
    assert len(warned) == 1
    assert got == [0, 100]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_library_names_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'geomdiag\[{name}\]'"):
        getattr(sinks, name)()
    assert issubclass(MissingExtraError, ImportError)


def test_missing_tensorboard_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"geomdiag\[tensorboard\]"):
        sinks.tensorboard(tmp_path)


@pytest.mark.filterwarnings("ignore")  # the libraries' own
def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", exc_type=ImportError)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monitor = watched(sinks.tensorboard(tmp_path / "logs"))
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    found = {one.step: one.value for one in events.Scalars(NAME)}
    assert found == {step: pytest.approx(expected(monitor, step)) for step in (0, 100)}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with pytest.warns(RuntimeWarning, match=r"call wandb.init\(\) before"):
        watched(sinks.wandb())
    run = wandb.init(project="geometry", dir=str(tmp_path), settings={"console": "off"})
    run.log({"train/loss": 1.0})  # the training's own count of calls
    monitor = watched(sinks.wandb())
    assert run.summary[NAME] == expected(monitor, 100)
    assert run.summary["geometry/step"] == 100
    assert run.step == 3
    run.finish()
    assert list(tmp_path.rglob("*.wandb"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'runs.db'}")
    with pytest.warns(RuntimeWarning, match="no MLflow run is active"):
        watched(sinks.mlflow())
    with mlflow.start_run() as run:
        monitor = watched(sinks.mlflow())
    watched(sinks.mlflow(run.info.run_id), steps=(200,))
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, NAME)
    found = {one.step: one.value for one in history}
    assert found.keys() == {0, 100, 200}
    assert found[100] == expected(monitor, 100)
