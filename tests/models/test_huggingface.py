"""Language models that transformers runs: strictly, offline, and read without it."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_language_models as reference
import torch
from helpers.stored import stored
from reference_language_models import Shape, draw_model

import geomdiag as gd
from geomdiag import models
from geomdiag.errors import ArchitectureError, MissingPartError
from geomdiag.models.architectures import huggingface
from geomdiag.tasks import task

ADD = task("modadd:p=7")
_SIZES = {
    "vocab_size": 8,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
_OPT = {
    "vocab_size": 8,
    "hidden_size": 32,
    "word_embed_proj_dim": 32,
    "ffn_dim": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": None,
}
MADE: Mapping[str, tuple[str, dict[str, Any]]] = {
    "opt": ("OPT", _OPT),
    "bloom": ("Bloom", {"vocab_size": 8, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "gemma": ("Gemma", {**_SIZES, "num_key_value_heads": 2, "head_dim": 8}),
    "olmo2": ("Olmo2", _SIZES),
    "llama-other-rotary": (
        "Llama",
        {
            **_SIZES,
            "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 10000.0},
        },
    ),
}
#: What a file of weights without any library says.
OPT_NAMES = {
    "model.decoder.embed_tokens.weight": (8, 6),
    "model.decoder.embed_positions.weight": (12, 6),
    "model.decoder.final_layer_norm.weight": (6,),
}
OPT_CONFIG = {
    "model_type": "opt",
    "architectures": ["OPTForCausalLM"],
    "tie_word_embeddings": True,
    "transformers_version": "5.23.0",
}


def saved(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> np.ndarray:
    """Save a random model as a trainer does; return its logits of every [a, b, =]."""
    transformers = pytest.importorskip("transformers")
    kind, sizes = MADE[name]
    config = getattr(transformers, f"{kind}Config")(**sizes)
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            if parameter.ndim == 1:
                parameter += 1
    model = model.to(dtype).eval()
    model.save_pretrained(folder)
    tokens = np.pad(ADD.inputs, ((0, 0), (0, 1)), constant_values=7)
    with torch.no_grad():
        return model(input_ids=torch.from_numpy(tokens)).logits[:, -1, :7].numpy()


def read(folder: Path) -> models.Snapshot:
    (run,) = gd.open_runs(folder).values()
    return models.snapshot(run[0], ADD, config=run.config)


def no_network(*_: Any, **__: Any) -> None:
    raise AssertionError("the network was asked")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)


@pytest.mark.parametrize("name", MADE)
@pytest.mark.usefixtures("offline")
def test_logits_are_the_library_s(name: str, tmp_path: Path) -> None:
    wanted = saved(name, tmp_path / "checkpoint-20")
    seen = read(tmp_path)
    assert seen.network is not None
    assert seen.network.architecture == "huggingface"
    before = torch.get_rng_state()
    got = seen.logits
    assert torch.equal(before, torch.get_rng_state())
    assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()
    assert seen.embedding.shape == (7, 32)
    assert "not run from embedding vectors" in seen.missing("differentiable")


def test_double_precision_stays_double(tmp_path: Path) -> None:
    wanted = saved("bloom", tmp_path / "checkpoint-20", torch.float64)
    got = read(tmp_path).logits
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-9 * np.abs(wanted).max())


def change_weights(folder: Path, change: Any) -> None:
    from safetensors.numpy import load_file, save_file

    path = folder / "checkpoint-20" / "model.safetensors"
    save_file(change(load_file(path)), path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda found: {k: v for k, v in found.items() if "layers.1.fc1.weight" not in k},
            r"1 tensors are missing \(model.decoder.layers.1.fc1.weight\)",
        ),
        (
            lambda found: {**found, "model.decoder.stranger": np.zeros((2, 2), np.float32)},
            r"1 tensors have no place in it \(model.decoder.stranger\)",
        ),
        (
            lambda found: {**found, "model.decoder.layers.0.fc1.bias": np.zeros(5, np.float32)},
            "the opt model",
        ),
        (
            lambda found: {**found, "model.decoder.layers.0.fc1.bias": np.full(24, np.nan, "f4")},
            "fc1.bias.*24 values that are NaN",
        ),
    ],
    ids=["missing", "unexpected", "shape", "nan"],
)
def test_weights_that_do_not_fit_are_refused(change: Any, words: str, tmp_path: Path) -> None:
    saved("opt", tmp_path / "checkpoint-20")
    change_weights(tmp_path, change)
    with pytest.raises(ArchitectureError, match=words):
        _ = read(tmp_path).logits


def test_code_beside_the_weights_is_never_run(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    folder = tmp_path / "checkpoint-20"
    wanted = saved("opt", folder)
    (folder / "modeling_own.py").write_text("raise SystemExit('this ran')\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {
        "AutoConfig": "modeling_own.OwnConfig",
        "AutoModelForCausalLM": "modeling_own.Own",
    }
    (folder / "config.json").write_text(json.dumps(config))
    got = read(tmp_path).logits
    assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()
    config["model_type"] = "own"
    (folder / "config.json").write_text(json.dumps(config))
    assert "model_type = own, which transformers" in read(tmp_path).missing("logits")


@pytest.mark.parametrize(
    ("further", "words"),
    [
        ({"quantization_config": {"quant_method": "x"}}, "opt model is quantised"),
        ({"architectures": ["OPTForSequenceClassification"]}, r"saved as OPTForSequenceClassif"),
    ],
)
def test_what_transformers_would_run_otherwise_is_not_run(
    further: dict[str, Any], words: str, tmp_path: Path
) -> None:
    saved("opt", tmp_path / "checkpoint-20")
    path = tmp_path / "checkpoint-20" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **further}))
    seen = read(tmp_path)
    assert words in seen.missing("logits")
    assert seen.embedding.shape == (7, 32)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ({"num_hidden_layers": 10**9}, "type opt with 1000000000 layers, and the checkpoint has"),
        ({"ffn_dim": 10**12}, r"2 layers and \d{12,} numbers, and the checkpoint has 36 tensors"),
        ({"max_position_embeddings": 10**12}, r"and \d{12,} numbers, and the checkpoint has"),
        ({"hidden_size": "wide"}, "cannot build the opt model from its configuration"),
    ],
)
def test_absurd_sizes_take_neither_time_nor_memory(
    size: dict[str, Any], words: str, tmp_path: Path
) -> None:
    saved("opt", tmp_path / "checkpoint-20")
    path = tmp_path / "checkpoint-20" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **size}))
    with pytest.raises(ArchitectureError, match=words):
        _ = read(tmp_path).logits


def weights(names: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in names.items()}


def test_without_transformers_the_embedding_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface, "find_spec", lambda name: None)
    checkpoint = stored(weights(OPT_NAMES))
    seen = models.snapshot(checkpoint, ADD, config=OPT_CONFIG)
    embed = "model.decoder.embed_tokens.weight"
    np.testing.assert_array_equal(seen.embedding, checkpoint.tensors[embed][:7])
    np.testing.assert_array_equal(seen.matrices["unembedding"].values, seen.embedding)
    assert checkpoint.tensors.read == {embed}  # type: ignore[attr-defined]
    for part in ("logits", "differentiable"):
        assert "model_type = opt" in seen.missing(part)
        assert "pip install 'geomdiag[transformers]'" in seen.missing(part)
    with pytest.raises(MissingPartError, match=r"geomdiag\[transformers\]"):
        _ = seen.logits
    assert seen.network is not None
    with pytest.raises(MissingPartError, match=r"geomdiag\[transformers\]"):
        seen.network.logits(ADD.inputs)


def test_names_behind_a_wrapper_are_seen_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface, "find_spec", lambda name: None)
    arrays = {f"_orig_mod.{name}": value for name, value in weights(OPT_NAMES).items()}
    seen = models.snapshot(stored(arrays), ADD, config=OPT_CONFIG)
    assert seen.network is not None
    assert seen.network.roles["embed"] == "_orig_mod.model.decoder.embed_tokens.weight"
    assert seen.embedding.shape == (7, 6)


LLAMA = {
    "model_type": "llama",
    "num_attention_heads": 2,
    "rope_scaling": {"rope_type": "linear", "factor": 2.0},
}


def llama() -> dict[str, np.ndarray]:
    shape = Shape(d=6, heads=2, shared=2, e=4, m=9, blocks=1)
    return {
        name: one.numpy() for name, one in reference.llama(draw_model(0, 8, shape), shape).items()
    }


def test_why_geomdiag_does_not_run_it_itself_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface, "find_spec", lambda name: None)
    reason = models.snapshot(stored(llama()), ADD, config=LLAMA).missing("logits")
    assert "rope_scaling of type 'linear'" in reason
    assert "model_type = llama; running it needs the package transformers" in reason


def test_a_known_model_whose_tensors_do_not_fit_is_refused() -> None:
    arrays = llama()
    del arrays["model.layers.0.mlp.up_proj.weight"]
    with pytest.raises(ArchitectureError, match=r"'model.layers.0.mlp.up_proj.weight' of .* is mi"):
        models.snapshot(stored(arrays), ADD, config=LLAMA)


def test_a_vocabulary_of_a_tokenizer_is_not_taken_for_the_task_s() -> None:
    names = {**OPT_NAMES, "model.decoder.embed_tokens.weight": (500, 6)}
    with pytest.raises(ArchitectureError, match=r"vocabulary has 500 rows.*--tokens"):
        models.snapshot(stored(weights(names)), ADD, config=OPT_CONFIG)


def test_a_recursive_model_s_embedding_is_read_and_the_model_not_run() -> None:
    names = {
        "inner.embed_tokens.embedding_weight": (8, 6),
        "inner.lm_head.weight": (8, 6),
        "inner.L_level.layers.0.self_attn.qkv_proj.weight": (18, 6),
        "inner.L_level.layers.0.mlp.gate_up_proj.weight": (32, 6),
    }
    checkpoint = stored(weights(names))
    seen = models.snapshot(checkpoint, ADD)
    assert seen.embedding.shape == (7, 6)
    assert seen.matrices["unembedding"].values.shape == (7, 6)
    assert "how often its levels run" in seen.missing("logits")
    assert any("how often its levels run" in notice for notice in seen.notices)


def test_other_embeddings_are_left_to_their_owners() -> None:
    names = {"embed_tokens.weight": (8, 6), "mystery.weight": (5, 6)}
    with pytest.raises(ArchitectureError, match="no known architecture"):
        models.snapshot(stored(weights(names)), ADD, config={"model_type": "A"})
