"""A baseline: the numbers of each seed and how they are compared, one readable line a metric."""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geomdiag._version import version
from geomdiag.errors import BaselineError
from geomdiag.gate.files import write_text
from geomdiag.gate.patterns import choose
from geomdiag.gate.policies import CHOSEN, SCALES, WORSE, Policy, policy_of

if TYPE_CHECKING:
    from geomdiag.gate.measured import Measured

__all__ = [
    "CORRECTIONS",
    "Baseline",
    "Metric",
    "Setting",
    "baseline_text",
    "correction_of",
    "load_baseline",
    "make_baseline",
    "parse_baseline",
    "save_baseline",
]

FORMAT, VERSION = "geomdiag-baseline", 1
CORRECTIONS = ("family-wise", "benjamini-hochberg", "none")

_HEADER = """\
# Geometry that later results are held against with `geomdiag check`; review it like code.
# One line a metric: its value in each run, which direction is worse, and the largest change
# that never counts: absolute (units of the metric), relative (share of the centre) or spread
# (standard deviations between seeds). Edits of these outlive an update of the values.
"""


@dataclass(frozen=True)
class Metric:
    """The values of one metric, one a run (NaN: none), and how it is compared."""

    values: tuple[float, ...]
    policy: Policy


@dataclass(frozen=True)
class Setting:
    """The metrics of runs that differ in their seed only."""

    metrics: dict[str, Metric]
    task: str = ""
    runs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Baseline:
    """What results are held against.

    Attributes
    ----------
    settings : dict of str to Setting
    choose : tuple of str
        Patterns of the metrics that it was made of; what they match in a later result is not to
        be missed.
    level : float
        Chance that runs without a change fail.
    correction : {"family-wise", "benjamini-hochberg", "none"}
        For the number of metrics: the level is the chance that any of them fails; the share of
        failing metrics that fail for nothing; the chance of each metric.
    """

    settings: dict[str, Setting]
    choose: tuple[str, ...] = CHOSEN
    level: float = 0.05
    correction: str = "family-wise"


def make_baseline(
    measured: Sequence[Measured],
    *,
    metrics: Sequence[str] | None = None,
    like: Baseline | None = None,
) -> Baseline:
    """Return a baseline of measured numbers.

    Parameters
    ----------
    measured : sequence of Measured
        From `geomdiag.gate.measured.measure`.
    metrics : sequence of str, optional
        Patterns of names, ``*`` standing for anything. Default: those of `like`, or `CHOSEN`.
    like : Baseline, optional
        An earlier one whose tolerances, directions and test are kept.

    Returns
    -------
    Baseline
        A metric that some runs lack may be missing later too (``allow_missing``); one that all
        of them lack is left out.

    Raises
    ------
    BaselineError
        If no metric is left, or a spread is asked for of a single value.
    """
    patterns = tuple(metrics or (like.choose if like else CHOSEN))
    settings: dict[str, Setting] = {}
    for one in measured:
        old = like.settings[known].metrics if like and (known := _same(like, one.name)) else {}
        chosen: dict[str, Metric] = {}
        for name in choose(one.values, patterns):
            values = one.values[name]
            if not any(map(math.isfinite, values)):
                continue
            policy = (
                old[name].policy if name in old else policy_of(name, one.higher_is_better.get(name))
            )
            if not all(map(math.isfinite, values)):
                policy = replace(policy, allow_missing=True)
            chosen[name] = Metric(values, policy)
        if not chosen:
            raise BaselineError(
                f"{one.name!r} has no number that matches {', '.join(patterns)}. It has: "
                f"{', '.join(one.values) or 'none'}"
            )
        settings[one.name] = Setting(chosen, one.task, one.runs)
    made = Baseline(settings, patterns)
    if like:
        made = replace(made, level=like.level, correction=like.correction)
    for setting in made.settings.values():
        for name, metric in setting.metrics.items():
            _validate_metric(name, metric)
    return made


def correction_of(name: str) -> str:
    """Return the name that a correction has today.

    Parameters
    ----------
    name : str
        As a baseline or a user says it; ``holm`` is what promised the same as family-wise.

    Returns
    -------
    str
        Unknown names are returned as they are.
    """
    return CORRECTIONS[0] if name == "holm" else name


def _same(baseline: Baseline, name: str) -> str | None:
    """Return the setting of that name; the only one where there is one, whatever its name."""
    if name in baseline.settings:
        return name
    return next(iter(baseline.settings)) if len(baseline.settings) == 1 else None


# --- text --------------------------------------------------------------------------------------


def baseline_text(baseline: Baseline) -> str:
    """Return a baseline as TOML; numbers in seven digits.

    Parameters
    ----------
    baseline : Baseline

    Returns
    -------
    str
        `parse_baseline` gives it back, but for the digits.
    """
    lines = [
        _HEADER,
        f"format = {_text(FORMAT)}",
        f"version = {VERSION}",
        f"made_by = {_text(f'geomdiag {version()}')}",
        "metrics = [",
        *(f"  {_text(pattern)}," for pattern in baseline.choose),
        "]",
        "",
        "[test]",
        f"level = {_number(baseline.level)}",
        f"correction = {_text(baseline.correction)}",
    ]
    for name, setting in baseline.settings.items():
        if setting.task or setting.runs:
            lines += ["", f"[settings.{_text(name)}]"]
        if setting.task:
            lines.append(f"task = {_text(setting.task)}")
        if setting.runs:
            lines.append(f"runs = [{', '.join(map(_text, setting.runs))}]")
        lines += ["", f"[settings.{_text(name)}.metrics]"]
        lines += [f"{_text(key)} = {_line(metric)}" for key, metric in setting.metrics.items()]
    return "\n".join(lines) + "\n"


def _line(metric: Metric) -> str:
    plain = Policy()
    parts = [f"values = [{', '.join(map(_number, metric.values))}]"]
    for key, value in asdict(metric.policy).items():
        if key == "worse" or value != getattr(plain, key):
            parts.append(f"{key} = {_scalar(value)}")
    return "{ " + ", ".join(parts) + " }"


def _scalar(value: str | bool | float) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return _text(value) if isinstance(value, str) else _number(value)


def _number(value: float) -> str:
    return f"{value + 0.0:.7g}" if math.isfinite(value) else "nan"


def _text(value: str) -> str:
    # JSON's strings are TOML's, but for this one character
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def save_baseline(baseline: Baseline, path: str | os.PathLike[str]) -> Path:
    """Write a baseline, replacing an earlier file in one step.

    Parameters
    ----------
    baseline : Baseline
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
    return write_text(baseline_text(baseline), path)


def load_baseline(path: str | os.PathLike[str]) -> Baseline:
    """Read a baseline.

    Parameters
    ----------
    path : path
        TOML file that `save_baseline` wrote.

    Returns
    -------
    Baseline

    Raises
    ------
    BaselineError
        If there is none, or it breaks the schema; the message names the place.
    """
    target = Path(path)
    try:
        text = target.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BaselineError(
            f"there is no baseline at {target}. Make one with `geomdiag baseline RESULT -o "
            f"{target}`."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BaselineError(f"{target} cannot be read as a baseline: {error}") from error
    try:
        return parse_baseline(text)
    except BaselineError as error:
        raise BaselineError(f"{target}: {error}") from None


def parse_baseline(text: str) -> Baseline:
    """Return the baseline that a text of TOML describes.

    Parameters
    ----------
    text : str

    Returns
    -------
    Baseline

    Raises
    ------
    BaselineError
        If it breaks the schema.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BaselineError(f"it is not TOML: {error}") from None
    if content.get("format") != FORMAT or content.get("version") != VERSION:
        raise BaselineError(
            f"expected format = {FORMAT!r} and version = {VERSION}, found "
            f"{content.get('format')!r} and {content.get('version')!r}. Make it with `geomdiag "
            "baseline`."
        )
    _keys(content, "the file", {"format", "version", "settings"}, {"made_by", "metrics", "test"})
    test = _table(content.get("test", {}), "test")
    _keys(test, "test", set(), {"level", "correction"})
    level = _real(test.get("level", 0.05), "test.level")
    if not 0 < level < 1:
        raise BaselineError(f"test.level is {level:g}; expected a probability between 0 and 1")
    correction = correction_of(test.get("correction", CORRECTIONS[0]))
    if correction not in CORRECTIONS:
        raise BaselineError(
            f"test.correction is {correction!r}; expected one of {', '.join(CORRECTIONS)}"
        )
    settings = {
        name: _setting(value, f"settings.{name}")
        for name, value in _table(content["settings"], "settings").items()
    }
    if not settings:
        raise BaselineError("it has no settings; expected a table [settings.NAME]")
    patterns = _words(content.get("metrics", list(CHOSEN)), "metrics")
    return Baseline(settings, patterns, level, correction)


def _setting(value: Any, where: str) -> Setting:
    table = _table(value, where)
    _keys(table, where, {"metrics"}, {"task", "runs"})
    task = table.get("task", "")
    if not isinstance(task, str):
        raise BaselineError(f"{where}.task is {task!r}; expected a text")
    runs = _words(table.get("runs", []), f"{where}.runs")
    metrics = {
        name: _metric(entry, f"{where}.metrics.{name}")
        for name, entry in _table(table["metrics"], f"{where}.metrics").items()
    }
    if not metrics:
        raise BaselineError(f"{where}.metrics is empty; expected a line a metric")
    return Setting(metrics, task, runs)


_POLICY_KEYS = {field.name for field in fields(Policy)}


def _metric(value: Any, where: str) -> Metric:
    table = _table(value, where)
    _keys(table, where, {"values", "worse"}, _POLICY_KEYS)
    given = table["values"]
    if not isinstance(given, list) or not given:
        raise BaselineError(f"{where}.values is {given!r}; expected a list, one number a run")
    values = tuple(_real(one, f"{where}.values", nan=True) for one in given)
    options: dict[str, Any] = {}
    for key, known in (("worse", WORSE), ("scale", SCALES)):
        if key in table:
            if table[key] not in known:
                raise BaselineError(
                    f"{where}.{key} is {table[key]!r}; expected one of {', '.join(known)}"
                )
            options[key] = table[key]
    for key in ("absolute", "relative", "spread", "resolution"):
        options[key] = _real(table.get(key, 0.0), f"{where}.{key}")
        if options[key] < 0:
            raise BaselineError(f"{where}.{key} is {options[key]:g}; expected 0 or more")
    for key in ("test", "allow_missing"):
        if key in table:
            if not isinstance(table[key], bool):
                raise BaselineError(f"{where}.{key} is {table[key]!r}; expected true or false")
            options[key] = table[key]
    metric = Metric(values, Policy(**options))
    _validate_metric(where, metric)
    return metric


def _validate_metric(where: str, metric: Metric) -> None:
    """Refuse what cannot be compared."""
    known = [value for value in metric.values if math.isfinite(value)]
    policy = metric.policy
    if not known:
        raise BaselineError(f"{where} has no finite value; remove its line")
    if len(known) < len(metric.values) and not policy.allow_missing:
        raise BaselineError(
            f"{where} lacks a value in some runs; set allow_missing = true, or remove its line"
        )
    if policy.spread and len(known) < 2:
        raise BaselineError(
            f"{where}.spread needs the values of at least two seeds, found one; give absolute or "
            "relative instead"
        )
    start = policy.absolute
    low, high = min(known) + start, 1 - max(known) + start
    if policy.scale != "linear" and low <= 0:
        raise BaselineError(
            f"{where}: the scale {policy.scale} is of values above -absolute, found "
            f"{min(known):g} with absolute = {start:g}; raise absolute or use scale = 'linear'"
        )
    if policy.scale == "logit" and high <= 0:
        raise BaselineError(
            f"{where}: the scale logit is of values below 1 + absolute, found {max(known):g} "
            f"with absolute = {start:g}; raise absolute or use scale = 'linear'"
        )


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BaselineError(f"{where} is {value!r}; expected a table")
    return value


def _words(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise BaselineError(f"{where} is {value!r}; expected a list of texts")
    return tuple(value)


def _real(value: Any, where: str, *, nan: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BaselineError(f"{where} holds {value!r}; expected a number")
    if math.isinf(value) or (math.isnan(value) and not nan):
        raise BaselineError(f"{where} holds {value}; expected a finite number")
    return float(value)


def _keys(table: Mapping[str, Any], where: str, needed: set[str], more: set[str]) -> None:
    if lacking := sorted(needed - set(table)):
        raise BaselineError(f"{where} lacks {', '.join(lacking)}")
    if odd := sorted(set(table) - needed - more):
        known = ", ".join(sorted(needed | more))
        raise BaselineError(f"{where} has the unknown key {odd[0]!r}; known are {known}")
