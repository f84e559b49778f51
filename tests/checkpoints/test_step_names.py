"""Step numbers out of names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geomdiag.checkpoints.steps import folder_count, read_stem, sidecar_key, without_steps


@pytest.mark.parametrize(
    ("stem", "step", "unit", "base", "word"),
    [
        ("0", 0, "", "", ""),
        ("49800", 49800, "", "", ""),
        ("step_010000", 10000, "step", "", ""),
        ("model_epoch_20", 20, "epoch", "", ""),
        ("checkpoint_epoch_00100", 100, "epoch", "", ""),
        ("ckpt_epoch7", 7, "epoch", "", ""),
        ("ep000100", 100, "epoch", "", ""),
        ("iter500", 500, "step", "", ""),
        ("it_500", 500, "step", "", ""),
        ("checkpoint-500", 500, "", "", ""),
        ("epoch=3-step=1200", 1200, "step", "", ""),
        ("epoch=3-val_loss=0.25", 3, "epoch", "val_loss=0.25", ""),
        ("checkpoint_step_5", 5, "step", "", ""),
        ("wd1_seed0_step40", 40, "step", "wd1_seed0", ""),
        ("final", None, "", "", "final"),
        ("checkpoint_final", None, "", "", "final"),
        ("p97_frac0.30_wd1_seed0", None, "", "p97_frac0.30_wd1_seed0", ""),
        ("p97_frac0.30_wd1_seed0_memorize", None, "", "p97_frac0.30_wd1_seed0", "memorize"),
        ("model_l8k1hzciux", None, "", "model_l8k1hzciux", ""),
        ("p_23_dmlp_512_ReLU", None, "", "p_23_dmlp_512_ReLU", ""),
        ("finetuned_model_100", None, "", "finetuned_model_100", ""),
        ("baseline", None, "", "baseline", ""),
        ("model", None, "", "", ""),
        ("step1.5", None, "", "step1.5", ""),
        ("sweep10", None, "", "sweep10", ""),
        ("digit7", None, "", "digit7", ""),
        ("epoch=-1", None, "", "epoch=1", ""),  # below zero, not 1
        ("step-1", 1, "step", "", ""),
        ("20240506", None, "", "20240506", ""),  # a date
        ("20240500", 20240500, "", "", ""),
        ("step_10k", 10_000, "step", "", ""),
        ("step10K-seed_3", 10_000, "step", "seed_3", ""),
        ("ckpt-1.5M", 1_500_000, "", "", ""),
        ("checkpoint_2k", 2000, "", "", ""),
        ("epoch_1e3", 1000, "epoch", "", ""),
        ("iter=2.5e+4", 25_000, "step", "", ""),
        ("10k-steps", 10_000, "step", "", ""),
        ("model_500_epochs", 500, "epoch", "", ""),
        ("1.5M_steps_wd1", 1_500_000, "step", "wd1", ""),
        ("100_steps_seed_3", 100, "step", "seed_3", ""),
        ("step_1.2345k", None, "", "step_1.2345k", ""),  # 1234.5
        ("step_10kb", None, "", "step_10kb", ""),
        ("step_10m", None, "", "step_10m", ""),  # minutes, millions, a model's name
        ("ckpt-7B", None, "", "ckpt-7B", ""),
        ("ckpt_3e7", None, "", "ckpt_3e7", ""),  # a hash may begin so
        ("epoch_1e-3", None, "", "epoch_1e-3", ""),
        ("step_1e99", None, "", "step_1e99", ""),
        ("step_9999999999999M", None, "", "step_9999999999999M", ""),
        ("model_10k", None, "", "model_10k", ""),
        ("seed_3_steps", None, "", "seed_3_steps", ""),
        ("3-steps-100", 100, "step", "3", ""),
        ("2-steps-ahead", 2, "step", "ahead", ""),
    ],
)
def test_known_names(stem: str, step: int | None, unit: str, base: str, word: str) -> None:
    found = read_stem(stem)
    assert (found.step, found.unit, found.base, found.word) == (step, unit, base, word)


@given(
    step=st.integers(0, 10**12),
    token=st.sampled_from(["step", "steps", "epoch", "ep", "iter", "it", "ckpt", "checkpoint"]),
    gap=st.sampled_from(["", "_", "-", "="]),
    width=st.integers(0, 8),
    base=st.sampled_from(["", "model_", "wd1_seed3_", "frac0.3-"]),
)
def test_numbers_come_back(step: int, token: str, gap: str, width: int, base: str) -> None:
    found = read_stem(f"{base}{token}{gap}{step:0{width}d}")
    assert found.step == step
    assert found.base == {"model_": ""}.get(base, base.strip("_-"))


@given(st.text(max_size=40))
def test_any_name_can_be_read(stem: str) -> None:
    found = read_stem(stem)
    assert found.step is None or found.step >= 0
    sidecar_key(stem)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("config_f5dh675z97", "f5dh675z97"),
        ("model_f5dh675z97", "f5dh675z97"),
        ("baseline.result", "baseline"),
        ("metrics", ""),
        ("training_history", ""),
        ("summary_metrics", ""),
        ("p97_frac0.30_wd1_seed0_memorize", "p97_frac0_30_wd1_seed0"),
    ],
)
def test_sidecar_key(name: str, key: str) -> None:
    assert sidecar_key(name) == key


@given(
    thousands=st.integers(1, 10**6),
    token=st.sampled_from(["step", "epoch", "it", "ckpt"]),
    gap=st.sampled_from(["", "_", "-", "="]),
)
def test_thousands_are_read_as_if_they_were_written_out(
    thousands: int, token: str, gap: str
) -> None:
    short, long = (f"wd1_{token}{gap}{text}" for text in (f"{thousands}k", f"{thousands}000"))
    assert read_stem(short) == read_stem(long)
    assert without_steps(short) == without_steps(long) == "wd1_"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("100", (100, "")),
        ("000100", (100, "")),
        ("10k", (10_000, "")),
        ("1.5M", (1_500_000, "")),
        ("10k-steps", (10_000, "step")),
        ("3_epochs", (3, "epoch")),
        ("20240506", None),
        ("1e5", None),
        ("step_100", None),
        ("1.5", None),
        ("0.5k1", None),
        ("model_3_epochs", None),
        ("seed1", None),
    ],
)
def test_folders_called_by_a_number(name: str, found: tuple[int, str] | None) -> None:
    assert folder_count(name) == found
