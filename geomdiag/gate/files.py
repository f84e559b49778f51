"""Small text files, replaced in one step."""

from __future__ import annotations

import os
from pathlib import Path

from geomdiag._replace import plain_errors
from geomdiag._replace import write_text as replace_text

__all__ = ["write_text"]


def write_text(text: str, path: str | os.PathLike[str]) -> Path:
    """Write a text, replacing an earlier file in one step and making its folder.

    Parameters
    ----------
    text : str
    path : path

    Returns
    -------
    Path
        The file.

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    target = Path(path).resolve()
    with plain_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    return replace_text(text, target)
