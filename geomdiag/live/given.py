"""What a monitor is given, checked before the training begins."""

from __future__ import annotations

import operator
import os
from typing import Any

from geomdiag.checkpoints.beside.splits import Split, parse_split, split_from_value
from geomdiag.errors import ArchitectureError

__all__ = ["check", "is_first_process", "split_of", "whole"]


def check(every: int, max_share: float | None, if_exists: str, model: Any, forward: Any) -> None:
    """Raise what is wrong with a monitor's options."""
    if every < 1:
        raise ValueError(f"every: found {every}, expected a number of steps from 1 on")
    if max_share is not None and not 0 < max_share <= 1:
        raise ValueError(f"max_share: found {max_share}, expected a share above 0, up to 1")
    if if_exists not in ("continue", "replace"):
        raise ValueError(f'if_exists: found {if_exists!r}, expected "continue" or "replace"')
    if model is not None and forward is not None:
        raise ArchitectureError(
            "found both model and forward: give model (tensors → callable) or forward "
            "(module, inputs → logits)"
        )


def whole(step: Any) -> int:
    """Return a number of updates as a plain integer."""
    try:
        number = operator.index(step)
    except TypeError as error:
        raise TypeError(
            f"step: found {step!r} ({type(step).__name__}), expected a whole number of updates"
        ) from error
    if number < 0:
        raise ValueError(f"step: found {number}, expected 0 or more updates")
    return number


def split_of(split: Any) -> Split | None:
    """Return which inputs are trained on, from any of the ways to say so."""
    if split is None or isinstance(split, Split):
        return split
    if isinstance(split, str | os.PathLike):
        return parse_split(os.fspath(split))
    return split_from_value(split, "what the training loop handed over")


def is_first_process() -> bool:
    """Return whether this process is to measure: of a distributed training, the first one."""
    import torch.distributed as distributed

    if not distributed.is_available():
        return True
    if distributed.is_initialized():
        return distributed.get_rank() == 0
    # started by torchrun, and the group of processes is yet to be made
    return not distributed.is_torchelastic_launched() or os.environ.get("RANK", "0") == "0"
