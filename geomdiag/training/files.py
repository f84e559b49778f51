"""What a training leaves on disk: checkpoints, ``run.json``, and the state it resumes from.

    <out>/<recipe name>/seed=<k>/step_<NNNNNN>.safetensors
    <out>/<recipe name>/seed=<k>/run.json
    <out>/<recipe name>/.training-state          only while the training is unfinished

Every file is written beside its place and then moved there, so that it is whole or absent.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomdiag._version import version
from geomdiag.errors import RecipeError, StoreError
from geomdiag.training.recipe import Recipe

__all__ = [
    "CURVES",
    "check_folder",
    "checkpoint_path",
    "is_finished",
    "read_state",
    "remove_checkpoints",
    "run_folder",
    "stacked_names",
    "state_path",
    "versions",
    "write_run",
    "write_safetensors",
]

#: Columns of every run's history.
CURVES = ("train_loss", "heldout_loss", "train_accuracy", "heldout_accuracy")


def run_folder(out: Path, recipe: Recipe, seed: int) -> Path:
    """Return the folder of one seed's run."""
    return out / recipe.name / f"seed={seed}"


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the file of one step."""
    return folder / f"step_{step:06d}.safetensors"


def state_path(out: Path, recipe: Recipe) -> Path:
    """Return the file that an interrupted training resumes from."""
    # hidden and without a known suffix: nobody should take it for a checkpoint
    return out / recipe.name / ".training-state"


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written: {error.strerror}. Free or choose another folder with --out."
        ) from error
    finally:
        # still there only when it could not be moved; a folder that refuses this is hopeless
        if temporary.exists():
            temporary.unlink()


def write_safetensors(
    path: Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]
) -> None:
    """Write arrays and text metadata; the same content gives the same bytes.

    Parameters
    ----------
    path : Path
        File; folders are made.
    tensors : mapping of str to array
        Arrays.
    metadata : mapping of str to str
        Text.

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    from safetensors.numpy import save

    # the library writes metadata in random order, which would change the digest of equal files
    whole = save({name: np.ascontiguousarray(array) for name, array in tensors.items()})
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + length])
    text = json.dumps({"__metadata__": dict(metadata), **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    _write(path, struct.pack("<Q", len(text)) + text + whole[8 + length :])


def versions() -> dict[str, str]:
    """Return the versions that a run's numbers may depend on."""
    return {
        "python": platform.python_version(),
        "geomdiag": version(),
        **{package: importlib.metadata.version(package) for package in ("torch", "numpy")},
    }


def _identity(recipe: Recipe) -> dict[str, Any]:
    """Return what makes two trainings the same: all but the device they run on."""
    plain = recipe.to_dict()
    del plain["device"]
    # through JSON, so that it compares equal to what was read back
    identity: dict[str, Any] = json.loads(json.dumps(plain))
    return identity


def _numbers(values: NDArray[np.float64]) -> list[float | None]:
    # nine digits carry a float32; JSON has no NaN
    return [float(f"{x:.9g}") if math.isfinite(x) else None for x in values.tolist()]


def _noise(rows: NDArray[np.int64], answers: NDArray[np.int64]) -> dict[str, list[int]]:
    return {"rows": rows.tolist(), "answers": answers.tolist()}


def write_run(
    folder: Path,
    recipe: Recipe,
    *,
    seed: int,
    task: str,
    config: Mapping[str, Any],
    train_rows: NDArray[np.int64],
    steps: NDArray[np.int64],
    columns: Sequence[str],
    curves: NDArray[np.float64],
    noise: tuple[NDArray[np.int64], NDArray[np.int64]] | None,
    device: str,
    finished: bool,
) -> None:
    """Write ``run.json``: all that is known of one seed's run beside its weights.

    Parameters
    ----------
    folder : Path
        Folder of the run.
    recipe : Recipe
        What was asked for.
    seed : int
        The run's own seed.
    task : str
        Canonical specification.
    config : mapping
        What the checkpoints say about the network.
    train_rows : (m,) int array
        Rows of the task's inputs that are trained on, increasing.
    steps : (t,) int array
        Evaluated steps.
    columns : sequence of str
        `CURVES`, and ``auxiliary`` where there is an auxiliary loss.
    curves : (t, columns) float array
        Values.
    noise : pair of (k,) int array, or None
        Rows that are trained on a wrong answer, and these answers.
    device : str
        Where it ran.
    finished : bool
        Whether the last step was reached.
    """
    content = {
        "format": "geomdiag-run",
        "format_version": 1,
        "name": recipe.name,
        "seed": seed,
        "task": task,
        "finished": finished,
        "config": dict(config),
        "recipe": _identity(recipe),
        "device": device,
        "versions": versions(),
        "split": {"train": train_rows.tolist()},
        **({"label_noise": _noise(*noise)} if noise is not None else {}),
        "history": {
            "step": steps.tolist(),
            **{name: _numbers(curves[:, i]) for i, name in enumerate(columns)},
        },
    }
    # one line a key: short to look at, and a changed key is a changed line
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
    _write(folder / "run.json", f"{{\n{lines}\n}}\n".encode())


def _read_run(folder: Path) -> dict[str, Any]:
    path = folder / "run.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"{path} cannot be read ({error}), so it is unknown whose checkpoints lie there; "
            "move the folder away or choose another --out"
        ) from error
    if not isinstance(content, dict) or content.get("format") != "geomdiag-run":
        raise RecipeError(
            f"{path} was not written by geomdiag's trainer; move the folder away or choose "
            "another --out"
        )
    return content


def _differences(found: Any, wanted: Any, prefix: str = "") -> list[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        return [
            line
            for key in sorted({*found, *wanted})
            for line in _differences(found.get(key), wanted.get(key), f"{prefix}{key}.")
        ]
    return [] if found == wanted else [f"{prefix[:-1]} = {found!r} there, {wanted!r} now"]


def check_folder(out: Path, recipe: Recipe, task: str) -> list[Path]:
    """Return the runs' folders that exist, after checking that they belong to `recipe`.

    Parameters
    ----------
    out : Path
        Folder that the recipe's own folder lies in.
    recipe : Recipe
        What was asked for.
    task : str
        Canonical specification. It says more than the recipe where a task is read from a
        file, whose content may have changed.

    Returns
    -------
    list of Path

    Raises
    ------
    RecipeError
        If something else lies there; the message says what differs.
    """
    root = out / recipe.name
    if root.exists() and not root.is_dir():
        raise RecipeError(f"{root} is a file; the runs need a folder there. Choose another --out.")
    folders = sorted(path for path in root.glob("seed=*") if path.is_dir())
    wanted = _identity(recipe)
    for folder in folders:
        if not (folder / "run.json").exists() and not any(folder.glob("*.safetensors")):
            continue  # an empty folder is nobody's
        run = _read_run(folder)
        differences = _differences(run.get("recipe"), wanted) or _differences(
            {"task": run.get("task")}, {"task": task}
        )
        if differences:
            raise RecipeError(
                f"{folder} holds the checkpoints of another recipe ({'; '.join(differences)}). "
                "Choose another --out, give the recipe another name, or move the folder away."
            )
    return folders


def is_finished(out: Path, recipe: Recipe) -> bool:
    """Tell whether every run of the recipe has reached its last step."""
    folders = [run_folder(out, recipe, seed) for seed in recipe.training.seeds]
    return all((folder / "run.json").is_file() for folder in folders) and all(
        _read_run(folder).get("finished") is True for folder in folders
    )


def remove_checkpoints(folder: Path, keep: set[int]) -> None:
    """Remove the checkpoints of a run whose step is not in `keep`, and unfinished writes."""
    for path in folder.glob("step_*.safetensors"):
        match = re.fullmatch(r"step_(\d+)", path.stem)
        if match and int(match[1]) not in keep:
            path.unlink(missing_ok=True)
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def read_state(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None:
    """Return the arrays and the notes of an interrupted training, or None if there is none.

    Raises
    ------
    RecipeError
        If the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    try:
        with safe_open(str(path), framework="numpy") as file:
            notes = json.loads(file.metadata()["notes"])
            return {name: file.get_tensor(name) for name in file.keys()}, notes  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(
            f"{path} is damaged ({error}); remove it to train from the beginning"
        ) from error


def stacked_names(recipe: Recipe, notes: Mapping[str, Any]) -> list[str]:
    """Return the names of the recipes whose state a file holds, by the file's notes.

    Parameters
    ----------
    recipe : Recipe
        In whose folder the file lies.
    notes : mapping
        As `read_state` returns them.
    """
    # those from before recipes were stacked do not say it
    names: list[str] = notes.get("recipes", [recipe.name])
    return names
