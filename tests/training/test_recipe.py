from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from geomdiag.errors import RecipeError
from geomdiag.training import MLPModel, TransformerModel, load_recipe, parse_recipe

GOOD: dict[str, Any] = {"name": "r", "task": "modadd:p=5", "training": {"steps": 100}}


def test_defaults_are_the_published_setting() -> None:
    recipe = parse_recipe(GOOD)
    assert isinstance(recipe.model, TransformerModel)
    assert (recipe.model.d_model, recipe.model.heads, recipe.model.d_mlp) == (128, 4, 512)
    assert recipe.training.betas == (0.9, 0.98)
    assert (recipe.training.lr, recipe.training.weight_decay) == (1e-3, 1.0)
    assert (recipe.training.warmup, recipe.training.train_fraction) == (10, 0.3)


def test_a_number_of_seeds_stands_for_the_first_ones() -> None:
    assert parse_recipe(
        {**GOOD, "training": {"steps": 9, "seeds": 3}, "checkpoints": {"count": 5}}
    ).training.seeds == (0, 1, 2)
    listed = {**GOOD, "training": {"steps": 100, "seeds": [7, 2]}}
    assert parse_recipe(listed).training.seeds == (7, 2)


def test_plain_values_make_the_same_recipe() -> None:
    recipe = parse_recipe({**GOOD, "model": {"kind": "mlp", "combine": "sum"}})
    assert isinstance(recipe.model, MLPModel)
    assert parse_recipe(json.loads(json.dumps(recipe.to_dict()))) == recipe


@pytest.mark.parametrize(
    ("section", "key", "value", "says"),
    [
        (None, "nam", "x", "unknown key (did you mean 'name'?)"),
        (None, "name", "../elsewhere", "letters, digits"),
        (None, "task", "modadd:p=1", "'modadd:p=1'"),
        (None, "task", "modadd", "'modadd'"),
        (None, "task", "nonsense:p=3", "nonsense"),
        (None, "task", 5, "expected text"),
        (None, "device", "tpu", "'auto', 'cpu', 'cuda'"),
        (None, "dtype", "float16", "'float32', 'float64'"),
        (None, "training", 3, "expected a table"),
        ("model", "kind", "rnn", "'transformer', 'mlp'"),
        ("model", "d_modle", 3, "did you mean 'd_model'?"),
        ("model", "heads", 3, "a divisor of d_model, which is 128"),
        ("model", "d_mlp", 0, "a whole number >= 1"),
        ("model", "d_mlp", 1.5, "found 1.5"),
        ("model", "d_mlp", True, "found True"),
        ("model", "layers", 2, "one of 1"),
        ("model", "activation", "sigmoid", "'relu', 'gelu', 'quadratic'"),
        ("model", "positional", 1, "true or false"),
        ("model", "init_scale", 0, "a number > 0"),
        ("training", "steps", "many", "found 'many', expected a whole number"),
        ("training", "lr", -1e-3, "a number > 0"),
        ("training", "lr", float("nan"), "a number > 0"),
        ("training", "betas", [0.9], "two numbers"),
        ("training", "betas", [0.9, 1.0], ">= 0 and < 1"),
        ("training", "weight_decay", -1, "a number >= 0"),
        ("training", "warmup", -1, "a whole number >= 0"),
        ("training", "train_fraction", 1.0, "> 0 and < 1"),
        ("training", "train_fraction", 0.01, "at least one of the 25 inputs"),
        ("training", "seeds", 0, "from 1 to 100000"),
        ("training", "seeds", [], "a whole number or a list"),
        ("training", "seeds", [1, 1], "all differ"),
        ("training", "seeds", [-1], ">= 0"),
        ("training", "split_seed", "other", "or 'seed'"),
        ("training", "optimiser", "adam", "'adamw', 'sgd', 'muon'"),
        ("training", "momentum", 1.0, ">= 0 and < 1"),
        ("training", "grokfast", -1, "a number >= 0"),
        ("training", "grokfast", True, "found True"),
        ("training", "grokfast_decay", 1, ">= 0 and < 1"),
        ("training", "label_noise", 1.1, "from 0 to 1"),
        ("training", "label_noise", float("nan"), "from 0 to 1"),
        ("training", "label_noise", 0.01, "at least one of the 7 train inputs"),
        ("model", "output_scale", 0, "a number > 0"),
        ("model", "embedding_init_scale", float("inf"), "a number > 0"),
        (None, "auxiliary", "nuclear", "expected a table"),
        (None, "auxiliary", {}, "[auxiliary] kind: missing"),
        (None, "auxiliary", {"kind": 3}, "expected text"),
        (None, "auxiliary", {"kind": "nuclear", "wight": 1}, "did you mean 'weight'?"),
        (None, "auxiliary", {"kind": "nuclear", "weight": 0}, "a number > 0"),
        (None, "auxiliary", {"kind": "commutativity", "tuples": -1}, "from 0 to 1000000"),
        (None, "auxiliary", {"kind": "commutativity", "tuples": 10**7}, "from 0 to 1000000"),
        (None, "auxiliary", {"kind": "lipschitz", "perturbation": 0}, "a number >= 0.001"),
        (None, "auxiliary", {"kind": "lipschitz", "perturbation": 1e-6}, "a number >= 0.001"),
        (None, "auxiliary", {"kind": "commutativity", "perturbation": 0.2}, "only with kind"),
        (None, "auxiliary", {"kind": "nuclear", "tuples": 64}, "only with kind"),
        ("training", "momentum", 0.5, "only with optimiser = 'sgd' or 'muon'"),
        ("training", "grokfast_decay", 0.5, "only with grokfast > 0"),
        (None, "auxiliary", {"kind": "triangle"}, "one of 'nuclear', 'entropy', 'lipschitz', "),
        ("checkpoints", "count", 1, ">= 2"),
        ("checkpoints", "count", 102, "at most [training] steps + 1 = 101"),
        ("checkpoints", "evaluate_every", 0, ">= 1"),
        ("checkpoints", "loss_change", 0, "> 0"),
    ],
)
def test_errors_name_key_found_and_allowed(
    section: str | None, key: str, value: object, says: str
) -> None:
    if section is None:
        values = {**GOOD, key: value}
    else:
        values = {**GOOD, section: {**GOOD.get(section, {}), key: value}}
    with pytest.raises(RecipeError) as caught:
        parse_recipe(values)
    message = str(caught.value)
    assert says in message
    assert key in message or (section or "") in message


def test_a_symmetry_that_the_task_has_not_lists_those_it_has() -> None:
    for task, kind, has, lacks in (
        ("modadd:p=5", "triangle", ["commutativity", "associativity", "consistency"], []),
        ("graph:path-6", "consistency", ["triangle", "reversal"], ["consistency"]),
        ("comparison:3x2", "commutativity", ["transitivity"], ["consistency", "commutativity"]),
    ):
        with pytest.raises(RecipeError) as caught:
            parse_recipe({**GOOD, "task": task, "auxiliary": {"kind": kind}})
        allowed = str(caught.value).partition("one of ")[2]
        assert f"[auxiliary] kind: found {kind!r}" in str(caught.value)
        assert task.partition(":")[0] in str(caught.value)
        for name in ["nuclear", "entropy", "lipschitz", *has]:
            assert repr(name) in allowed
        for name in lacks:
            assert repr(name) not in allowed


def test_keys_that_would_change_nothing_are_refused_only_there() -> None:
    with pytest.raises(RecipeError, match=r"\[training\] betas: .* only with optimiser = 'adamw'"):
        parse_recipe({**GOOD, "training": {"steps": 100, "optimiser": "sgd", "betas": [0.9, 0.99]}})
    for training in (
        {"optimiser": "sgd", "momentum": 0.5},
        {"optimiser": "muon", "momentum": 0.5, "betas": [0.9, 0.99]},
        {"grokfast": 1.0, "grokfast_decay": 0.5},
        {"momentum": 0.9, "grokfast_decay": 0.98},  # the defaults, said
    ):
        parse_recipe({**GOOD, "training": {"steps": 100, **training}})


def test_a_symmetry_by_construction_is_no_prompt() -> None:
    added, apart = {"kind": "mlp", "combine": "sum"}, {"kind": "mlp"}
    for task, kind in (("modadd:p=5", "commutativity"), ("graph:path-6", "reversal")):
        values = {**GOOD, "task": task, "auxiliary": {"kind": kind}}
        with pytest.raises(RecipeError, match="by construction"):
            parse_recipe({**values, "model": added})
        parse_recipe({**values, "model": apart})
        parse_recipe(values)
    for task, kind in (("modadd:p=5", "consistency"), ("modsub:p=5", "commutativity")):
        parse_recipe({**GOOD, "task": task, "model": added, "auxiliary": {"kind": kind}})


def test_a_set_intervention_survives_plain_values() -> None:
    recipe = parse_recipe(
        {
            **GOOD,
            "training": {"steps": 100, "optimiser": "muon", "grokfast": 2, "label_noise": 0.5},
            "model": {"output_scale": 2.0},
            "auxiliary": {"kind": "consistency", "tuples": 8},
        }
    )
    plain = json.loads(json.dumps(recipe.to_dict()))
    assert parse_recipe(plain) == recipe
    assert plain["auxiliary"] == {
        "kind": "consistency",
        "weight": 1.0,
        "tuples": 8,
        "perturbation": 0.1,
    }
    assert "momentum" not in plain["training"]


def test_three_operands_need_a_transformer() -> None:
    with pytest.raises(RecipeError, match=r"found 'mlp', expected 'transformer'.*3 operands"):
        parse_recipe({**GOOD, "task": "comparison:3x2", "model": {"kind": "mlp"}})


def test_missing_keys_are_named() -> None:
    with pytest.raises(RecipeError, match=r"\[training\]: missing"):
        parse_recipe({"name": "r", "task": "modadd:p=5"})
    with pytest.raises(RecipeError, match=r"\[training\] steps: missing"):
        parse_recipe({"name": "r", "task": "modadd:p=5", "training": {}})
    with pytest.raises(RecipeError, match="task: missing"):
        parse_recipe({"name": "r", "training": {"steps": 100}})


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(path)
    path.write_text("name = ")
    with pytest.raises(RecipeError, match="not TOML"):
        load_recipe(path)
    path.write_text('name = "r"\ntask = "modadd:p=5"\n[training]\nsteps = 0\n')
    with pytest.raises(RecipeError, match=r"r\.toml: \[training\] steps: found 0"):
        load_recipe(path)
    path.write_text('name = "r"\ntask = "modadd:p=5"\n[training]\nsteps = 100\nweight_decay = 1\n')
    assert load_recipe(path).training.weight_decay == 1


def test_reading_a_recipe_does_not_load_torch() -> None:
    code = "import sys, geomdiag.training as t; t.load_recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
