"""From a path to runs: grouping, steps, curves, settings, and the errors."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_makers import STATE, npz, pytorch, safetensors, tensors

from geomdiag.checkpoints import FORMATS, Series, open_runs
from geomdiag.errors import CheckpointError, UnsafeCheckpointError


def state(seed: int, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = shapes or {"a": (4, 3), "b": (2,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def only(path: Path, **options: object) -> Series:
    runs = open_runs(path, **options)  # type: ignore[arg-type]
    assert len(runs) == 1
    return next(iter(runs.values()))


def test_numeric_order_and_words(tmp_path: Path) -> None:
    folder = tmp_path / "run [a]: with, spaces"
    folder.mkdir()
    for step in (1000, 200, 0, 30):
        pytorch(folder / f"{step}.pth", state(step))
    pytorch(folder / "final.pth", state(5), epoch=5000)
    pytorch(folder / "healthy.pth", state(6))
    series = only(folder)
    assert series.name == folder.name
    assert series.steps.tolist() == [0, 30, 200, 1000, 5000]
    assert [c.step_source for c in series] == ["file name"] * 4 + ["metadata"]
    assert any("healthy.pth is left out" in notice for notice in series.notices)


def test_unknown_words_join_the_series_or_stand_alone(tmp_path: Path) -> None:
    for step in (0, 10, 20):
        pytorch(tmp_path / f"step_{step:06d}.pt", state(step))
    pytorch(tmp_path / "lucky.pt", state(3), step=15)
    pytorch(tmp_path / "strange.pt", state(4))
    pytorch(tmp_path / "other_net.pt", state(5, z=(3, 3)))
    runs = open_runs(tmp_path)
    assert sorted(len(series) for series in runs.values()) == [1, 4]
    series = max(runs.values(), key=len)
    assert series.steps.tolist() == [0, 10, 15, 20]
    assert any("strange.pt is left out" in notice for notice in series.notices)
    assert "other_net" in runs


def test_words_placed_by_a_file_beside(tmp_path: Path) -> None:
    for word in ("", "_memorize"):
        pytorch(tmp_path / f"p7_wd1_seed0{word}.pt", state(len(word)))
    beside = {"config": {"p": 7, "seed": 0}, "memorize_step": 100, "steps_run": 900}
    (tmp_path / "p7_wd1_seed0.json").write_text(json.dumps(beside))
    (tmp_path / "p7_wd1_seed0.csv").write_text("step,train_loss,val_acc\n100,0.1,0.3\n900,0.01,1\n")
    series = only(tmp_path)
    assert series.steps.tolist() == [100, 900]
    assert {c.step_source for c in series} == {"sidecar"}
    assert series.config["p"] == 7
    assert series.unit == "step"
    assert series.history is not None
    assert series.history.values["heldout_accuracy"].tolist() == [0.3, 1.0]


def test_runs_told_apart_by_stem(tmp_path: Path) -> None:
    for key in ("k3x", "q9z"):
        pytorch(tmp_path / f"model_{key}.pt", state(len(key)))
        (tmp_path / f"config_{key}.json").write_text(json.dumps({"name": key, "func": None}))
    runs = open_runs(tmp_path)
    assert list(runs) == ["model_k3x", "model_q9z"]
    assert [series.config["name"] for series in runs.values()] == ["k3x", "q9z"]
    assert all(series[0].step_source == "unknown" for series in runs.values())
    alone = only(tmp_path / "model_q9z.pt")
    assert alone.name == "model_q9z"
    assert alone.config["name"] == "q9z"


def test_folder_of_runs_nested(tmp_path: Path) -> None:
    for run in ("mlp/seed0", "mlp/seed1", "deep/er/t"):
        folder = tmp_path / run / "checkpoints"
        folder.mkdir(parents=True)
        for epoch in (0, 9, 100):
            safetensors(folder / f"checkpoint_epoch_{epoch:05d}.safetensors", state(epoch))
        (tmp_path / run / "cfg.json").write_text(json.dumps({"run": run}))
        (tmp_path / run / "metrics.csv").write_text(
            ",train_loss,test_loss,epoch\n7,0.2,0.4,9\n3,1.0,1.5,0\n5,0.1,0.2,100\n"
        )
        pytorch(folder.parent / "model.pt", state(100))
    # model.pt is the same as the last epoch's, has no number, and is left out with a notice
    runs = open_runs(tmp_path)
    assert list(runs) == ["deep/er/t", "mlp/seed0", "mlp/seed1"]
    for name, series in runs.items():
        assert series.steps.tolist() == [0, 9, 100]
        assert series.unit == "epoch"
        assert series.config == {"run": name}
        assert series.history is not None
        assert series.history.step.tolist() == [0, 9, 100]
        assert series.history.values["heldout_loss"].tolist() == [1.5, 0.4, 0.2]
        assert any("model.pt is left out" in notice for notice in series.notices)
    inside = only(tmp_path / "mlp/seed0/checkpoints")
    assert inside.name == "seed0"
    assert inside.config == {"run": "mlp/seed0"}


def test_steps_from_folder_names(tmp_path: Path) -> None:
    for step in (500, 1500, 60):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        safetensors(folder / "model.safetensors", state(step))
        torch.save({"state": {}, "param_groups": []}, folder / "optimizer.pt")
        torch.save([1, 2], folder / "rng_state.pth")
        (folder / "training_args.bin").write_bytes(b"anything")
    series = only(tmp_path)
    assert series.steps.tolist() == [60, 500, 1500]
    assert series.notices == []


def test_two_claim_one_step(tmp_path: Path) -> None:
    pytorch(tmp_path / "step_10.pt", state(1))
    pytorch(tmp_path / "ckpt_10.pt", state(2))
    with pytest.raises(CheckpointError, match="step 10") as caught:
        open_runs(tmp_path)
    assert "step_10.pt" in str(caught.value)
    assert "ckpt_10.pt" in str(caught.value)
    assert "folder of its own" in str(caught.value)


def test_one_state_under_two_names(tmp_path: Path) -> None:
    pytorch(tmp_path / "epoch_1.pt", state(1))
    pytorch(tmp_path / "epoch_2.pt", state(2))
    pytorch(tmp_path / "final.pt", state(2), epoch=2, train_loss=0.1)
    series = only(tmp_path)
    assert [c.path.name for c in series] == ["epoch_1.pt", "epoch_2.pt"]
    assert any("final.pt is the same as epoch_2.pt" in notice for notice in series.notices)


@pytest.mark.parametrize("other", [{"a": (4, 4), "b": (2,)}, {"a": (4, 3), "c": (2,)}])
def test_two_runs_mixed(tmp_path: Path, other: dict[str, tuple[int, ...]]) -> None:
    pytorch(tmp_path / "0.pth", state(1))
    pytorch(tmp_path / "100.pth", state(2))
    pytorch(tmp_path / "150.pth", state(3, **other))
    with pytest.raises(CheckpointError, match="two runs are mixed") as caught:
        open_runs(tmp_path)
    assert "150.pth" in str(caught.value)
    assert "folder of its own" in str(caught.value)


def test_two_seeds_mixed(tmp_path: Path) -> None:
    for step, seed in ((0, 1), (10, 1), (20, 2)):
        pytorch(tmp_path / f"step{step}.pt", state(step), config={"seed": seed})
    with pytest.raises(CheckpointError, match=r"seed 1 .* seed 2"):
        open_runs(tmp_path)


def test_no_steps_at_all(tmp_path: Path) -> None:
    pytorch(tmp_path / "start.pt", state(1))
    pytorch(tmp_path / "final.pt", state(2))
    with pytest.raises(CheckpointError, match="step_<N>"):
        open_runs(tmp_path)


def test_one_bad_file_in_a_good_series(tmp_path: Path) -> None:
    for step in (0, 10, 20):
        pytorch(tmp_path / f"step_{step}.pt", state(step))
    whole = (tmp_path / "step_10.pt").read_bytes()
    (tmp_path / "step_10.pt").write_bytes(whole[: len(whole) // 2])
    series = only(tmp_path)
    assert series.steps.tolist() == [0, 10, 20]
    assert [bool(c.error) for c in series] == [False, True, False]
    assert "step_10.pt" in series[1].error
    with pytest.raises(CheckpointError, match=r"step_10\.pt"):
        _ = series[1].tensors
    assert len(series[1].digest) == 64


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
        (b"just some text", "not recognised"),
        (b"PK\x03\x04 but no zip", "truncated or damaged"),
        (b"\x80\x02}q\x00.", "a plain pickle, not a torch.save file"),
        (b"\x80\x02}q\x00", "truncated or damaged"),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz"])
def test_files_that_are_none(tmp_path: Path, suffix: str, content: bytes, message: str) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    for opened in (path, tmp_path):
        with pytest.raises(CheckpointError, match=path.name) as caught:
            open_runs(opened)
        if not content.startswith((b"PK", b"\x80")) or suffix == ".pt":
            assert message in str(caught.value)


def test_no_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "x.csv").write_text("a,b\n")
    with pytest.raises(CheckpointError, match=r"no checkpoints.*1 \.csv, 1 \.txt") as caught:
        open_runs(tmp_path)
    assert all(name in str(caught.value) for name in FORMATS)
    with pytest.raises(CheckpointError, match="no such file or folder"):
        open_runs(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no files at all"):
        open_runs(tmp_path / "empty")


def test_data_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "train_data.pth"
    torch.save([(0, 1), (1, 1)], path)
    with pytest.raises(CheckpointError, match="not a network's checkpoint"):
        open_runs(path)


def test_all_unsafe(tmp_path: Path) -> None:
    for step in (1, 2):
        held = {"model": torch.nn.Linear(2, 2), "made_by": partial(print, "x")}
        torch.save(held, tmp_path / f"step{step}.pt")
    with pytest.raises(
        UnsafeCheckpointError, match=r"none of the 2(.|\n)*functools\.partial"
    ) as caught:
        open_runs(tmp_path)
    assert "--allow-pickle" in str(caught.value)
    series = only(tmp_path, allow_pickle=True)
    assert set(series[1].tensors) == {"weight", "bias"}


def test_numpy_scalars_need_no_permission(tmp_path: Path) -> None:
    path = tmp_path / "step3.pt"
    torch.save({"model": tensors(STATE), "train_loss": np.float64(0.5), "x": np.ones(2)}, path)
    series = only(path)
    assert series[0].metadata["train_loss"] == 0.5
    objects = tmp_path / "objects.pt"
    torch.save({"model": tensors(STATE), "x": np.array([partial(print)])}, objects)
    with pytest.raises(UnsafeCheckpointError, match=r"functools\.partial"):
        open_runs(objects)


def test_derived_arrays_are_left_out(tmp_path: Path) -> None:
    run = tmp_path / "family" / "variant"
    (run / "checkpoints").mkdir(parents=True)
    (run / "artifacts" / "spectra").mkdir(parents=True)
    for epoch in (0, 5):
        safetensors(run / "checkpoints" / f"epoch_{epoch}.safetensors", state(epoch))
        npz(run / "artifacts" / "spectra" / f"epoch_{epoch}.npz", {"power": np.ones(4)})
    runs = open_runs(tmp_path)
    assert list(runs) == ["family/variant"]
    assert runs["family/variant"].format == "safetensors"
    assert any("2 .npz" in notice for notice in runs.notices)


def test_dumps(tmp_path: Path) -> None:
    mask = np.arange(9) % 2 == 0
    for step in (0, 50):
        parts = {
            "logits": np.full((9, 3), step, dtype=np.float32),
            "embedding": np.ones((3, 2)),
            "train_mask": mask,
        }
        npz(tmp_path / f"{step}.npz", parts, step=step, train_loss=1.0, test_acc=0.5)
    series = only(tmp_path)
    assert [c.kind for c in series] == ["dump", "dump"]
    assert set(series[0].tensors) == {"logits", "embedding", "train_mask"}
    assert series.split is not None
    np.testing.assert_array_equal(series.split.mask(np.zeros((9, 2), dtype=np.int64)), mask)
    assert series.history is not None
    assert series.history.values["heldout_accuracy"].tolist() == [0.5, 0.5]


def test_what_makes_a_dump(tmp_path: Path) -> None:
    one = np.ones((2, 2), dtype=np.float32)
    cases = {
        "a": ({"logits": one}, {}, "dump"),
        "b": ({"embedding": one, "unembedding": one}, {}, "dump"),
        "c": ({"embedding": one, "layer.weight": one}, {}, "state"),
        "d": ({"unembedding": one}, {}, "state"),
        "e": ({"unembedding": one, "own": one}, {"geomdiag": "dump"}, "dump"),
    }
    for name, (arrays, beside, kind) in cases.items():
        for write, suffix in ((npz, "npz"), (safetensors, "safetensors")):
            folder = tmp_path / name / suffix
            folder.mkdir(parents=True)
            assert only(write(folder / f"x.{suffix}", arrays, **beside))[0].kind == kind


def test_series_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "full_run_data.pth"
    torch.save(
        {
            "state_dicts": [tensors(state(seed)) for seed in range(4)],
            "epochs": [0, 100, 200, 300],
            "train_losses": [1.0 / (1 + e) for e in range(301)],  # one value an epoch
            "test_losses": [4.0, 3.0, 2.0, 1.0],  # one value a checkpoint
            "model": tensors(state(9)),
            "config": {"seed": 1, "frac_train": 0.3},
            "train_indices": torch.tensor([5, 1, 7]),
        },
        path,
    )
    series = only(path)
    assert series.steps.tolist() == [0, 100, 200, 300]
    assert series[2].member == "state_dicts[2]"
    np.testing.assert_array_equal(series[2].tensors["a"], state(2)["a"])
    assert len({c.digest for c in series}) == 4
    history = series.history
    assert history is not None
    assert len(history.step) == 301
    assert history.values["train_loss"][200] == 1.0 / 201
    assert history.values["heldout_loss"][[0, 100, 200, 300]].tolist() == [4, 3, 2, 1]
    assert np.isnan(history.values["heldout_loss"][50])
    assert series.split is not None
    assert series.split.kind == "rows"
    assert not any("WARNING" in notice for notice in series.notices)


def test_series_with_checkpoint_epochs(tmp_path: Path) -> None:
    path = tmp_path / "grokking_demo.pth"
    torch.save(
        {
            "model": tensors(state(9)),
            "checkpoints": [tensors(state(seed)) for seed in range(3)],
            "checkpoint_epochs": [0, 99, 199],
            "train_losses": [0.1] * 200,
            "train_indices": torch.arange(3),
            "test_indices": torch.arange(3, 9),
        },
        path,
    )
    assert only(path).steps.tolist() == [0, 99, 199]


def test_series_that_is_one_storage(tmp_path: Path) -> None:
    one = tensors(state(0))
    path = tmp_path / "run.pth"
    torch.save(
        {"state_dicts": [one] * 5, "epochs": list(range(5)), "train_losses": [5, 4, 3, 2, 1]}, path
    )
    (notice,) = [notice for notice in only(path).notices if "WARNING" in notice]
    assert "bit-identical" in notice
    assert "losses vary" in notice


def test_a_growing_series_file_keeps_its_digests(tmp_path: Path) -> None:
    digests = []
    for count in (2, 3):
        path = tmp_path / "run.pth"
        states = [tensors(state(seed)) for seed in range(count)]
        torch.save({"state_dicts": states, "epochs": list(range(count))}, path)
        digests.append([c.digest for c in only(path)])
    assert digests[1][:2] == digests[0]


def test_nested_names_optimizer_and_settings(tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pt"
    held = {
        "params": {
            "Dense_0": {"kernel": torch.ones(2, 3)},
            "Embed_0": {"embedding": torch.ones(4, 2)},
        },
        "optimizer": {
            "state": {0: {"exp_avg": torch.zeros(9, 9)}},
            "param_groups": [{"lr": 1e-3, "weight_decay": 0.1, "params": [0]}],
        },
        "rng_state": torch.zeros(5, dtype=torch.uint8),
        "config": {"weight_decay": 1.0},
        "global_step": 77,
        "epoch": 3,
    }
    torch.save(held, path)
    series = only(path)
    assert set(series[0].tensors) == {"Dense_0.kernel", "Embed_0.embedding"}
    assert series.steps.tolist() == [77]
    assert any("weight_decay 1.0" in n and "0.1" in n for n in series.notices)


@pytest.mark.parametrize("zipped", [True, False])
def test_unusual_tensors(tmp_path: Path, zipped: bool) -> None:
    values = torch.arange(12.0).reshape(3, 4)
    held = {
        "bf": values.to(torch.bfloat16),
        "f8": values.to(torch.float8_e4m3fn),
        "t": values.T,
        "strided": values[:, ::2],
        "parameter": torch.nn.Parameter(values),
        "sparse": values.to_sparse(),
        "complex": torch.complex(values, values).conj(),
    }
    if not zipped:
        del held["f8"]  # the older format has no such type
    torch.save(held, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    found = only(tmp_path / "x.pt")[0].tensors
    assert found.spec("bf").dtype == "bfloat16"
    assert found["bf"].dtype == np.float32
    for name in {"bf", "f8", "parameter", "sparse"} & set(held):
        np.testing.assert_array_equal(found[name], values.numpy())
    np.testing.assert_array_equal(found["t"], values.numpy().T)
    np.testing.assert_array_equal(found["strided"], values.numpy()[:, ::2])
    np.testing.assert_array_equal(found["complex"], values.numpy() * (1 - 1j))


def test_safetensors_types(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    values = torch.arange(-4.0, 8.0).reshape(3, 4)
    held = {
        "bf": values.to(torch.bfloat16),
        "f8": values.to(torch.float8_e5m2),
        "none": torch.zeros(0, 3),
    }
    save_file(held, tmp_path / "x.safetensors")
    found = only(tmp_path / "x.safetensors")[0].tensors
    np.testing.assert_array_equal(found["bf"], values.numpy())
    np.testing.assert_array_equal(found["f8"], held["f8"].float().numpy())
    assert found["none"].shape == (0, 3)


def shards(folder: Path, weight_map: dict[str, str]) -> Path:
    safetensors(folder / "model-00001-of-00002.safetensors", {"a": STATE["ids"]})
    safetensors(folder / "model-00002-of-00002.safetensors", {"b": STATE["scale"]})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 36}, "weight_map": weight_map}))
    return index


def test_sharded(tmp_path: Path) -> None:
    weight_map = {f: f"model-0000{i}-of-00002.safetensors" for i, f in ((1, "a"), (2, "b"))}
    shards(tmp_path, weight_map)
    series = only(tmp_path)
    np.testing.assert_array_equal(series[0].tensors["a"], STATE["ids"])
    before = series[0].digest
    safetensors(
        tmp_path / "model-00002-of-00002.safetensors", {"b": np.array(3.5, dtype=np.float32)}
    )
    assert only(tmp_path)[0].digest != before
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors' is missing"):
        open_runs(tmp_path)


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "sub/x", "..", "a\\b"])
def test_an_index_stays_in_its_folder(tmp_path: Path, shard: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    safetensors(tmp_path / "secret.safetensors", {"a": STATE["ids"]})
    index = shards(folder, {"a": shard})
    with pytest.raises(CheckpointError, match="plain file names"):
        open_runs(index)


def test_a_shard_without_its_index(tmp_path: Path) -> None:
    shards(tmp_path, {}).unlink()
    with pytest.raises(CheckpointError, match=r"index"):
        open_runs(tmp_path)


def test_split_given_found_and_suggested(tmp_path: Path) -> None:
    for step in (0, 1):
        pytorch(tmp_path / f"step{step}.pt", state(step))
    (tmp_path / "config.yaml").write_text("seed: 3\ntrain_frac: 0.4\n")
    series = only(tmp_path)
    assert series.split is None
    assert any("--split python:seed=3,fraction=0.4" in notice for notice in series.notices)
    torch.save([(0, 1), (1, 1)], tmp_path / "train_data.pth")
    torch.save([(0, 0), (1, 0)], tmp_path / "test_data.pth")
    found = only(tmp_path)
    assert found.split is not None
    assert found.split.source == "train_data.pth"
    assert found.split.mask(np.array([(0, 0), (0, 1), (1, 0), (1, 1)])).tolist() == [0, 1, 0, 1]
    given = only(tmp_path, split="numpy:seed=0,fraction=0.5").split
    assert given is not None
    assert given.kind == "shuffle"


def test_our_own_run_json(tmp_path: Path) -> None:
    for step in (0, 10):
        safetensors(tmp_path / f"step_{step}.safetensors", state(step), step=step)
    document = {
        "split": {"train": [0, 3]},
        "history": {"step": [0, 5, 10], "train_loss": [3, 2, 1], "heldout_accuracy": [0, 0, 1]},
        "config": {"task": "modadd:p=2"},
    }
    (tmp_path / "run.json").write_text(json.dumps(document))
    series = only(tmp_path)
    assert series.split is not None
    assert series.split.value.tolist() == [0, 3]
    assert series.config == {"task": "modadd:p=2"}
    assert series.history is not None
    assert series.history.step.tolist() == [0, 5, 10]
    assert series.history.source == "run.json"


def test_jsonl_with_val_and_bare_loss(tmp_path: Path) -> None:
    pytorch(tmp_path / "checkpoint_step_20.pt", state(0))
    rows = [{"step": s, "loss": 1 / (s + 1), "val_loss": 2.0, "val_accuracy": 0.5} for s in (0, 20)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    history = only(tmp_path).history
    assert history is not None
    assert set(history.values) == {"train_loss", "heldout_loss", "heldout_accuracy"}
    assert history.values["train_loss"].tolist() == [1.0, 1 / 21]


@pytest.mark.parametrize(("step", "kept"), [(20, True), (21, False)])
def test_epochs_are_not_taken_for_steps(tmp_path: Path, step: int, kept: bool) -> None:
    """Unless they coincide, as with one batch an epoch."""
    pytorch(tmp_path / f"step_{step}.pt", state(0))
    (tmp_path / "metrics.csv").write_text("epoch,train_loss\n0,3\n20,1\n")
    series = only(tmp_path)
    assert (series.history is not None) == kept
    assert any("counts in epoch" in notice for notice in series.notices) != kept


def test_names_and_stored_steps_that_differ(tmp_path: Path) -> None:
    for epoch in (99, 199):
        pytorch(tmp_path / f"epoch_{epoch + 1}.pt", state(epoch), epoch=epoch)
    series = only(tmp_path)
    assert series.steps.tolist() == [99, 199]
    assert any("epoch_100.pt" in notice and "99" in notice for notice in series.notices)


def test_a_file_and_a_folder_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "alpha").mkdir()
    pytorch(tmp_path / "alpha" / "model.pt", state(0))
    pytorch(tmp_path / "alpha.pt", state(1))
    pytorch(tmp_path / "beta.pt", state(2))
    assert sorted(open_runs(tmp_path)) == ["alpha", "alpha.pt", "beta"]


def test_broken_files_beside_do_not_stop_the_work(tmp_path: Path) -> None:
    pytorch(tmp_path / "step_20.pt", state(0))
    (tmp_path / "config.json").write_text("{ broken")
    (tmp_path / "train_data.pth").write_bytes(b"broken")
    notices = " ".join(only(tmp_path).notices)
    assert "config.json" in notices
    assert "train_data.pth" in notices


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path: Path) -> None:
    path = pytorch(tmp_path / "step_20.pt", state(0))
    path.chmod(0)
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_runs(tmp_path)


def test_importing_and_naming_formats_needs_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, geomdiag.checkpoints as c; [c.FORMATS[n].description for n in c.FORMATS]; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["dumps", "weights", "checkpoints", "models"])
def test_an_opened_folder_gives_its_own_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless settings or curves beside it show that the folder above is the run's."""
    folder = tmp_path / "seed0" / name
    folder.mkdir(parents=True)
    for step in (0, 5):
        pytorch(folder / f"step_{step}.pt", state(step))
    assert only(folder).name == name
    assert list(open_runs(tmp_path)) == ["seed0"]
    monkeypatch.chdir(folder.parent)
    assert only(Path(name)).name == name
    monkeypatch.chdir(folder)
    assert only(Path()).name == name
    (folder.parent / "metrics.csv").write_text("step,train_loss\n0,1\n5,0.5\n")
    assert only(folder).name == "seed0"


@pytest.mark.parametrize(
    ("files", "unit", "steps", "left_out"),
    [
        (
            {"epoch_1": {"step": 100}, "epoch_2": {}, "epoch_3": {"step": 300}},
            "epoch",
            [1, 2, 3],
            "",
        ),
        (
            {"step_10": {}, "step_20": {"epoch": 2}, "step_30": {"epoch": 3}},
            "step",
            [10, 20, 30],
            "",
        ),
        ({"epoch_1": {"step": 50}, "epoch_2": {"step": 90}}, "step", [50, 90], ""),
        ({"step_9": {"epoch": 1, "step": 9}, "step_20": {"epoch": 2}}, "epoch", [1, 2], ""),
        ({"epoch_1": {}, "epoch_2": {}, "step_50": {}}, "epoch", [1, 2], "step_50.pt"),
        ({"best": {"epoch": 3}, "final": {"step": 100}}, "step", [100], "best.pt"),
        ({"5": {}, "step_7": {}}, "step", [5, 7], ""),
    ],
)
def test_epochs_are_not_put_among_steps(
    files: dict[str, dict[str, int]], unit: str, steps: list[int], left_out: str, tmp_path: Path
) -> None:
    for seed, (name, inside) in enumerate(files.items()):
        state = {"w": torch.full((2, 2), float(seed))}
        torch.save({"model": state, **inside}, tmp_path / f"{name}.pt")
    (series,) = open_runs(tmp_path).values()
    assert (series.unit, series.steps.tolist()) == (unit, steps)
    told = [notice for notice in series.notices if "counts in" in notice]
    assert [notice.split()[0] for notice in told] == ([left_out] if left_out else [])
