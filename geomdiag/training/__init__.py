"""Recipe → checkpoint series: the reference trainer.

Names are loaded on first use, so that reading about a recipe does not load torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geomdiag.training.many import train_all
    from geomdiag.training.recipe import (
        Checkpoints,
        MLPModel,
        Recipe,
        Training,
        TransformerModel,
        load_recipe,
        parse_recipe,
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


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "train":
        from geomdiag.training import trainer as module
    elif name == "Progress":
        from geomdiag.training import recording as module  # type: ignore[no-redef]
    elif name == "train_all":
        from geomdiag.training import many as module  # type: ignore[no-redef]
    elif name in ("load_recipes", "sweep_name"):
        from geomdiag.training import sweep as module  # type: ignore[no-redef]
    else:
        from geomdiag.training import recipe as module  # type: ignore[no-redef]
    return getattr(module, name)
