"""Checkpoints on disk → `Series` of `Checkpoint`: names, arrays and numbers, nothing about tasks.

`open_runs` is the door; `FORMATS` names the formats; one file each in ``formats/``.
"""

from geomdiag.checkpoints.beside.splits import Split, parse_split
from geomdiag.checkpoints.places.paths import RemotePath
from geomdiag.checkpoints.runs import FORMATS, Runs, open_runs
from geomdiag.checkpoints.series import Checkpoint, History, Series, TensorMap, TensorSpec

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
