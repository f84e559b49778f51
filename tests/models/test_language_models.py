"""Language models that geomdiag runs itself: against the library that made them, and refusals."""

from __future__ import annotations

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
from geomdiag.checkpoints.series import TensorSpec
from geomdiag.errors import ArchitectureError, MissingPartError
from geomdiag.models.architectures.decoder import architecture as decoder_transformer
from geomdiag.tasks import task

ADD = task("modadd:p=7")
_SIZES = {
    "vocab_size": 8,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_SHARED = {**_SIZES, "num_key_value_heads": 2}
_GPT2 = {"vocab_size": 8, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
MADE: Mapping[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", _GPT2),
    "gpt2-scaled-by-layer": (
        "GPT2",
        {
            **_GPT2,
            "scale_attn_by_inverse_layer_idx": True,
            "activation_function": "relu",
            "layer_norm_epsilon": 0.01,
        },
    ),
    "gpt2-unscaled": ("GPT2", {**_GPT2, "scale_attn_weights": False, "n_layer": 1}),
    "neox": ("GPTNeoX", _SIZES),
    "neox-serial": (
        "GPTNeoX",
        {
            **_SIZES,
            "use_parallel_residual": False,
            "rope_parameters": {
                "rope_theta": 500.0,
                "partial_rotary_factor": 0.5,
                "rope_type": "default",
            },
        },
    ),
    "llama": ("Llama", _SHARED),
    "llama-tied-biases": (
        "Llama",
        {
            **_SIZES,
            "num_key_value_heads": 1,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
            "head_dim": 6,
            "rms_norm_eps": 0.01,
            "rope_parameters": {"rope_theta": 77.0, "rope_type": "default"},
        },
    ),
    "llama-one-block": ("Llama", {**_SIZES, "num_hidden_layers": 1, "hidden_act": "gelu"}),
    "mistral": ("Mistral", _SHARED),
    "qwen2": ("Qwen2", _SHARED),
    "qwen3": ("Qwen3", {**_SHARED, "head_dim": 10, "tie_word_embeddings": True}),
}


def made(kind: str, settings: Mapping[str, Any]) -> Any:
    """Return a model of the real library with random weights, gains and offsets included."""
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{kind}Config")(
        **settings, bos_token_id=None, eos_token_id=None
    )
    name = f"{kind}LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM"
    model = getattr(transformers, name)(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
            if parameter.ndim == 1:
                parameter += 1
    return model.eval()


def answers(model: Any) -> np.ndarray:
    """Return the library's logits of every [a, b, =]."""
    tokens = np.pad(ADD.inputs, ((0, 0), (0, 1)), constant_values=7)
    with torch.no_grad():
        return model(torch.from_numpy(tokens)).logits[:, -1, :7].numpy()


def close(got: np.ndarray, wanted: np.ndarray) -> None:
    assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("name", MADE)
def test_logits_are_the_library_s(name: str, tmp_path: Path) -> None:
    model = made(*MADE[name])
    model.save_pretrained(tmp_path / "checkpoint-20")
    (run,) = gd.open_runs(tmp_path).values()
    seen = models.snapshot(run[0], ADD, config=run.config)
    assert seen.network is not None
    assert seen.network.architecture == "decoder_transformer"
    assert not seen.notices
    close(seen.logits, answers(model))
    operands = [torch.from_numpy(seen.embedding[column]) for column in ADD.inputs.T]
    close(seen.network.logits_from_embeddings(operands).numpy(), answers(model))


def test_files_as_meta_orders_each_head_s_axes() -> None:
    model = made("Llama", _SHARED)
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    called = {
        reference.NAMES["hf"][part]: reference.NAMES["meta"][part]
        for part in reference.NAMES["meta"]
        if part != "block"
    }
    other = {}
    for name, values in state.items():
        inner = name.removesuffix(".weight")
        if "layers" in name:
            block, inner = inner.split(".", 3)[2], inner.split(".", 3)[3]
            if inner.endswith(("q_proj", "k_proj")):  # axes i and i + n become neighbours
                heads = values.reshape(-1, 2, 4, 32)
                values = heads.transpose(0, 2, 1, 3).reshape(values.shape)
            other[f"layers.{block}.{called[inner]}.weight"] = values
        else:
            other[called[inner] + ".weight"] = values
    params = {"dim": 32, "n_heads": 4, "n_kv_heads": 2, "norm_eps": 1e-6, "rope_theta": 10000.0}
    seen = models.snapshot(stored(other), ADD, config=params)
    close(seen.logits, answers(model))


def shapes(state: Mapping[str, torch.Tensor]) -> dict[str, TensorSpec]:
    return {name: TensorSpec(tuple(value.shape), "float32") for name, value in state.items()}


def state(shape: Shape, names: str = "hf", vocabulary: int = 8) -> dict[str, np.ndarray]:
    drawn = draw_model(0, vocabulary, shape)
    return {
        name: value.numpy() for name, value in reference.llama(drawn, shape, names=names).items()
    }


LLAMA = {"model_type": "llama", "num_attention_heads": 4}


def test_without_the_number_of_heads_the_matrices_are_read_and_nothing_is_guessed() -> None:
    checkpoint = stored(state(Shape(shared=2), "own"))
    seen = models.snapshot(checkpoint, ADD)
    np.testing.assert_array_equal(seen.embedding, checkpoint.tensors["embedding.weight"][:7])
    assert seen.matrices["unembedding"].rows == "classes"
    for part in ("logits", "differentiable"):
        assert "number of heads is not in the weights" in seen.missing(part)
        assert "'num_attention_heads' (or 'n_heads')" in seen.missing(part)
    with pytest.raises(MissingPartError, match="number of heads"):
        _ = seen.logits
    assert seen.network is not None
    with pytest.raises(MissingPartError, match="number of heads"):
        seen.network.logits(ADD.inputs)
    assert any("only its matrices are read" in notice for notice in seen.notices)
    assert checkpoint.tensors.read == {"embedding.weight", "lm_head.weight"}  # type: ignore[attr-defined]


def test_what_is_assumed_of_an_own_model_is_noticed() -> None:
    seen = models.recognise(
        shapes(reference.llama(draw_model(0, 8, Shape(tied=True)), Shape(), names="own")),
        {"n_heads": 4},
    )
    for assumed in (
        "silu is assumed",
        "1e-06 assumed",
        "base 10000 are assumed",
        "embedding is taken for it (tied weights)",
        "run as such a model",
    ):
        assert sum(assumed in notice for notice in seen.notices) == 1
    said = {
        "n_heads": 4,
        "act_fn": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e4,
        "tie_word_embeddings": True,
    }
    (notice,) = models.recognise(
        shapes(reference.llama(draw_model(0, 8, Shape(tied=True)), Shape(), names="own")), said
    ).notices
    assert "run as such a model" in notice


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"n_heads": 5}, "5 heads, which do not divide an attention 24 wide"),
        ({"n_heads": 4, "head_dim": 8}, "head_dim = 8, but an attention 24 wide"),
        ({"n_heads": 3}, "keys and values 12 wide are not shared"),
        ({"n_heads": 4, "sliding_window": 2}, "windows of 8 positions or more"),
        ({"n_heads": 4, "rope_scaling": {"type": "linear", "factor": 2.0}}, "of type 'linear'"),
        (
            {"n_heads": 4, "rope_parameters": {"full_attention": {"rope_theta": 1.0}}},
            "rope_parameters.full_attention",
        ),
        ({"n_heads": 4, "partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ({"n_heads": 8}, "turns 3 axes of heads 3 wide"),
        ({"n_heads": 4, "hidden_act": "cosine"}, "'cosine', which is not one of relu"),
        ({"n_heads": 4, "norm_first": False}, "says norm_first = False"),
        ({"n_heads": 4, "post_norm": True}, "says norm_first = False"),
        ({"n_heads": 4, "logits_scaling": 8.0}, "logits_scaling = 8.0"),
        ({"n_heads": 4, "embedding_multiplier": 12}, "embedding_multiplier = 12"),
        ({"n_heads": 4, "pool": "mean"}, "says pool = mean"),
        ({"n_heads": 4, "normalization_type": "LN"}, "says normalization_type = ln"),
        ({"n_heads": 4, "norm_type": "layernorm"}, "says normalization_type = layernorm"),
        ({"n_heads": 4, "use_rope": False}, "says use_rope = False"),
        ({"n_heads": 4, "positional_embedding_type": "none"}, "positional_embedding_type = none"),
    ],
)
def test_what_cannot_be_run_is_said(config: dict[str, Any], words: str) -> None:
    assert words in models.snapshot(stored(state(Shape(shared=2))), ADD, config=config).missing(
        "logits"
    )


def test_another_project_s_word_is_not_hugging_face_s_name() -> None:
    config = {"model_type": "transformer", "n_heads": 4}
    seen = models.snapshot(stored(state(Shape(), "own")), ADD, config=config)
    assert any("run as such a model" in notice for notice in seen.notices)
    assert seen.logits.shape == (49, 7)
    config["transformers_version"] = "5.23.0"
    other = models.snapshot(stored(state(Shape(), "own")), ADD, config=config)
    assert "model_type = transformer" in other.missing("logits")


def test_a_wide_window_hides_nothing() -> None:
    config = {**LLAMA, "sliding_window": 8}
    seen = models.snapshot(stored(state(Shape())), ADD, config=config)
    unlimited = models.snapshot(stored(state(Shape())), ADD, config=LLAMA)
    np.testing.assert_array_equal(seen.logits, unlimited.logits)


def test_a_head_norm_of_another_width_is_refused() -> None:
    arrays = state(Shape(head_norms=True))
    for name in arrays:
        if "_norm" in name and "self_attn" in name:
            arrays[name] = arrays[name][:3]
    reason = models.snapshot(stored(arrays), ADD, config={"n_heads": 4}).missing("logits")
    assert "6 wide each; their normalisation has 3 weights" in reason


def test_a_missing_read_out_is_the_embedding_only_where_that_is_said() -> None:
    arrays = state(Shape(tied=True))
    with pytest.raises(ArchitectureError, match=r"'lm_head.weight' is missing.*tie_word_embeddin"):
        models.snapshot(stored(arrays), ADD, config=LLAMA)
    seen = models.snapshot(stored(arrays), ADD, config={**LLAMA, "tie_word_embeddings": True})
    assert seen.network is not None
    assert seen.network.roles["unembed"] == "model.embed_tokens.weight"
    untied = {"n_heads": 4, "tie_word_embeddings": False}
    with pytest.raises(ArchitectureError, match=r"'lm_head.weight' is missing"):
        models.snapshot(stored(arrays), ADD, config=untied)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model.layers.1.mlp.up_proj.weight": None}, "'model.layers.1.mlp.up_proj.weight' of "),
        ({"model.norm.weight": (5,)}, "'model.norm.weight' should have shape (d=24) and has (5,)"),
        ({"model.extra.weight": (5, 5)}, "'model.extra.weight' of shape (5, 5) has no place in it"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    change: dict[str, tuple[int, ...] | None], words: str
) -> None:
    arrays = state(Shape())
    for name, shape in change.items():
        if shape is None:
            del arrays[name]
        else:
            arrays[name] = np.zeros(shape)
    with pytest.raises(ArchitectureError) as caught:
        models.snapshot(stored(arrays), ADD, config=LLAMA)
    assert words in str(caught.value)


def test_a_table_of_many_positions_does_not_ask_for_as_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shape = Shape(context=16, norm="ln", gated=False, rope="", act="gelu_new", eps=1e-5, tied=True)
    arrays = {
        name: value.numpy()
        for name, value in reference.gpt2(draw_model(0, 7, shape), shape, transposed=True).items()
    }
    seen = models.snapshot(stored(arrays), ADD, config={"model_type": "gpt2", "n_head": 4})
    assert seen.logits.shape == (49, 7)  # [a, b] without an "=", for which there is no row
    short = {**arrays, "transformer.wpe.weight": arrays["transformer.wpe.weight"][:4]}
    short["transformer.wte.weight"] = np.vstack([arrays["transformer.wte.weight"]] * 2)[:9]
    fits = models.snapshot(stored(short), ADD, config={"model_type": "gpt2", "n_head": 4})
    assert fits.logits.shape == (49, 7)  # [a, op, b, =]
    monkeypatch.setattr(decoder_transformer, "TIGHT", 1)  # as if inputs had more operands
    short["transformer.wpe.weight"] = arrays["transformer.wpe.weight"][:3]
    with pytest.raises(ArchitectureError, match="fill 4 positions, and the positional embedding h"):
        models.snapshot(stored(short), ADD, config={"model_type": "gpt2", "n_head": 4})


def test_rotary_buffers_without_a_configuration_are_not_taken_for_no_positions() -> None:
    arrays = {
        name: value.numpy()
        for name, value in reference.lens(draw_model(0, 8, Shape()), Shape()).items()
    }
    with pytest.raises(ArchitectureError, match=r"rotary_sin' shows rotary positions.*rotary_dim"):
        models.snapshot(stored(arrays), ADD)
