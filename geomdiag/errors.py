"""Errors that geomdiag raises on purpose.

Every message says what was found, what was expected and what to do next. All of them
derive from `GeomdiagError`, so a caller can tell a diagnosed problem from a bug.
"""

__all__ = [
    "ArchitectureError",
    "BaselineError",
    "CheckpointError",
    "DiskFullError",
    "GeomdiagError",
    "MissingExtraError",
    "MissingPartError",
    "OptionsError",
    "RecipeError",
    "SplitError",
    "StoreError",
    "TaskError",
    "UnknownNameError",
    "UnsafeCheckpointError",
]


class GeomdiagError(Exception):
    """Base of every error that geomdiag raises on purpose."""


class UnknownNameError(GeomdiagError, LookupError):
    """A format, architecture, task or analyzer was asked for by a name nobody registered."""


class TaskError(GeomdiagError, ValueError):
    """A task was described wrongly (bad modulus, unknown parameter, contradicting shapes)."""


class CheckpointError(GeomdiagError):
    """A file or folder cannot be read as checkpoints (truncated, unknown format, no steps)."""


class UnsafeCheckpointError(CheckpointError):
    """Reading the file would execute code that it carries."""


class SplitError(GeomdiagError, ValueError):
    """A train/held-out split cannot be understood or does not fit the task's inputs."""


class ArchitectureError(GeomdiagError):
    """No known architecture fits the tensors of a checkpoint, or running it failed."""


class MissingPartError(GeomdiagError):
    """A snapshot lacks a part (logits, embedding, ...); the message says why."""


class OptionsError(GeomdiagError, ValueError):
    """A ``geomdiag.toml``, a map of tensors or a choice of tokens is wrong."""


class StoreError(GeomdiagError, OSError):
    """A result cannot be written or read."""


class DiskFullError(StoreError):
    """There is no room for a result: on the disk, or in what the user may fill of it."""


class RecipeError(GeomdiagError, ValueError):
    """A training recipe is wrong."""


class BaselineError(GeomdiagError, ValueError):
    """A baseline of geometry is wrong, or does not belong to the result held against it."""


class MissingExtraError(GeomdiagError, ImportError):
    """A package that an extra of geomdiag brings is not installed.

    Parameters
    ----------
    package : str
        What cannot be imported.
    extra : str
        The extra that brings it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed here; it comes with the extra {extra!r}: "
            f"pip install 'geomdiag[{extra}]'"
        )
