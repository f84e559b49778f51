"""Keras models by the graph in their files, against Keras where it is installed."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.stored import stored
from reference_trees import KERAS_CASES, keras_description

from geomdiag import models
from geomdiag.checkpoints import open_runs
from geomdiag.checkpoints.formats.keras_description import MOST_BYTES, described
from geomdiag.checkpoints.series import TensorSpec
from geomdiag.errors import ArchitectureError
from geomdiag.models.architectures.keras.layers import KNOWN
from geomdiag.tasks import task

os.environ.setdefault("KERAS_BACKEND", "torch")
T = task("modadd:p=11")
LEFT, RIGHT = T.inputs.T
EQUALS = np.pad(T.inputs, ((0, 0), (0, 1)), constant_values=11)


@pytest.fixture(scope="module")
def keras() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("h5py", exc_type=ImportError)
        return pytest.importorskip("keras", exc_type=ImportError)


def pairs(keras: Any, width: int = 2, vocabulary: int = 11) -> Any:
    tokens = keras.Input((width,), dtype="int32", name="tokens")
    return tokens, keras.layers.Embedding(vocabulary, 8, name="table")(tokens)


def mlp(keras: Any, join: str) -> Any:
    layers, ops = keras.layers, keras.ops
    tokens, x = pairs(keras)
    if join == "flatten":
        x = layers.Flatten()(x)
    elif join == "mean":
        x = layers.GlobalAveragePooling1D()(x)
    elif join == "sum":
        x = ops.sum(x, axis=1)
    else:
        table = layers.Embedding(11, 8, name="one")
        other = layers.Embedding(11, 8, name="two") if join == "two" else table
        join_ = {"add": layers.Add, "two": layers.Concatenate}.get(join, layers.Concatenate)
        x = join_()([table(tokens[:, 0]), other(tokens[:, 1])])
    x = layers.Dense(20, activation="gelu", name="zeta")(x)
    x = layers.Dropout(0.3)(layers.BatchNormalization()(x))
    y = layers.Dense(20)(x)
    x = layers.Activation("tanh")(x + y)
    return keras.Model(tokens, layers.Dense(11, name="answer")(x))


def two_inputs(keras: Any) -> Any:
    layers = keras.layers
    left, right = (keras.Input(s, dtype="int32", name=n) for s, n in (((), "a"), ((1,), "b")))
    table = layers.Embedding(11, 8)
    x = layers.Multiply()([table(left), layers.Flatten()(table(right))])
    x = keras.ops.silu(layers.Dense(16)(x)) * 2.0
    return keras.Model([left, right], layers.Dense(11, activation="softmax")(x))


def attention(keras: Any, causal: bool, last: bool) -> Any:
    layers = keras.layers
    tokens, x = pairs(keras, 3, 12)
    for _ in range(2):
        y = layers.MultiHeadAttention(2, 4)(x, x, use_causal_mask=causal)
        x = layers.LayerNormalization(epsilon=1e-5)(layers.Add()([x, y]))
        y = layers.Dense(8)(layers.Dense(24, activation="relu")(x))
        x = layers.LayerNormalization()(x + y)
    x = x[:, -1] if last else layers.GlobalMaxPooling1D()(x)
    return keras.Model(tokens, layers.Dense(12)(x))


def recurrent(keras: Any, kind: str) -> Any:
    layers = keras.layers
    tokens, x = pairs(keras, 3, 12)
    make = getattr(layers, kind)
    x = make(7, go_backwards=True)(make(6, return_sequences=True)(x))
    return keras.Model(tokens, layers.Dense(11)(x))


def sequential(keras: Any) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((2,), dtype="int32"),
            layers.Embedding(11, 8),
            layers.Flatten(),
            layers.Dense(16, activation="relu"),
            layers.Dense(11),
            layers.Softmax(),
        ]
    )


def one_hot(keras: Any, form: str) -> Any:
    layers, ops = keras.layers, keras.ops
    if form == "float":
        tokens = x = keras.Input((22,))
    elif form == "floats":
        tokens = [keras.Input((11,)), keras.Input((11,))]
        x = layers.Concatenate()(tokens)
    else:
        tokens = keras.Input((2,), dtype="int32")
        x = ops.one_hot(tokens, 11)
        x = layers.Flatten()(x) if form == "flat" else ops.sum(x, axis=1)
    x = ops.square(layers.Dense(16)(x))
    return keras.Model(tokens, layers.Dense(11, use_bias=False)(x))


def made_one_hot(form: str) -> Any:
    left, right = np.eye(11, dtype="float32")[LEFT], np.eye(11, dtype="float32")[RIGHT]
    return {"float": np.concatenate([left, right], 1), "floats": [left, right]}.get(form, T.inputs)


MODELS: dict[str, tuple[Callable[[Any], Any], Any, tuple[bool, bool]]] = {
    # name: model, what it is given, (blind to order, two tables)
    **{
        join: (lambda k, join=join: mlp(k, join), T.inputs, (join in ("mean", "sum", "add"), False))
        for join in ("flatten", "mean", "sum", "add", "shared")
    },
    "two": (lambda k: mlp(k, "two"), T.inputs, (False, True)),
    "inputs": (two_inputs, [LEFT, RIGHT[:, None]], (True, False)),
    "causal": (lambda k: attention(k, True, True), EQUALS, (False, False)),
    "encoder": (lambda k: attention(k, False, False), EQUALS, (True, False)),
    **{
        kind: (lambda k, kind=kind: recurrent(k, kind), EQUALS, (False, False))
        for kind in ("LSTM", "GRU", "SimpleRNN")
    },
    "sequential": (sequential, T.inputs, (False, False)),
    **{
        f"one-hot-{form}": (
            lambda k, form=form: one_hot(k, form),
            made_one_hot(form),
            (form == "added", form != "added"),
        )
        for form in ("float", "floats", "flat", "added")
    },
}


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_keras(keras: Any, tmp_path: Path, name: str) -> None:
    make, given, (blind, two) = MODELS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras.utils.set_random_seed(5)
        model = make(keras)
        rng = np.random.default_rng(0)
        model.set_weights(
            [np.abs(w + rng.normal(size=w.shape) * 0.3) if "moving" in v.path else
             w + rng.normal(size=w.shape) * 0.3
             for v, w in zip(model.weights, model.get_weights(), strict=True)]
        )  # fmt: skip
        wanted = np.asarray(model.predict(given, verbose=0, batch_size=200))[:, :11]
        tables = [w for v, w in zip(model.weights, model.get_weights(), strict=True)
                  if "embedding" in v.path]  # fmt: skip
        model.save(tmp_path / "step_1.keras")
        model.save(tmp_path / "old.h5")
    softmax = name in ("inputs", "sequential")
    for file in ("step_1.keras", "old.h5"):
        (series,) = open_runs(tmp_path / file).values()
        made = models.snapshot(series[-1], T, config=series.config)
        assert made.network is not None
        assert made.network.architecture == "keras_graph"
        got = made.logits
        assert np.isfinite(got).all()
        got = torch.from_numpy(got).softmax(1).numpy() if softmax else got
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * max(1, np.abs(wanted).max()))
        assert np.ptp(wanted, axis=0).max() > (1e-3 if softmax else 0.1)
        assert bool(made.notices) == softmax
        assert made.swap_invariant == blind
        assert ("embedding_right" in made.matrices) == two
        assert made.matrices["unembedding"].values.shape[0] == 11
        assert models.infer_task("modadd", series[-1], series.config).name == "modadd:p=11"
    if not name.startswith("one-hot"):
        np.testing.assert_array_equal(made.embedding, tables[0][:11])


def test_weights_alone(keras: Any, tmp_path: Path) -> None:
    """Without the graph names and shapes tell, with what the configuration says."""
    layers = keras.layers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokens, x = pairs(keras)
        x = layers.Dense(20, activation="tanh")(layers.Flatten()(x))
        x = layers.Dense(20, activation="tanh")(x)
        model = keras.Model(tokens, layers.Dense(11)(x))
        wanted = np.asarray(model.predict(T.inputs, verbose=0))
        model.save_weights(tmp_path / "step_1.weights.h5")
        (tmp_path / "beside").mkdir()
        model.save_weights(tmp_path / "beside" / "step_1.weights.h5")
        (tmp_path / "beside" / "config.json").write_text(model.to_json())
    (series,) = open_runs(tmp_path / "step_1.weights.h5").values()
    made = models.snapshot(series[-1], T, config={"act_fn": "tanh"})
    np.testing.assert_allclose(made.logits, wanted, rtol=0, atol=1e-5)
    assert made.network is not None
    assert made.network.architecture == "embedding_mlp"
    (series,) = open_runs(tmp_path / "beside").values()
    made = models.snapshot(series[-1], T, config=series.config)
    np.testing.assert_allclose(made.logits, wanted, rtol=0, atol=1e-5)
    assert made.network is not None
    assert made.network.architecture == "keras_graph"


def test_what_is_not_run_is_named(keras: Any, tmp_path: Path) -> None:
    layers = keras.layers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokens, x = pairs(keras)
        x = layers.Lambda(lambda y: y * 2, output_shape=(2, 8))(x)
        model = keras.Model(tokens, layers.Dense(11)(layers.Flatten()(x)))
        model.save(tmp_path / "step_1.keras")
    (series,) = open_runs(tmp_path / "step_1.keras").values()
    with pytest.raises(ArchitectureError, match=r"'lambda' is a Lambda, which is not run here"):
        models.snapshot(series[-1], T, config=series.config)


# Without Keras: descriptions as it writes them.


def specs(state: dict[str, torch.Tensor]) -> dict[str, TensorSpec]:
    return {name: TensorSpec(tuple(value.shape), "float32") for name, value in state.items()}


def plain() -> tuple[dict[str, TensorSpec], dict[str, Any]]:
    case = next(case for case in KERAS_CASES if case.name == "keras-shared")
    return specs(case.state()), json.loads(json.dumps(case.config))


def test_a_description_is_read_as_data() -> None:
    text = json.dumps(
        {
            "module": "keras",
            "class_name": "Sequential",
            "config": {
                "name": "s",
                "layers": [{"class_name": "Dense", "config": {"kernel_initializer": {"a": 1}}}],
            },
            "compile_config": {"optimizer": "adam"},
        }
    )
    expected = {"keras": {"name": "s", "layers": [{"class_name": "Dense", "config": {}}]}}
    assert described(text) == described(text.encode()) == expected
    for bad in ("", "{", "[]", '{"config": {"layers": 3}}', '{"config": null}', b"\xff"):
        assert described(bad) == {}
    assert described("[" * 100_000) == {}
    assert described(" " * (MOST_BYTES + 1)) == {}


def changed(change: Callable[[dict[str, Any]], Any]) -> str:
    found, config = plain()
    change(config["keras"])
    with pytest.raises(ArchitectureError) as caught:
        models.recognise(found, config)
    return str(caught.value)


def named(description: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in description["layers"] if one["name"] == name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda d: named(d, "hidden").update(class_name="Swish"),
            "'hidden' is a Swish, which is not run here",
        ),
        (
            lambda d: named(d, "hidden")["config"].update(activation="mish"),
            "'hidden' (Dense) has activation = 'mish'; known are linear",
        ),
        (lambda d: d.update(output_layers=[["hidden", 0, 0], ["out", 0, 0]]), "it has 2 outputs"),
        (lambda d: d.update(output_layers=["join", 0, 0]), "its last layer is not Dense"),
        (lambda d: d["layers"].append({**named(d, "out")}), "two layers are called 'out'"),
        (
            lambda d: named(d, "hidden")["inbound_nodes"][0]["args"][0]["config"].update(
                keras_history=["out", 0, 0]
            ),
            "waits for its own output, or for none",
        ),
        (
            lambda d: named(d, "out")["inbound_nodes"][0]["kwargs"].update(
                mask=named(d, "out")["inbound_nodes"][0]["args"][0]
            ),
            "'out' (Dense) is called with 'mask', which is not run here",
        ),
        (lambda d: named(d, "join")["config"].update(axis=7), "'join' (Concatenate) cannot be run"),
        (lambda d: named(d, "tokens")["config"].update(batch_shape=[None, None]), "fixed sizes"),
        (
            lambda d: named(d, "left")["inbound_nodes"][0]["args"].__setitem__(1, [0, 0]),
            "selected along the batch",
        ),
        (
            lambda d: named(d, "hidden")["inbound_nodes"][0]["kwargs"].update(training=True),
            "'hidden' (Dense) is called with 'training'",
        ),
        (
            lambda d: named(d, "tokens")["config"].update(batch_shape=[None, 10**12]),
            "holds 1000000000000 tokens; at most 4096 are read",
        ),
        (
            lambda d: (
                named(d, "table")["config"].update(mask_zero=True),
                named(d, "hidden").update(class_name="LSTM"),
            ),
            "'table' has mask_zero = True, by which 'hidden' (LSTM) leaves token 0 out",
        ),
        (lambda d: named(d, "left").update(class_name="Sin"), "'left' (Sin) is applied to the inp"),
        (
            lambda d: named(d, "hidden").update(inbound_nodes=[[["join", 0, 0, {}]]]),
            "it was written by Keras 2; load it with Keras 3",
        ),
        (lambda d: named(d, "hidden").pop("inbound_nodes"), "its description is damaged (KeyError"),
        (lambda d: d["layers"].__setitem__(3, {"class_name": 3, "config": 4}), "damaged"),
    ],
)
def test_descriptions_that_cannot_be_run(
    change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    assert words in changed(change)


def test_tensors_must_be_those_of_the_description() -> None:
    found, config = plain()
    kernel = found.pop("layers.dense.vars.0")
    with pytest.raises(ArchitectureError, match=r"'hidden' \(Dense\) has no stored kernel"):
        models.recognise(found, config)
    found["layers.dense.vars.0"] = TensorSpec((17, kernel.shape[1]), "float32")
    with pytest.raises(ArchitectureError, match=r"'hidden' \(Dense\) cannot be run"):
        models.recognise(found, config)
    found["layers.dense.vars.0"] = kernel
    found["layers.dense_7.vars.0"] = kernel
    with pytest.raises(ArchitectureError, match=r"'layers\.dense_7\.vars\.0'.* has no place in it"):
        models.recognise(found, config)


def test_the_page_lists_the_layers_that_are_run() -> None:
    page = Path(__file__).parents[2] / "docs" / "architectures.md"
    listed = page.read_text().partition("operations that are run:")[2].partition("Everything")[0]
    assert {name.strip("` \n") for name in listed.split(",")} == KNOWN


def test_huge_descriptions_are_refused_quickly() -> None:
    found, config = plain()
    node = named(config["keras"], "hidden")["inbound_nodes"][0]
    named(config["keras"], "hidden")["inbound_nodes"] = [node] * 100_000
    with pytest.raises(ArchitectureError, match="calls; at most 2000 are read"):
        models.recognise(found, config)


def test_sizes_that_double_are_refused_before_they_are_computed() -> None:
    found, config = plain()
    layers = config["keras"]["layers"]
    last = "join"
    for step in range(60):
        both = [{"class_name": "__keras_tensor__", "config": {"keras_history": [last, 0, 0]}}] * 2
        last = f"twice{step}"
        layers.append(
            {
                "class_name": "Concatenate",
                "name": last,
                "config": {"axis": -1},
                "inbound_nodes": [{"args": [both], "kwargs": {}}],
            }
        )
    (node,) = named(config["keras"], "hidden")["inbound_nodes"]
    node["args"][0]["config"]["keras_history"] = [last, 0, 0]
    with pytest.raises(ArchitectureError, match="numbers for each input; at most 1048576"):
        models.recognise(found, config)


def test_a_model_of_three_tokens_needs_three() -> None:
    found, config = plain()
    layers = config["keras"]["layers"]
    named(config["keras"], "tokens")["config"]["batch_shape"] = [None, 3]
    third = json.loads(json.dumps(named(config["keras"], "right")))
    third["name"] = "third"
    third["inbound_nodes"][0]["args"][1][1] = 2
    layers.insert(3, third)
    table = named(config["keras"], "table")["inbound_nodes"]
    table.append(json.loads(json.dumps(table[0])))
    table[2]["args"][0]["config"]["keras_history"] = ["third", 0, 0]
    joined = named(config["keras"], "join")["inbound_nodes"][0]["args"][0]
    joined.append(json.loads(json.dumps(joined[0])))
    joined[2]["config"]["keras_history"] = ["table", 2, 0]
    found["layers.dense.vars.0"] = TensorSpec((24, 20), "float32")
    match = models.recognise(found, config)
    assert match.sizes.context == 3
    assert models.recognise(found, config, task("modadd:p=10"))
    with pytest.raises(ArchitectureError, match="reads 3 positions, but modadd:p=11 fills 2"):
        models.recognise(found, config, T)
    state = {name: np.zeros(spec.shape) for name, spec in found.items()}
    bare = {**config, "equals_token": None}
    with pytest.raises(ArchitectureError, match=r"reads 3 tokens.* modadd:p=10 are 2"):
        models.snapshot(stored(state), task("modadd:p=10"), config=bare)


def test_a_token_read_from_two_tables() -> None:
    found, config = plain()
    layers = config["keras"]["layers"]
    second = json.loads(json.dumps(named(config["keras"], "table")))
    second["name"] = "more"
    layers.insert(4, second)
    named(config["keras"], "join")["inbound_nodes"][0]["args"][0][1]["config"]["keras_history"] = [
        "more",
        0,
        0,
    ]
    found["layers.embedding_1.vars.0"] = found["layers.embedding.vars.0"]
    with pytest.raises(ArchitectureError, match="token 0 is read from two tables"):
        models.recognise(found, config)


def test_dead_weights_do_not_pass_for_a_symmetry() -> None:
    case = next(case for case in KERAS_CASES if case.name == "keras-shared")
    state = {name: np.zeros_like(value.numpy()) for name, value in case.state().items()}
    made = models.snapshot(stored(state), T, config=case.config)
    assert not made.swap_invariant
    assert not made.logits.any()


def test_description_helper_is_like_a_real_one(keras: Any, tmp_path: Path) -> None:
    """The hand-made description of the cases is what Keras writes."""
    layers = keras.layers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokens = keras.Input((2,), dtype="int32", name="tokens")
        table = layers.Embedding(11, 8, name="table")
        x = layers.Concatenate(name="join")([table(tokens[:, 0]), table(tokens[:, 1])])
        x = layers.Dense(20, activation="relu", name="hidden")(x)
        model = keras.Model(tokens, layers.Dense(11, name="out")(x))
        model.save(tmp_path / "step_1.keras")
    (series,) = open_runs(tmp_path / "step_1.keras").values()
    written = series.config["keras"]
    ours = keras_description("join")["keras"]
    kinds = [one["class_name"] for one in written["layers"]]
    assert sorted(kinds) == sorted(one["class_name"] for one in ours["layers"])
    assert written["input_layers"] == ours["input_layers"]
    assert written["output_layers"] == ours["output_layers"]
    match = models.recognise(series[-1].tensors.specs(), {"keras": ours})
    assert match.architecture == "keras_graph"
