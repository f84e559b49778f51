"""Callbacks in the real trainers of Lightning and Hugging Face."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import xarray as xr
from small_training import ANSWERS, INPUTS, SPLIT, Network, fresh
from torch import Tensor, nn

import geomdiag as gd
from geomdiag.errors import MissingExtraError

OPTIONS: dict[str, Any] = {
    "every": 4,
    "analyzers": ["fit", "symmetry", "dimension"],
    "split": SPLIT,
    "quiet": True,
}


def same_numbers(out: Path, folder: Path, name: str) -> None:
    """Compare a result with analyze's of the states that were saved on the way."""
    found = gd.load(out)["run"].to_dataset()
    options = {"analyzers": OPTIONS["analyzers"], "split": SPLIT, "workers": 1}
    (node,) = gd.analyze(folder, "modadd:p=7", **options).children.values()
    expected = node.to_dataset()
    assert found["step"].values.tolist() == expected["step"].values.tolist()
    assert set(found["status"].values) == {"ok"}
    assert name in found.attrs["roles"]
    for variable in ("loss", "accuracy", "symmetry_violation", "dimension"):
        xr.testing.assert_identical(found[variable], expected[variable])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the library's own
def test_lightning(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch")
    from geomdiag.live.lightning import GeometryCallback

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = fresh()

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    class Saver(lightning.Callback):  # type: ignore[misc, name-defined]
        def save(self, trainer: Any, module: Any) -> None:
            state, step = module.state_dict(), trainer.global_step
            if step % 4 == 0 or step == 10:
                torch.save(state, tmp_path / "saved" / f"step_{step}.pt")

        def on_train_start(self, trainer: Any, module: Any) -> None:
            (tmp_path / "saved").mkdir(exist_ok=True)
            self.save(trainer, module)

        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            self.save(trainer, module)

    def fit(callbacks: list[Any], steps: int, path: str | None = None) -> tuple[Any, Any]:
        torch.manual_seed(3)
        rows = torch.utils.data.TensorDataset(INPUTS, ANSWERS)
        loader = torch.utils.data.DataLoader(rows, batch_size=8, shuffle=True)
        module = Module()
        trainer = lightning.Trainer(
            max_steps=steps,
            accumulate_grad_batches=2,
            callbacks=callbacks,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(module, loader, ckpt_path=path)
        return trainer, module

    out = tmp_path / "run.nc"
    callback = GeometryCallback("modadd:p=7", out=out, **OPTIONS)
    trainer, module = fit([callback, Saver()], 10)
    assert callback.monitor is not None
    assert callback.monitor.cost.measured == 4
    assert gd.load(out)["run"]["step"].values.tolist() == [0, 4, 8, 10]
    same_numbers(out, tmp_path / "saved", "net.embedding.weight")
    _, alone = fit([], 10)
    for one, other in zip(module.parameters(), alone.parameters(), strict=True):
        assert torch.equal(one, other)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = GeometryCallback("modadd:p=7", out=out, **OPTIONS)
    fit([again], 16, path=str(tmp_path / "last.ckpt"))
    assert gd.load(out)["run"]["step"].values.tolist() == [0, 4, 8, 10, 12, 16]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_hugging_face(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from geomdiag.live.huggingface import GeometryCallback

    class Model(Network):
        def forward(self, inputs: Tensor, labels: Tensor) -> Any:  # type: ignore[override]
            logits = super().forward(inputs)
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    class Saver(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def save(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
            folder = tmp_path / "saved"
            folder.mkdir(exist_ok=True)
            if state.global_step % 4 == 0 or state.global_step == 10:
                torch.save(model.state_dict(), folder / f"step_{state.global_step}.pt")

        on_train_begin = on_step_end = save

    def fit(callbacks: list[Any]) -> Any:
        torch.manual_seed(1)
        model = Model()
        rows = [{"inputs": x, "labels": y} for x, y in zip(INPUTS, ANSWERS, strict=True)]
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path / "trainer"),
            max_steps=10,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            seed=3,
        )
        transformers.Trainer(
            model=model, args=arguments, train_dataset=rows, callbacks=callbacks
        ).train()
        return model

    out = tmp_path / "run.nc"
    callback = GeometryCallback("modadd:p=7", out=out, **OPTIONS)
    model = fit([callback, Saver()])
    assert callback.monitor is not None
    assert gd.load(out)["run"]["step"].values.tolist() == [0, 4, 8, 10]
    same_numbers(out, tmp_path / "saved", "embedding.weight")
    for one, other in zip(model.parameters(), fit([]).parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("lightning", ["lightning", "lightning.pytorch", "pytorch_lightning"]),
        ("huggingface", ["transformers"]),
    ],
)
def test_a_missing_trainer_names_its_extra(
    module: str, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"geomdiag.live.{module}", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'geomdiag\[(lightning|transformers)"):
        __import__(f"geomdiag.live.{module}")
