"""Folders that trackers and exporters leave: W&B runs and artifact versions, MLflow runs, logs.

Layouts, looked up in wandb 0.31 and mlflow 3.17:

- ``wandb/run-<date>_<time>-<id>/files/``: what the run saved, ``config.yaml`` with
  ``{name: {value: ...}}``, ``wandb-summary.json`` with the last value of everything;
- ``artifacts/<name>:v<N>/``: one version of a downloaded artifact, one checkpoint or more;
- ``mlruns/<experiment>/<run>/``: ``artifacts/``, ``params/<name>`` (a value each),
  ``metrics/<name>`` (lines of timestamp, value, step) and ``meta.yaml``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from geomdiag.checkpoints.beside.curves import standard_name
from geomdiag.checkpoints.formats.contract import Curve
from geomdiag.checkpoints.places.paths import AnyPath

__all__ = [
    "SUMMARY",
    "flat_summary",
    "gathers",
    "is_mlflow_run",
    "lightning_logs",
    "mlflow_records",
    "unwrapped",
    "version_of",
    "wandb_files",
    "wandb_logs",
]

#: W&B's file of last values.
SUMMARY = "wandb-summary.json"
_WANDB_RUN = re.compile(r"(offline-)?run-\d{8}_\d{6}-(?P<id>\w+)")
_VERSION = re.compile(r"(?P<name>.+):v(?P<number>\d{1,9})")
_LIMIT = 64 << 20


def version_of(folder: AnyPath) -> tuple[str, int] | None:
    """Return name and number of the artifact version a folder holds: ``model-k3:v12``."""
    match = _VERSION.fullmatch(folder.name)
    return (match["name"], int(match["number"])) if match else None


def gathers(folder: AnyPath) -> bool:
    """Return whether a library put a run's files into this folder, so that it names no run."""
    if folder.name == "variables":  # of a TensorFlow SavedModel
        return (folder.parent / "saved_model.pb").is_file()
    if folder.name == "files":
        return _WANDB_RUN.fullmatch(folder.parent.name) is not None
    if folder.name == "data":
        return (folder.parent / "MLmodel").is_file()
    return folder.name == "artifacts" and is_mlflow_run(folder.parent)


def is_mlflow_run(folder: AnyPath) -> bool:
    """Return whether a folder is that of an MLflow run or logged model."""
    if not (folder / "meta.yaml").is_file():
        return False
    return any((folder / name).is_dir() for name in ("params", "metrics", "tags"))


def wandb_files(root: AnyPath) -> list[AnyPath]:
    """Return the ``files`` folders of the W&B run that an artifact's name tells.

    Parameters
    ----------
    root : Path
        ``artifacts/run-<id>-<name>`` or ``artifacts/<name>-<id>``, without the version; runs
        are looked for in ``wandb/`` beside and above.
    """
    tokens = set(root.name.split("-"))
    found: list[AnyPath] = []
    for home in (root.parent / "wandb", root.parent.parent / "wandb"):
        for run in sorted(home.iterdir()) if home.is_dir() else ():
            match = _WANDB_RUN.fullmatch(run.name)
            if match and match["id"] in tokens:
                found.append(run / "files")
    return found


def wandb_logs(root: AnyPath) -> list[AnyPath]:
    """Return the logs of the W&B run that a run's folder is, lies in, or is an artifact of."""
    above = [each for each in (root, *root.parents[:3]) if _WANDB_RUN.fullmatch(each.name)]
    found: list[AnyPath] = []
    for home in (*above, *(files.parent for files in wandb_files(root))):
        match = _WANDB_RUN.fullmatch(home.name)
        log = home / f"run-{match['id'] if match else ''}.wandb"
        if log.is_file():
            found.append(log)
    return found


def lightning_logs(root: AnyPath) -> list[AnyPath]:
    """Return the folder of Lightning's logger beside a run's checkpoints, if there is just one.

    Parameters
    ----------
    root : Path or RemotePath
        The run's folder, with ``lightning_logs/version_0/metrics.csv`` (``default/`` before
        Lightning 1.0).
    """
    found = [
        version
        for home in (root / "lightning_logs", root / "default")
        if home.is_dir()
        for version in home.iterdir()
        if re.fullmatch(r"version_\d+", version.name) and version.is_dir()
    ]
    return found if len(found) == 1 else []


def unwrapped(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without W&B's wrapping ``{value: ...}`` and its own notes.

    Anything else comes back as it is.
    """
    wrapped = all(
        isinstance(item, Mapping) and "value" in item and set(item) <= {"value", "desc"}
        for key, item in document.items()
        if key != "wandb_version"
    )
    if not document or not wrapped:
        return dict(document)
    return {
        key: item["value"]
        for key, item in document.items()
        if key not in ("_wandb", "wandb_version")
    }


def flat_summary(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return W&B's last values, nested ones joined by slashes, and the ``last_step`` they tell.

    W&B's own ``_step`` counts calls of its ``log`` and is no training step.
    """
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}/{inner}": held for inner, held in value.items()}
        else:
            flat[key] = value
    flat = {key: value for key, value in flat.items() if not key.startswith("_")}
    for key in ("trainer/global_step", "global_step", "step"):
        if key in flat:
            flat.setdefault("last_step", flat[key])
    return flat


def mlflow_records(root: AnyPath) -> tuple[dict[str, Any], list[Curve]]:
    """Return settings and curves of the MLflow run that a run's folder is, or lies in.

    Parameters
    ----------
    root : Path
        The run's folder.

    Returns
    -------
    settings : dict
        Numbers as numbers.
    curves : list of Curve
    """
    home = next((each for each in (root, *root.parents[:4]) if is_mlflow_run(each)), None)
    if home is None:
        return {}, []
    settings = {name: _parsed(text.strip()) for name, text in _records(home / "params")}
    curves: list[Curve] = []
    for name, text in _records(home / "metrics"):
        if standard_name(name) is None:
            continue
        rows = [line.split() for line in text.splitlines()]
        try:
            values = [float(row[1]) for row in rows]
            steps = [int(row[2]) for row in rows]
        except (IndexError, ValueError):
            continue  # a courtesy: a torn line must not stop the work
        # Logged without a step, all are 0: then only their order is known.
        told = len(steps) == 1 or any(steps)
        curves.append(Curve({name: values}, {"step": steps} if told else {}, f"metrics/{name}"))
    return settings, curves


def _records(folder: AnyPath) -> Iterator[tuple[str, str]]:
    """Yield name and text of each file; a name with slashes lies in subfolders."""
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        try:
            if path.is_file() and path.stat().st_size <= _LIMIT:
                yield path.relative_to(folder).as_posix(), path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue


def _parsed(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"True": True, "False": False, "None": None}.get(text, text)
