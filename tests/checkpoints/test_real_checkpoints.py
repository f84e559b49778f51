"""Files nobody here wrote."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest

from geomdiag.checkpoints import open_runs, parse_split
from geomdiag.errors import CheckpointError

GROK = "p_23_dmlp_512_ReLU_random_scale_0.1_decay_2.0_08180102"
FLAT = "p_23_dmlp_512_ReLU_random_scale_0.1_decay_0_11122351"


def test_one_hot_series(real_data: Path) -> None:
    import torch  # noqa: F401 - its import is not what is timed

    started = time.perf_counter()
    runs = open_runs(real_data / "yagent-p23")
    assert time.perf_counter() - started < 10  # about one second; generous for a busy machine
    assert list(runs) == [FLAT, GROK]
    series = runs[GROK]
    assert series.steps.tolist() == [*range(0, 50_000, 200), 50_000]
    assert {c.step_source for c in series} == {"metadata"}
    assert series.unit == "epoch"
    assert {n: s.shape for n, s in series[0].tensors.specs().items()} == {
        "mlp.W_in": (512, 23),
        "mlp.W_out": (23, 512),
        "mlp.basis": (23, 23),
    }
    assert series.split is not None
    inputs = np.array([(a, b) for a in range(23) for b in range(23)])
    assert series.split.mask(inputs).sum() == 396
    history = series.history
    assert history is not None
    assert history.step.tolist() == list(range(50_001))
    reference = np.genfromtxt(
        real_data / "yagent-p23" / "yagent_p23_grok_reference.csv", delimiter=",", names=True
    )
    at = reference["epoch"].astype(int)
    for name, column in {
        "train_loss": "train_loss_stored",
        "heldout_loss": "test_loss_stored",
        "train_accuracy": "train_acc",
        "heldout_accuracy": "test_acc",
    }.items():
        # The table's accuracies were recomputed; the stored ones differ by up to two inputs.
        slack = 0.016 if name.endswith("accuracy") else 0
        np.testing.assert_allclose(
            history.values[name][at], reference[column], rtol=1e-5, atol=slack
        )
    assert runs[FLAT].steps.tolist() == list(range(0, 5001, 200))
    assert runs[FLAT].split is None
    assert len(open_runs(real_data / "yagent-p23" / GROK / "400.pth")) == 1


def test_transformers_by_stem(real_data: Path) -> None:
    runs = open_runs(real_data / "nanda-code-p113")
    assert list(runs) == ["baseline", "mod_addition_no_wd"]
    baseline = runs["baseline"]
    assert baseline.steps.tolist() == [10_600]
    assert baseline.config["p"] == 113
    assert any("python:seed=0,fraction=0.3" in notice for notice in baseline.notices)
    assert baseline.history is not None
    assert baseline.history.values["heldout_loss"][-1] == pytest.approx(2.0097e-4, rel=1e-4)
    mask = parse_split("python:seed=0,fraction=0.3").mask(
        np.array([(a, b) for a in range(113) for b in range(113)])
    )
    assert mask.sum() == 3830
    other = runs["mod_addition_no_wd"]
    assert other.steps.tolist() == [4999]
    assert other[0].metadata["optimizer"]["weight_decay"] == 0.0
    assert other.history is not None
    assert len(other.history.step) == 5000


def test_memorised_and_final(real_data: Path) -> None:
    series = open_runs(real_data / "porth-p97")["porth-p97"]
    assert series.steps.tolist() == [100, 11_100]
    assert [c.path.stem.endswith("memorize") for c in series] == [True, False]
    assert series.history is not None
    assert series.history.values["heldout_accuracy"][-1] == 1.0
    for stem, step in (("", 11_100), ("_memorize", 100)):
        (alone,) = open_runs(real_data / f"porth-p97/p97_frac0.30_wd1_seed0{stem}.pt").values()
        assert alone.steps.tolist() == [step]
        assert alone.config["p"] == 97


def test_configs_beside(real_data: Path) -> None:
    runs = open_runs(real_data / "clock-pizza")
    assert len(runs) == 5
    assert runs["model_p99zdpze5l"].config["attn_coeff"] == 0
    assert runs["model_l8k1hzciux"].config["attn_coeff"] == 1
    assert runs["model_p71frej8t7"].config["model_type"] == "B"
    (alone,) = open_runs(real_data / "clock-pizza" / "model_p99zdpze5l.pt").values()
    assert alone.config["runid"] == "p99zdpze5l"


def test_groups(real_data: Path) -> None:
    runs = open_runs(real_data / "group-composition")
    assert len(runs) == 7
    assert runs["A5_T_seed3"].steps.tolist() == [249_999]
    assert runs["C113_MLP_seed1"].config["group"] == "CyclicGroup"
    assert runs["C113_MLP_seed1"][0].metadata["all_loss"] == pytest.approx(2.0526e-5, rel=1e-4)
    history = runs["S5_MLP_hidden_dim_64_seed1"].history
    assert history is not None
    assert history.values["heldout_accuracy"][0] == pytest.approx(0.00324, rel=1e-2)


def test_odd_files(real_data: Path) -> None:
    odd = real_data / "odd-files"
    runs = open_runs(odd)
    copies = runs["[Task: ADD] from scratch"]
    assert len(copies) == 69
    assert any("WARNING" in n and "bit-identical" in n for n in copies.notices)
    assert runs["lfs_pointer"][0].error
    settings = runs["custom_dataclass"]  # an object of a class that nobody here has
    assert settings.steps.tolist() == [50_000]
    assert settings.config["frac_train"] == 0.3
    modules = runs["finetuned_model"]  # whole modules of TransformerLens
    assert modules.steps.tolist() == [0, 100]
    assert modules[0].tensors["embed.W_E"].shape == modules[1].tensors["embed.W_E"].shape
    assert not [name for name in sys.modules if name.startswith("transformer_lens")]
    with pytest.raises(CheckpointError, match="git lfs pull"):
        open_runs(odd / "lfs_pointer.pt")
    with pytest.raises(CheckpointError, match="holds a ndarray"):
        open_runs(odd / "numpy_pickle.pth")


def test_everything_at_once_and_one_by_one(real_data: Path) -> None:
    runs = open_runs(real_data)
    assert len(runs) == 21
    for series in runs.values():
        assert (np.diff(series.steps) > 0).all()
        for checkpoint in (series[0], series[-1]):
            if checkpoint.error:
                continue
            specs = checkpoint.tensors.specs()
            for name in specs:
                assert checkpoint.tensors[name].shape == specs[name].shape
            (alone,) = open_runs(checkpoint.path).values()
            assert len(alone) == (69 if checkpoint.member else 1)
