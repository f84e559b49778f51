"""Recipe → checkpoint series: the reference trainer.

Names are loaded on first use, so that reading about a recipe does not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geomdiag.training.many import train_all
    from geomdiag.training.reading import load_recipe, parse_recipe
    from geomdiag.training.recipe import (
        Checkpoints,
        MLPModel,
        Recipe,
        Training,
        TransformerModel,
    )
    from geomdiag.training.recording import Progress
    from geomdiag.training.sweep import load_recipes, sweep_name
    from geomdiag.training.trainer import train

__all__ = [
    "Checkpoints",
    "MLPModel",
    "Progress",
    "Recipe",
    "Training",
    "TransformerModel",
    "load_recipe",
    "load_recipes",
    "parse_recipe",
    "sweep_name",
    "train",
    "train_all",
]

#: Module of each name that is not a part of `recipe`.
_HOMES = {
    "Progress": "recording",
    "load_recipe": "reading",
    "load_recipes": "sweep",
    "parse_recipe": "reading",
    "sweep_name": "sweep",
    "train": "trainer",
    "train_all": "many",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_HOMES.get(name, 'recipe')}")
    return getattr(module, name)
