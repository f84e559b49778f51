"""Checkpoints on disk → `Series` of `Checkpoint`: names, arrays and numbers, nothing about tasks.

`open_runs` is the door; `FORMATS` names the formats; one file each in ``formats/``.
"""

from geomdiag.checkpoints.paths import RemotePath
from geomdiag.checkpoints.runs import FORMATS, Runs, open_runs
from geomdiag.checkpoints.series import Checkpoint, History, Series, TensorMap, TensorSpec
from geomdiag.checkpoints.splits import Split, parse_split

__all__ = [
    "FORMATS",
    "Checkpoint",
    "History",
    "RemotePath",
    "Runs",
    "Series",
    "Split",
    "TensorMap",
    "TensorSpec",
    "open_runs",
    "parse_split",
]
