"""What networks were to learn: tasks, their symmetries, bases and metrics.

`task` makes one from a specification such as ``"modadd:p=113"``; everything a task must tell
is in `geomdiag.tasks.contract`. A new family is one file with a `Task` subclass and one line
in `TASKS`, or, from another package, an entry point of the group ``geomdiag.tasks``.
"""

from geomdiag.tasks.contract import (
    Composition,
    Equivalence,
    HarmonicBasis,
    LogitGroup,
    Symmetry,
    Task,
)
from geomdiag.tasks.families import TASKS, TaskFamily, task, task_families
from geomdiag.tasks.sizes import fitting_tasks, task_for, token_candidates

__all__ = [
    "TASKS",
    "Composition",
    "Equivalence",
    "HarmonicBasis",
    "LogitGroup",
    "Symmetry",
    "Task",
    "TaskFamily",
    "fitting_tasks",
    "task",
    "task_families",
    "task_for",
    "token_candidates",
]
