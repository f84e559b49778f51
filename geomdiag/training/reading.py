"""A recipe from a TOML file or from plain values."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from geomdiag.errors import RecipeError
from geomdiag.training.recipe import (
    AuxiliaryLoss,
    Checkpoints,
    MLPModel,
    Recipe,
    Training,
    TransformerModel,
)
from geomdiag.training.values import check_choice, check_keys, wrong

__all__ = ["load_recipe", "parse_recipe", "read_toml"]

_T = TypeVar("_T")

_MODELS: dict[str, type[TransformerModel | MLPModel]] = {
    "transformer": TransformerModel,
    "mlp": MLPModel,
}


def _section(cls: type[_T], key: str, values: object) -> _T:
    """Make `cls` from a TOML table, refusing keys it does not have."""
    if not isinstance(values, dict):
        raise wrong(key, values, "a table")
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    required = [
        entry.name
        for entry in fields
        if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
    ]
    check_keys(key, values, [entry.name for entry in fields], required=required)
    return cls(**values)


def parse_recipe(values: dict[str, Any]) -> Recipe:
    """Make a recipe from nested plain values, as a TOML file or `Recipe.to_dict` gives them.

    Parameters
    ----------
    values : dict
        Keys ``name``, ``task``, ``device``, ``dtype`` and the tables ``model``, ``training``,
        ``checkpoints``, ``auxiliary``.

    Returns
    -------
    Recipe

    Raises
    ------
    RecipeError
        For an unknown or missing key, a wrong type or an impossible size; the message names
        the key, what was found and what is allowed.
    """
    values = dict(values)
    if "training" not in values:
        raise RecipeError("[training]: missing; the recipe must say at least [training] steps")
    values["training"] = _section(Training, "[training]", values["training"])
    if "checkpoints" in values:
        values["checkpoints"] = _section(Checkpoints, "[checkpoints]", values["checkpoints"])
    if "auxiliary" in values:
        values["auxiliary"] = _section(AuxiliaryLoss, "[auxiliary]", values["auxiliary"])
    if "model" in values:
        model = values["model"]
        kind = model.get("kind", "transformer") if isinstance(model, dict) else "transformer"
        check_choice("[model] kind", kind, tuple(_MODELS))
        values["model"] = _section(_MODELS[kind], "[model]", model)
    recipe = _section(Recipe, "", values)
    recipe.build_task()
    return recipe


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe from a TOML file.

    Parameters
    ----------
    path : str or Path
        File.

    Returns
    -------
    Recipe

    Raises
    ------
    RecipeError
        If the file cannot be read, is not TOML, or is not a recipe (see `parse_recipe`).
    """
    path = Path(path)
    values = read_toml(path)
    if "sweep" in values:
        raise RecipeError(
            f"{path} is a sweep, which stands for many recipes; read it with load_recipes"
        )
    try:
        return parse_recipe(values)
    except RecipeError as error:
        raise RecipeError(f"recipe {path}: {error}") from error


def read_toml(path: Path) -> dict[str, Any]:
    """Read the plain values of a recipe or a sweep."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"the recipe {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"the recipe {path} is not TOML: {error}") from error
