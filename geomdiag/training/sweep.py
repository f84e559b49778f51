"""A sweep: one TOML file that stands for many recipes."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from geomdiag.errors import RecipeError
from geomdiag.training.reading import parse_recipe, read_toml
from geomdiag.training.recipe import Recipe
from geomdiag.training.values import check_keys, check_name

__all__ = ["load_recipes", "sweep_name"]

_TOP = ("name", "defaults", "sweep")
_SWEEP = ("name", "recipe", "set", "vary", "variant")


def load_recipes(path: str | Path) -> list[Recipe]:
    """Read the recipes that a TOML file stands for: its own, or every one of its sweeps.

    A sweep file has the keys ``name`` (the folder that all its trainings go into),
    ``defaults`` (a table of recipe keys that every training starts from) and ``sweep``, a list of
    tables with

    ``name``
        Name that the trainings begin with.
    ``recipe``
        Recipe file to start from, relative to the sweep's. Its own keys win over ``defaults``.
    ``set``
        Table of recipe keys that win over both.
    ``variant``
        List of tables: ``name``, and the recipe keys that this variant changes. A table of recipe
        keys is merged key by key; a different ``model.kind`` replaces the whole table.
    ``vary``
        Dotted recipe keys with a list of values each, such as
        ``"training.weight_decay" = [0.0, 1.0]``. Every combination is trained, with every variant.

    Parameters
    ----------
    path : str or Path
        TOML file.

    Returns
    -------
    list of Recipe
        In the order of the file, one recipe for a file without sweeps. Those of a sweep are named
        ``<name>+<variant>+<key>-<value>...`` with the last part of each varied key.

    Raises
    ------
    RecipeError
        If the file is not a recipe or a sweep, two trainings have one name, or any of the recipes
        is wrong. Nothing is trained then.
    """
    path = Path(path)
    values = read_toml(path)
    if "sweep" not in values:
        return [_parse(values, f"recipe {path}")]
    try:
        check_keys("", values, _TOP, required=("name", "sweep"))
        check_name(values["name"])
        tables = values["sweep"]
        if not isinstance(tables, list) or not tables or not all(_is_table(t) for t in tables):
            raise RecipeError("sweep: expected a list of tables, [[sweep]]")
        recipes = [
            recipe
            for number, table in enumerate(tables, start=1)
            for recipe in _expand(table, number, _table(values, "defaults", "defaults"), path)
        ]
    except RecipeError as error:
        raise RecipeError(f"sweep {path}: {error}") from error
    taken: set[str] = set()
    for recipe in recipes:
        if recipe.name in taken:
            raise RecipeError(
                f"sweep {path}: two trainings are called {recipe.name!r}; give one of their "
                "sweeps or variants another name"
            )
        taken.add(recipe.name)
    return recipes


def sweep_name(path: str | Path) -> str | None:
    """Return the name of the sweep in a TOML file.

    Parameters
    ----------
    path : path
        A recipe or a sweep.

    Returns
    -------
    str or None
        None where the file is a single recipe.

    Raises
    ------
    RecipeError
        If it cannot be read.
    """
    values = read_toml(Path(path))
    return values["name"] if "sweep" in values else None


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _table(values: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    table = values.get(key, {})
    if not isinstance(table, dict):
        raise RecipeError(f"{where}: found {table!r}, expected a table")
    return table


def _parse(values: dict[str, Any], where: str) -> Recipe:
    try:
        return parse_recipe(values)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from error


def _merged(base: dict[str, Any], *changes: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with each of `changes` laid over it, tables key by key."""
    result = copy.deepcopy(base)
    for change in changes:
        for key, value in change.items():
            old = result.get(key)
            if not isinstance(old, dict) or not isinstance(value, dict):
                result[key] = copy.deepcopy(value)
            elif "kind" in value and value["kind"] != old.get("kind"):
                result[key] = copy.deepcopy(value)  # it has other keys than the old kind
            else:
                result[key] = _merged(old, value)
    return result


def _nested(dotted: str, value: object) -> dict[str, Any]:
    *tables, last = dotted.split(".")
    result: dict[str, Any] = {last: value}
    for table in reversed(tables):
        result = {table: result}
    return result


def _expand(
    table: dict[str, Any], number: int, defaults: dict[str, Any], path: Path
) -> Iterator[Recipe]:
    where = f"[[sweep]] {number}"
    check_keys(where, table, _SWEEP, required=("name",))
    name = table["name"]
    where = f"[[sweep]] {name!r}"
    base = read_toml(path.parent / table["recipe"]) if "recipe" in table else {}
    base = _merged(defaults, base, _table(table, "set", f"{where} set"))
    variants = table.get("variant", [{}])
    if not isinstance(variants, list) or not variants or not all(_is_table(v) for v in variants):
        raise RecipeError(f"{where} variant: expected a list of tables, [[sweep.variant]]")
    vary = _table(table, "vary", f"{where} vary")
    for key, choices in vary.items():
        if not isinstance(choices, list) or not choices:
            raise RecipeError(f"{where} vary {key}: found {choices!r}, expected a list of values")
    for variant in variants:
        changes = {key: value for key, value in variant.items() if key != "name"}
        if changes and "name" not in variant:
            raise RecipeError(f"{where} variant: name: missing; every variant must have one")
        for values in itertools.product(*vary.values()):
            parts = [str(name)]
            parts += [str(variant["name"])] if "name" in variant else []
            parts += [
                f"{key.rpartition('.')[2]}-{value}" for key, value in zip(vary, values, strict=True)
            ]
            chosen = [_nested(key, value) for key, value in zip(vary, values, strict=True)]
            full = _merged(base, changes, *chosen) | {"name": "+".join(parts)}
            yield _parse(full, full["name"])
