"""Sweep files: what they stand for, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from geomdiag.errors import RecipeError
from geomdiag.training import load_recipe, load_recipes, sweep_name

RECIPES = Path(__file__).resolve().parents[2] / "fixtures" / "recipes"

BASE = """
name = "base"
task = "modadd:p=5"
device = "cpu"
[model]
kind = "mlp"
d_embed = 4
[training]
steps = 10
train_fraction = 0.5
[checkpoints]
count = 3
"""


def write(folder: Path, sweep: str) -> Path:
    (folder / "base.toml").write_text(BASE)
    path = folder / "sweep.toml"
    path.write_text(sweep)
    return path


def test_every_combination_of_variants_and_values(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
name = "all"
[defaults]
training = { warmup = 3, weight_decay = 7.0 }
[[sweep]]
name = "a"
recipe = "base.toml"
set = { training = { lr = 0.5 } }
[[sweep.variant]]
name = "plain"
[[sweep.variant]]
name = "wide"
model = { d_embed = 8 }
[sweep.vary]
"training.weight_decay" = [0.0, 0.3]
"training.train_fraction" = [0.4]
""",
    )
    recipes = load_recipes(path)
    assert [recipe.name for recipe in recipes] == [
        "a+plain+weight_decay-0.0+train_fraction-0.4",
        "a+plain+weight_decay-0.3+train_fraction-0.4",
        "a+wide+weight_decay-0.0+train_fraction-0.4",
        "a+wide+weight_decay-0.3+train_fraction-0.4",
    ]
    assert [recipe.training.weight_decay for recipe in recipes] == [0.0, 0.3, 0.0, 0.3]
    assert [getattr(recipe.model, "d_embed", 0) for recipe in recipes] == [4, 4, 8, 8]
    assert all(recipe.training.lr == 0.5 for recipe in recipes)
    assert all(recipe.training.warmup == 3 for recipe in recipes)
    assert all(recipe.training.train_fraction == 0.4 for recipe in recipes)
    assert sweep_name(path) == "all"


def test_the_recipe_wins_over_the_defaults_and_set_over_both(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
name = "all"
[defaults]
training = { steps = 99, train_fraction = 0.9, lr = 0.1 }
[[sweep]]
name = "a"
recipe = "base.toml"
set = { training = { steps = 20 } }
""",
    )
    (recipe,) = load_recipes(path)
    assert recipe.name == "a"
    assert (recipe.training.steps, recipe.training.train_fraction) == (20, 0.5)
    assert recipe.training.lr == 0.1


def test_another_network_brings_its_own_keys(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
name = "all"
[[sweep]]
name = "a"
recipe = "base.toml"
set = { model = { kind = "transformer", d_model = 8, heads = 2 } }
""",
    )
    (recipe,) = load_recipes(path)
    assert recipe.model.kind == "transformer"


def test_a_recipe_stands_for_itself(tmp_path: Path) -> None:
    write(tmp_path, "")
    assert load_recipes(tmp_path / "base.toml") == [load_recipe(tmp_path / "base.toml")]
    assert sweep_name(tmp_path / "base.toml") is None


SWEEP = '[[sweep]]\nname = "a"\nrecipe = "base.toml"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (SWEEP, "name: missing"),
        ('name = "n"\nsweep = 3', r"expected a list of tables, \[\[sweep\]\]"),
        ('name = "n"\nsweep = []', "expected a list of tables"),
        ('name = "n"\nrecipe = "x"\n' + SWEEP, "recipe: unknown key"),
        ('name = "n"\n' + SWEEP + "varry = {}", "did you mean 'vary'"),
        ('name = "n"\n' + SWEEP + "vary = { seeds = 3 }", "expected a list of values"),
        ('name = "n"\n' + SWEEP + "variant = []", "variant: expected a list of tables"),
        ('name = "n"\n' + SWEEP + "variant = [{ training = { lr = 1.0 } }]", "name: missing"),
        ('name = "n"\n' + SWEEP + SWEEP, "two trainings are called 'a'"),
        ('name = "n"\n' + SWEEP + "set = 4", "set: found 4, expected a table"),
        ('name = "n"\n' + SWEEP + 'set = { task = "modadd:p=oops" }', r"\n?a: task: found"),
        ('name = "n"\n' + SWEEP + "set = { training = { lrr = 1 } }", "lrr: unknown key"),
        ('name = "n"\n[[sweep]]\nname = "a"\nrecipe = "no.toml"', "no.toml cannot be read"),
        ('name = "../n"\n' + SWEEP, "name: found '../n', expected letters"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(RecipeError, match=says) as caught:
        load_recipes(path)
    assert "sweep.toml" in str(caught.value)


def test_a_sweep_is_no_recipe(tmp_path: Path) -> None:
    path = write(tmp_path, 'name = "n"\n' + SWEEP)
    with pytest.raises(RecipeError, match="stands for many recipes"):
        load_recipe(path)


def test_the_corpus_covers_what_it_is_for() -> None:
    recipes = load_recipes(RECIPES / "corpus.toml")
    assert sum(len(recipe.training.seeds) for recipe in recipes) >= 400
    assert len({recipe.task for recipe in recipes}) >= 12
    assert {recipe.model.kind for recipe in recipes} == {"mlp", "transformer"}
    hopeless = ("random-labels", "too-little-data", "no-decay-little-data")
    never = [recipe for recipe in recipes if recipe.name.endswith(hopeless)]
    assert sum(len(recipe.training.seeds) for recipe in never) >= 80
