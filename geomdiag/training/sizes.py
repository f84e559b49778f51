"""What a recipe needs at the least, held against the machine before anything is allocated."""

from __future__ import annotations

import math
import os

import torch

from geomdiag.errors import RecipeError
from geomdiag.tasks.contract import Task
from geomdiag.training.networks import build_network
from geomdiag.training.prompts import check_all_instances
from geomdiag.training.recipe import Recipe

__all__ = ["check_sizes"]

#: Copies of all parameters that a step needs at once: they, their gradient, a running mean.
_COPIES = 3


def check_sizes(recipe: Recipe, task: Task, device: torch.device) -> None:
    """Refuse what surely does not fit: networks, or all instances of a composition.

    What passes may still be too much: activations and copies for a moment are not counted.

    Parameters
    ----------
    recipe : Recipe
        Recipe.
    task : Task
        Its task.
    device : torch.device
        Where it is to train.

    Raises
    ------
    RecipeError
        If it does not fit.
    """
    seeds = len(recipe.training.seeds)
    numbers = sum(math.prod(shape) for shape in build_network(task, recipe.model).shapes.values())
    need = _COPIES * seeds * numbers * (8 if recipe.dtype == "float64" else 4)
    there = _memory(device)
    if there is not None and need > there:
        raise RecipeError(
            f"[model]: found sizes that make a network of {numbers:,} parameters; {seeds} of them "
            f"need at least {need / 1e9:,.0f} GB to train, expected at most the {there / 1e9:,.0f} "
            "GB of this machine; make it narrower, or train fewer seeds at a time"
        )
    asked = recipe.auxiliary
    if asked is not None and asked.symmetries and not asked.tuples:
        check_all_instances(task, asked.symmetries, seeds)


def _memory(device: torch.device) -> int | None:
    """Return the bytes of memory there are, None where that is not told."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not on Windows
        return None
