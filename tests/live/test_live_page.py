"""The code of docs/live.md runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_training import ANSWERS, INPUTS, Network, fresh
from torch import Tensor, nn

import geomdiag as gd

PAGE = Path(__file__).resolve().parents[2] / "docs" / "live.md"


def blocks() -> dict[str, str]:
    """Return the page's Python, by the words that each block begins with."""
    found = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.S | re.M)
    names = ("loop", "forward", "lightning", "transformers", "sinks", "follower")
    return dict(zip(names, found, strict=True))


def execute(name: str, names: dict[str, Any]) -> dict[str, Any]:
    code = blocks()[name].replace(".zarr", ".nc")  # one file is written in a tenth of the time
    exec(compile(code, f"live.md: {name}", "exec"), names)
    return names


def test_loop_forward_and_follower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = execute("loop", {})
    run = names["tree"]["run"]
    assert run["step"].values.tolist() == [0, 50, 100, 150, 200]
    assert set(run["status"].values) == {"ok"}
    assert float(run["accuracy"].sel(part="train", step=200)) == 1.0
    assert run.attrs["train_inputs"] == 35
    stage, verdict = capsys.readouterr().out.splitlines()
    assert stage in ("memorisation", "symmetry_acquisition", "geometric_organisation", "unknown")
    assert "generalise" in verdict
    alive = execute("forward", names)["monitor"].dataset
    loss = run["loss"].sel(step=200).values
    np.testing.assert_allclose(alive["loss"].sel(step=200).values, loss, rtol=1e-4)
    (tmp_path / "checkpoints").mkdir()
    torch.save(names["network"].state_dict(), "checkpoints/step_200.pt")
    look = execute("follower", names)["look"]
    assert look.fresh == {"checkpoints": (200,)}
    assert not look.making
    assert not look.errors


def test_page_names_the_options_that_there_are() -> None:
    text = PAGE.read_text(encoding="utf-8")
    from typer.testing import CliRunner

    from geomdiag_cli.app import app

    shown = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["watch", "--help"]).output
    for option in re.findall(r"`(--[a-z-]+)", text):
        if option != "--model":  # of analyze, and of watch as well
            assert option in shown
    for name in re.findall(r"`(live_\w+)`", text):
        monitor = gd.live.Monitor(fresh(), "modadd:p=7", analyzers=["fit"])
        monitor.step(0)
        assert name in monitor.dataset.attrs


@pytest.mark.filterwarnings("ignore")  # the library's own
def test_sinks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    execute("sinks", {"gd": gd, "network": fresh(), "train": torch.arange(35)})
    assert capsys.readouterr().out.startswith("200 ")
    assert list((tmp_path / "logs").iterdir())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_lightning_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lightning = pytest.importorskip("lightning.pytorch")
    monkeypatch.chdir(tmp_path)

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = fresh()

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    rows = torch.utils.data.TensorDataset(INPUTS, ANSWERS)
    loader = torch.utils.data.DataLoader(rows, batch_size=8)
    execute("lightning", {"module": Module(), "loader": loader})
    assert gd.load("lightning.geomdiag.nc")["run"]["step"].values.tolist() == [0, 10, 20]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_hugging_face_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    monkeypatch.chdir(tmp_path)

    class Model(Network):
        def forward(self, inputs: Tensor, labels: Tensor) -> Any:  # type: ignore[override]
            logits = super().forward(inputs)
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    arguments = transformers.TrainingArguments(
        output_dir="trainer", max_steps=20, report_to=[], save_strategy="no", use_cpu=True
    )
    rows = [{"inputs": x, "labels": y} for x, y in zip(INPUTS, ANSWERS, strict=True)]
    execute("transformers", {"model": Model(), "arguments": arguments, "rows": rows})
    assert gd.load("trainer.geomdiag.nc")["run"]["step"].values.tolist() == [0, 10, 20]
