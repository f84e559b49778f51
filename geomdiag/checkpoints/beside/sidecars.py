"""What lies beside a run's checkpoints: settings, losses and accuracies, the split."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from geomdiag.checkpoints.beside.agreement import contradiction
from geomdiag.checkpoints.beside.curves import (
    STEP_UNITS,
    standard_name,
    standard_values,
    step_columns,
)
from geomdiag.checkpoints.beside.splits import Split, read_split_file, split_inside
from geomdiag.checkpoints.beside.trackers import SUMMARY, flat_summary, unwrapped
from geomdiag.checkpoints.formats.contract import Curve
from geomdiag.checkpoints.formats.unfolding import Unfolding
from geomdiag.checkpoints.places.paths import AnyPath
from geomdiag.checkpoints.steps import sidecar_key
from geomdiag.errors import SplitError

__all__ = ["SPLIT_STEMS", "Sidecars", "collect"]

_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".yaml", ".yml")
_SPLIT_SUFFIXES = (".pt", ".pth", ".npy", ".npz", ".json", ".csv", ".txt")
#: Names of files that hold the train part.
SPLIT_STEMS = (
    "train_data",
    "train_indices",
    "train_idx",
    "train_rows",
    "train_pairs",
    "train_mask",
    "train_set",
    "split",
    "splits",
)
_CONFIG_WORDS = ("config", "cfg", "hparams", "hyperparameters", "args", "settings", "params")
_CONFIG_KEYS = ("config", "cfg", "hyper_parameters", "hparams", "args", "model_cfg", "train_cfg")
_HISTORY_KEYS = ("history", "log_history", "metrics", "log", "logs", "curves", "training_history")
_LIMIT = 256 * 1024 * 1024
#: Characters of a YAML file, and keys of one of its mappings.
_YAML, _MERGED = 4 << 20, 10_000


@dataclass(eq=False)
class Sidecars:
    """What the files beside one run say.

    Attributes
    ----------
    config : dict
        Settings.
    curves : list of Curve
        Losses and accuracies.
    split : Split or None
        Train/held-out split.
    scalars : dict
        Single values such as ``memorize_step`` or a final ``train_loss``.
    per_file : dict of str to dict
        Scalars of files that are named exactly like a checkpoint, by that stem.
    notices : list of str
        Files that could not be read, or that contradict each other.
    said : dict of path to dict
        The settings by the file that gave them.
    """

    config: dict[str, Any] = field(default_factory=dict)
    curves: list[Curve] = field(default_factory=list)
    split: Split | None = None
    scalars: dict[str, Any] = field(default_factory=dict)
    per_file: dict[str, dict[str, Any]] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    said: dict[AnyPath, dict[str, Any]] = field(default_factory=dict)


def collect(
    folders: Sequence[AnyPath],
    *,
    base: str,
    stems: Iterable[str],
    alone: bool,
    exclude: set[AnyPath],
) -> Sidecars:
    """Read the files beside a run's checkpoints.

    Parameters
    ----------
    folders : sequence of AnyPath
        Where to look, nearest first.
    base : str
        The checkpoints' common name without steps and words.
    stems : iterable of str
        Full stems of the checkpoints.
    alone : bool
        Whether the folders hold this run only, so that files with general names
        (``config.json``, ``metrics.csv``) are its own.
    exclude : set of AnyPath
        The checkpoints themselves.

    Returns
    -------
    Sidecars
    """
    result = Sidecars()
    key = sidecar_key(base)
    stems = set(stems)
    for folder in folders:
        try:
            paths = sorted(path for path in folder.iterdir() if path.is_file())
        except OSError:
            continue
        for path in paths:
            if path in exclude or path.name.endswith(".index.json"):
                continue
            stem = path.name[: -len(path.suffix)] if path.suffix else path.name
            if _is_split(path, stem, base, alone):
                _take_split(result, path)
                continue
            if path.suffix.lower() not in _SUFFIXES:
                continue
            own = "" if path.name == SUMMARY else sidecar_key(stem)
            twin = stem in stems
            if not (twin or (own == key and key) or (own == "" and alone)):
                continue
            _take(result, path, stem, twin=twin and len(stems) > 1)
    return result


def _is_split(path: AnyPath, stem: str, base: str, alone: bool) -> bool:
    if path.suffix.lower() not in _SPLIT_SUFFIXES:
        return False
    lower = stem.lower()
    if base and lower in {f"{base.lower()}_{name}" for name in SPLIT_STEMS}:
        return True
    return alone and lower in SPLIT_STEMS


def _take_split(result: Sidecars, path: AnyPath) -> None:
    if result.split is not None:
        return
    try:
        result.split = read_split_file(path)
    except SplitError as error:
        result.notices.append(f"the split beside the checkpoints is not used: {error}")


def _take(result: Sidecars, path: AnyPath, stem: str, *, twin: bool) -> None:
    suffix = path.suffix.lower()
    try:
        if path.stat().st_size > _LIMIT:
            result.notices.append(f"{path.name}: larger than {_LIMIT >> 20} MiB, not read")
            return
        if suffix == ".csv":
            _take_rows(result, _csv_columns(path), path.name)
            return
        text = path.read_text(encoding="utf-8")
        document: Any
        if suffix in (".jsonl", ".ndjson"):
            document = [json.loads(line) for line in text.splitlines() if line.strip()]
        elif suffix == ".json":
            document = json.loads(text)
        else:
            document = _yaml(text)
    except Exception as error:  # a sidecar is a courtesy: a broken one must not stop the work
        result.notices.append(
            f"{path.name}: not read ({type(error).__name__}: {str(error).splitlines()[:1]})"
        )
        return
    if isinstance(document, list):
        _take_rows(result, _columns(document), path.name)
    elif isinstance(document, Mapping):
        _take_mapping(result, document, path, stem, twin=twin)


def _yaml(text: str) -> Any:
    """Read YAML of plain values, whose aliases may name one another, but not without end."""
    import yaml

    if len(text) > _YAML:
        raise ValueError(f"{len(text)} characters; settings have at most {_YAML}")

    class Loader(yaml.SafeLoader):
        def flatten_mapping(self, node: yaml.MappingNode) -> None:
            super().flatten_mapping(node)
            if len(node.value) > _MERGED:  # each "<<: [*a, *a]" doubles it
                raise ValueError(f"more than {_MERGED} merged keys")

    document = yaml.load(text, Loader)  # a SafeLoader
    Unfolding().through(document)
    return document


def _take_mapping(
    result: Sidecars, document: Mapping[Any, Any], path: AnyPath, stem: str, *, twin: bool
) -> None:
    document = unwrapped({str(key): value for key, value in document.items()})
    if path.name == SUMMARY:
        document = flat_summary(document)
    words = stem.lower().replace("-", "_").split("_")
    settings: dict[str, Any] = {}
    for key in _CONFIG_KEYS:
        if isinstance(document.get(key), Mapping):
            settings |= dict(document[key])
    if any(word in _CONFIG_WORDS for word in words) or path.suffix.lower() in (".yaml", ".yml"):
        settings |= {key: value for key, value in document.items() if key not in _CONFIG_KEYS}
    elif words[-1] in ("metadata", "meta", "info"):
        settings |= {key: value for key, value in document.items() if _is_plain(value)}
    _take_settings(result, settings, path)
    if result.split is None:
        result.split = split_inside(document, path.name)
    for key in _HISTORY_KEYS:
        held = document.get(key)
        if isinstance(held, list):
            columns = _columns(held)
            if path.name == "trainer_state.json" and "loss" in columns:
                # Transformers logs the train loss alone under this name.
                columns.setdefault("train_loss", columns.pop("loss"))
            _take_rows(result, columns, path.name)
        elif isinstance(held, Mapping):
            _take_rows(result, _lists(held), path.name)
    _take_rows(result, _lists(document), path.name)
    scalars = {key: value for key, value in document.items() if _is_plain(value)}
    if twin:
        result.per_file.setdefault(stem, {}).update(scalars)
    for key, value in scalars.items():
        result.scalars.setdefault(key, value)


def _take_settings(result: Sidecars, settings: Mapping[str, Any], path: AnyPath) -> None:
    """Add settings that no file before gave; say where they contradict what one gave."""
    for earlier, said in result.said.items():
        homes = earlier.parent, path.parent
        related = (
            homes[0] == homes[1] or homes[0] in homes[1].parents or homes[1] in homes[0].parents
        )
        if related and (problem := contradiction(said, settings, _shown(earlier), _shown(path))):
            result.notices.append(problem)  # of two checkpoints' folders each has its own
    new = {key: value for key, value in settings.items() if key not in result.config}
    result.config |= new
    if new:
        result.said[path] = new


def _shown(path: AnyPath) -> str:
    return f"{path.parent.name}/{path.name}" if path.parent.name else path.name


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | bool | int | float)


def _lists(document: Mapping[Any, Any]) -> dict[str, list[float]]:
    """Return the columns of a mapping from names to lists of numbers."""
    return {
        str(key): [_number(item) for item in value]
        for key, value in document.items()
        if isinstance(value, list)
        and value
        and (standard_name(str(key)) or str(key).lower() in STEP_UNITS | _BARE)
        and not any(isinstance(item, list | dict) for item in value)
    }


_BARE = dict.fromkeys(("loss", "accuracy", "acc"), "")


def _columns(rows: Sequence[Any]) -> dict[str, list[float]]:
    """Return the wanted columns of a list of records; NaN where a record lacks one."""
    records = [row for row in rows if isinstance(row, Mapping)]
    names: dict[str, None] = {}
    for record in records:
        names |= dict.fromkeys(str(key) for key, value in record.items() if _is_plain(value))
    wanted = [name for name in names if standard_name(name) or name.lower() in STEP_UNITS | _BARE]
    return {name: [_number(record.get(name)) for record in records] for name in wanted}


def _csv_columns(path: AnyPath) -> dict[str, list[float]]:
    with path.open("r", newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        wanted = {
            name: position
            for position, name in enumerate(header)
            if standard_name(name) or name.strip().lower() in STEP_UNITS | _BARE
        }
        columns: dict[str, list[float]] = {name.strip(): [] for name in wanted}
        for row in reader:
            for name, position in wanted.items():
                columns[name.strip()].append(_number(row[position] if position < len(row) else ""))
    return columns


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _take_rows(result: Sidecars, columns: Mapping[str, Sequence[float]], source: str) -> None:
    """Add columns of one length as a curve, without the rows that have no step."""
    by_length: dict[int, dict[str, Sequence[float]]] = {}
    for name, column in columns.items():
        by_length.setdefault(len(column), {})[name] = column
    for group in by_length.values():
        if not standard_values(group):
            continue
        counts = step_columns(group)
        steps: dict[str, list[int]] = {}
        values: Mapping[str, Sequence[float]] = group
        if counts:
            rows = [
                row
                for row in range(len(next(iter(group.values()))))
                if all(_finite(group[column][row]) for column in counts.values())
            ]
            steps = {unit: [int(group[name][row]) for row in rows] for unit, name in counts.items()}
            values = {name: [column[row] for row in rows] for name, column in group.items()}
        result.curves.append(Curve(values, steps, source))


def _finite(value: float) -> bool:
    return abs(value) < 2**62  # False for NaN
