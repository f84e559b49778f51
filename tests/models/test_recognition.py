from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from helpers.stored import stored
from reference_networks import lens_state, linear_from_lens, nanda_from_lens

from geomdiag import models
from geomdiag.checkpoints.series import TensorSpec
from geomdiag.errors import ArchitectureError, TaskError, UnknownNameError
from geomdiag.models.settings import Settings
from geomdiag.tasks import task


def shapes(state: dict[str, torch.Tensor]) -> dict[str, TensorSpec]:
    return {
        name: TensorSpec(tuple(value.shape), str(value.dtype)[6:]) for name, value in state.items()
    }


def arrays(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in state.items()}


def lens(**options: object) -> dict[str, torch.Tensor]:
    return lens_state(0, 12, 11, **options)  # type: ignore[arg-type]


def test_parts_are_told_by_name() -> None:
    match = models.recognise(shapes(lens()))
    assert match.architecture == "decoder_transformer"
    assert match.convention == "TransformerLens"
    assert match.roles["embed"] == "embed.W_E"
    assert match.roles["w_in_0"] == "blocks.0.mlp.W_in"
    assert (match.sizes.vocabulary, match.sizes.classes, match.sizes.context) == (12, 11, 3)


def test_orientation_is_told_by_shape() -> None:
    assert models.recognise(shapes(nanda_from_lens(lens()))).convention == "Nanda's grokking code"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"blocks.0.mlp.W_in": (24, 39)},
            "TransformerLens: tensor 'blocks.0.mlp.b_in' should have shape (m=39) and has (40,)",
        ),
        (
            {"blocks.0.attn.W_V": (3, 24, 6)},
            "'blocks.0.attn.W_V' should have shape (k=3, d=24, e=5) and has (3, 24, 6)",
        ),
        ({"unembed.W_U": None}, "tensor 'unembed.W_U' of shape (d=24, C) is missing"),
        ({"blocks.0.attn.W_O": None}, "'blocks.0.attn.W_O' of shape (h=3, e=5, d=24) is missing"),
        ({"blocks.0.mlp.W_extra": (4, 4)}, "'blocks.0.mlp.W_extra' of shape (4, 4) has no place"),
        ({"x_embed": (11, 24)}, "'x_embed' of shape (11, 24) has no place"),
        ({"blocks.0.mlp.W_out": None}, "block 0 has only one layer of its MLP"),
    ],
)
def test_near_miss_says_what_was_expected_and_found(
    change: dict[str, tuple[int, ...] | None], words: str
) -> None:
    specs = shapes(lens())
    if change == {"blocks.0.mlp.W_out": None}:
        specs.pop("blocks.0.mlp.b_out")
    for name, shape in change.items():
        if shape is None:
            del specs[name]
        else:
            specs[name] = TensorSpec(shape, "float32")
    with pytest.raises(ArchitectureError, match=re.escape(words)) as caught:
        models.recognise(specs)
    assert "--model" in str(caught.value)


def test_second_block_must_be_whole() -> None:
    specs = shapes(lens(blocks=2))
    del specs["blocks.1.attn.W_K"]
    with pytest.raises(ArchitectureError, match=r"'blocks\.1\.attn\.W_K' of shape .* is missing"):
        models.recognise(specs)


@pytest.mark.parametrize(
    ("specs", "words"),
    [
        ({"embed.weight": (11, 8), "l1.weight": (6, 9), "unembed.weight": (11, 6)}, "l1.weight"),
        ({"embed.weight": (11, 8), "l1.weight": (6, 8), "unembed.weight": (11, 5)}, "unembed"),
        ({"fc1.weight": (30, 22), "fc2.weight": (11, 31)}, "should have 30 columns"),
        ({"fc1.weight": (30, 25), "fc2.weight": (11, 30)}, "should have 22 (concatenated) or 11"),
        ({"W_x": (11, 8), "W_y": (11, 8), "W": (17, 5), "W_U": (5, 11)}, "(2*d=16, m)"),
        ({"emb.weight": (11, 8), "a.weight": (6, 8), "b.weight": (11, 7)}, "'b.weight'"),
        ({"emb.weight": (11, 8), "a.weight": (6, 7), "b.weight": (11, 6)}, "8 columns"),
        ({"embed.W_E": (8, 11), "mlp.W_in": (6, 9), "mlp.W_out": (11, 6)}, "(m, d=8)"),
    ],
)
def test_near_misses_of_mlps(specs: dict[str, tuple[int, ...]], words: str) -> None:
    with pytest.raises(ArchitectureError, match=re.escape(words)):
        models.recognise({name: TensorSpec(shape, "f") for name, shape in specs.items()})


def test_layers_of_a_file_that_sorts_its_names() -> None:
    """As safetensors and HDF5 do: numbers tell the order, and where nothing does it is not run."""
    widths = {"0": (8, 12), "2": (8, 8), "10": (8, 8)}
    made = np.random.default_rng(0)
    state: dict[str, np.ndarray] = {"embed.weight": made.normal(size=(11, 6))}
    for name, shape in widths.items():
        state[f"layers.{name}.weight"] = made.normal(size=shape)
        state[f"layers.{name}.bias"] = made.normal(size=shape[0])
    state["out.weight"] = made.normal(size=(11, 8))
    t = task("modadd:p=11")
    wanted = models.snapshot(stored(state), t).logits
    got = models.snapshot(stored(dict(sorted(state.items()))), t).logits
    np.testing.assert_array_equal(got, wanted)
    renamed = {name.replace("layers.2", "middle"): value for name, value in state.items()}
    np.testing.assert_array_equal(models.snapshot(stored(renamed), t).logits, wanted)
    with pytest.raises(ArchitectureError, match="fit in more than one order, and the file has"):
        models.snapshot(stored(dict(sorted(renamed.items()))), t)


def test_whose_table_is_whose_is_said() -> None:
    named = {"emb_b": (11, 6), "emb_a": (11, 6), "fc1.weight": (8, 12), "fc2.weight": (11, 8)}
    found = {name: TensorSpec(shape, "float32") for name, shape in named.items()}
    words = "'emb_b' is taken for the left operand's table, 'emb_a' the right's"
    assert words in models.recognise(found).notices


@pytest.mark.parametrize(
    ("width", "said", "words"),
    [
        (6, "product", "meet by 'product'; .*sum or mean"),
        (6, "concat", "meet by 'concat'; .*sum or mean"),
        (12, "sum", "meet by 'sum'; .*by concatenate"),
        (12, "mean", "meet by 'mean'; .*by concatenate"),
    ],
)
def test_operands_that_meet_in_another_way(width: int, said: str, words: str) -> None:
    named = {"embed.weight": (11, 6), "fc1.weight": (8, width), "fc2.weight": (11, 8)}
    found = {name: TensorSpec(shape, "float32") for name, shape in named.items()}
    with pytest.raises(ArchitectureError, match=words):
        models.recognise(found, {"combine": said})
    right = {6: ("sum", "add", "mean"), 12: ("concat", "cat", "flatten")}[width]
    for word in right:
        assert models.recognise(found, {"combine": word}).architecture == "embedding_mlp"


def test_unrelated_tensors_are_listed() -> None:
    specs = {f"layer{i}.running_mean": TensorSpec((3,), "float32") for i in range(8)}
    with pytest.raises(ArchitectureError, match=r"layer0\.running_mean \(3,\).* and 2 more"):
        models.recognise(specs)
    with pytest.raises(ArchitectureError, match="none"):
        models.recognise({})


def test_wrong_modulus_names_sizes_and_the_one_that_fits() -> None:
    words = "vocabulary has 12 rows and its read-out 11 classes.*97 tokens.*would fit p = 11"
    with pytest.raises(ArchitectureError, match=words):
        models.recognise(shapes(lens()), None, task("modadd:p=97"))
    with pytest.raises(ArchitectureError, match=words):
        models.snapshot(stored(arrays(lens())), task("modadd:p=97"))


def test_a_network_without_a_sequence_has_no_room_for_further_classes() -> None:
    state = {"fc1.weight": (64, 26), "fc2.weight": (13, 64)}
    specs = {name: TensorSpec(shape, "float32") for name, shape in state.items()}
    with pytest.raises(ArchitectureError, match=r"read-out 13 classes.*would fit p = 13"):
        models.recognise(specs, None, task("modadd:p=12"))
    models.recognise(specs, None, task("modadd:p=13"))


def test_vocabulary_without_room_for_an_equals_token() -> None:
    state = lens_state(0, 12, 12)
    with pytest.raises(ArchitectureError, match=r"reads 3 positions.*would fit p = 11"):
        models.recognise(shapes(state), None, task("modadd:p=12"))
    assert models.infer_task("modadd", stored(arrays(state))).name == "modadd:p=11"


@pytest.mark.parametrize(
    ("vocabulary", "classes", "context", "config", "p"),
    [
        (12, 11, 3, {}, 11),
        (12, 12, 3, {}, 11),
        (11, 11, 2, {}, 11),
        (13, 11, 4, {}, 11),
        (13, 13, 4, {}, 11),
        (22, 11, 2, {}, 11),
        (23, 11, 3, {}, 11),
        (22, 22, 2, {"diff_vocab": True}, 11),
        (12, 12, None, {}, 11),
        (12, 12, None, {"equals_token": None}, 12),
        (12, 12, None, {"n_ctx": 2}, 12),
        (12, 12, None, {"p": 12}, 12),
        (12, 12, 3, {"p": 0.1}, 11),
    ],
)
def test_modulus_from_sizes(
    vocabulary: int, classes: int, context: int | None, config: dict[str, object], p: int
) -> None:
    state = lens_state(0, vocabulary, classes, context=context)
    found = models.infer_task("modadd", stored(arrays(state)), config)
    assert found.name == f"modadd:p={p}"
    logits = models.snapshot(stored(arrays(state)), found, config=config).logits
    assert logits.shape == (p * p, p)


def test_said_modulus_and_tasks_are_left_alone() -> None:
    made = task("modadd:p=5")
    assert models.infer_task(made, stored({})) is made
    assert models.infer_task("modadd:p=5", stored({})).name == "modadd:p=5"
    with pytest.raises(UnknownNameError, match="modad"):
        models.infer_task("modad", stored({}))


def test_modulus_that_nothing_tells() -> None:
    with pytest.raises(
        TaskError,
        match=r"the checkpoint does not tell it.*memory\.pt cannot tell it: no known architecture",
    ):
        models.infer_task("modadd", stored({"a": np.zeros(3)}))
    assert models.infer_task("modadd", stored({"a": np.zeros(3)}), {"p": 7}).name == "modadd:p=7"


def test_half_the_tokens_of_two_tables_are_no_task() -> None:
    two = {"W_x": (24, 8), "W_y": (24, 8), "W": (16, 5), "W_U": (5, 24)}
    specs = {name: TensorSpec(shape, "float32") for name, shape in two.items()}
    assert models.recognise(specs, None, task("group:S4")).sizes.vocabulary == 24
    with pytest.raises(ArchitectureError, match=r"does not fit group:Z3xZ4.*fit group:S4"):
        models.recognise(specs, None, task("group:Z3xZ4"))


def test_operator_token_can_be_said() -> None:
    state = lens_state(0, 13, 11, context=4)
    t = task("modadd:p=11")
    plain = models.recognise(shapes(state), None, t)
    assert any("'=' in row 11 and the operator in row 12" in text for text in plain.notices)
    said = {"equals_token": 12, "op_token": 11}
    assert not any("operator" in n for n in models.recognise(shapes(state), said, t).notices)
    one = models.snapshot(stored(arrays(state)), t).logits
    other = models.snapshot(stored(arrays(state)), t, config=said).logits
    assert np.abs(one - other).max() > 0.01
    with pytest.raises(ArchitectureError, match=r"token 40.*13 rows"):
        models.recognise(shapes(state), {"equals_token": 40, "op_token": 11}, t)


def test_what_the_weights_do_not_say_is_noticed() -> None:
    notices = models.recognise(shapes(lens())).notices
    assert any("relu is assumed" in text for text in notices)
    assert any("LNPre" in text for text in notices)
    said = {"act_fn": "ReLU", "normalization_type": None}
    assert not models.recognise(shapes(lens()), said).notices
    plain = shapes(linear_from_lens(lens(h=4, e=6), "plain"))
    assert any("4 assumed" in text for text in models.recognise(plain).notices)
    with pytest.raises(ArchitectureError, match=r"7 heads.*24 wide"):
        models.recognise(plain, {"n_heads": 7})
    pizza = shapes(nanda_from_lens(lens_state(0, 11, 11, context=2)))
    assert any("attn_coeff" in text for text in models.recognise(pizza).notices)


@pytest.mark.parametrize("style", ["plain", "fused"])
def test_what_is_assumed_of_normalisations_is_noticed(style: str) -> None:
    said = {"n_heads": 3, "act_fn": "relu"}
    state = lens_state(0, 12, 12, norms="LN")
    normed = shapes(linear_from_lens(state, style))
    (before,) = models.recognise(normed, said).notices
    assert "taken to stand before attention and MLP" in before
    assert not models.recognise(normed, said | {"norm_first": True}).notices
    for other in ({"norm_first": False}, {"post_ln": True}):
        with pytest.raises(ArchitectureError, match="says norm_first = False"):
            models.recognise(normed, said | other)
    with pytest.raises(ArchitectureError, match="says pool = mean"):
        models.recognise(normed, said | {"pool": "mean"})
    # LayerNorm(bias=False) looks like RMSNorm
    bare = {name: value for name, value in state.items() if not name.endswith((".b", "b_O"))}
    said["norm_first"] = True
    stripped = linear_from_lens(bare, style)
    (guess,) = models.recognise(shapes(stripped), said).notices
    assert "taken for RMSNorm" in guess
    said["normalization_type"] = "LN"
    assert not models.recognise(shapes(stripped), said).notices
    t = task("modadd:p=11")
    zero = {name: torch.zeros_like(value) for name, value in state.items() if name.endswith(".b")}
    whole = linear_from_lens({**bare, **zero}, style)
    one, other = (
        models.snapshot(stored(arrays(one)), t, config=said).logits for one in (stripped, whole)
    )
    np.testing.assert_allclose(one, other, rtol=1e-9)


def test_what_leaves_no_trace_is_noticed() -> None:
    said = {"n_heads": 3, "act_fn": "relu"}
    unplaced = shapes(linear_from_lens(lens_state(0, 12, 12, context=None), "plain"))
    (notice,) = models.recognise(unplaced, said).notices
    assert "a sinusoidal one would leave no trace" in notice
    fused = shapes(linear_from_lens(lens_state(0, 12, 12), "fused"))
    twice = fused | {
        name.replace(".0.", ".1."): spec for name, spec in fused.items() if ".0." in name
    }
    (notice,) = models.recognise(twice, said).notices
    assert "taken to be causal" in notice
    assert not models.recognise(twice, said | {"causal": True}).notices


def test_a_mask_that_the_configuration_denies_is_left_out() -> None:
    t = task("modadd:p=11")
    state = arrays(lens_state(0, 12, 12, blocks=2))
    runs = [
        models.snapshot(stored(state), t, config=said).logits
        for said in ({"causal": False}, {"attention_dir": "bidirectional"}, {})
    ]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert np.abs(runs[0] - runs[2]).max() > 1e-3


def test_unknown_wishes_are_refused() -> None:
    with pytest.raises(ArchitectureError, match="'cosine', which is not one of relu"):
        models.recognise(shapes(lens()), {"act_fn": "cosine"})
    with pytest.raises(ArchitectureError, match="positional_embedding_type = shortformer"):
        models.recognise(shapes(lens()), {"positional_embedding_type": "shortformer"})
    with pytest.raises(ArchitectureError, match="turns 5 axes of heads 5 wide"):
        models.recognise(shapes(lens()), {"positional_embedding_type": "rotary"})
    linear = {"embed.weight": (11, 8), "l1.weight": (6, 8), "unembed.weight": (11, 6)}
    specs = {name: TensorSpec(shape, "float32") for name, shape in linear.items()}
    with pytest.raises(ArchitectureError, match="model_type = 'Q'; known are A, B, C, D, X"):
        models.recognise(specs, {"model_type": "Q"})
    with pytest.raises(ArchitectureError, match="model_type = 'B', which has 2 layers"):
        models.recognise(specs, {"model_type": "B"})


def test_quadratic_scale_is_noticed_and_only_scales() -> None:
    rng = np.random.default_rng(0)
    state = {"fc1.weight": rng.normal(size=(20, 22)), "fc2.weight": rng.normal(size=(11, 20))}
    t = task("modadd:p=11")
    plain = models.snapshot(stored(state), t)
    assert any("quadratic is assumed" in text for text in plain.notices)
    assert any("logit_scale" in text for text in plain.notices)
    scaled = models.snapshot(stored(state), t, config={"logit_scale": 0.5})
    np.testing.assert_allclose(scaled.logits, 0.5 * plain.logits, rtol=1e-12)
    np.testing.assert_allclose(
        scaled.matrices["neuron_logit"].values, 0.5 * plain.matrices["neuron_logit"].values
    )
    relu = models.snapshot(stored(state), t, config={"act_fn": "relu"})
    assert np.abs(relu.logits - plain.logits).max() > 0.1


def test_integers_are_no_weights() -> None:
    state = arrays(lens())
    state["blocks.0.mlp.b_in"] = np.zeros(40, dtype=np.int64)
    with pytest.raises(ArchitectureError, match=r"blocks\.0\.mlp\.b_in' holds int64"):
        models.snapshot(stored(state), task("modadd:p=11"))


def test_settings_look_into_every_level() -> None:
    settings = Settings({"a": {"N_Heads": "4", "p": True}, "n_heads": None}, {"p": "7", "x": "no"})
    assert settings.integer("n_heads", "num_heads") is None
    assert Settings({"a": {"N_Heads": "4"}}).integer("n_heads") == 4
    assert Settings({"p": True}).integer("p") is None
    assert settings.flag("x") is False
    assert Settings({"d": 0.5}).integer("d") is None
    assert Settings(None).get("x") is None


def test_other_packages_may_add_architectures() -> None:
    assert set(models.ARCHITECTURES) >= {"decoder_transformer", "embedding_mlp", "onehot_mlp"}
    for name, member in models.ARCHITECTURES.items():
        assert member.name == name
        assert isinstance(member, models.Architecture)
        assert member.title
