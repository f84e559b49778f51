"""``geomdiag.toml``: what a person wrote beside the runs because it cannot be guessed."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from geomdiag.errors import OptionsError

if TYPE_CHECKING:
    from geomdiag.checkpoints.places.paths import AnyPath

__all__ = ["OPTIONS_FILE", "Options", "flat_map", "read_options"]

#: Name of the file.
OPTIONS_FILE = "geomdiag.toml"
#: A file of settings is short; anything larger is not one.
_LIMIT = 1 << 20


@dataclass(frozen=True)
class Options:
    """What the files of this name say of a run, the nearer one winning key by key.

    Attributes
    ----------
    task : str
        Specification, e.g. ``"group:Z12"``; empty where none is said.
    split : str or path
        As for `parse_split`; a path is that of a file.
    model : str
        ``package.module:factory``. It is shown and never imported: a file beside data must
        not be able to run code.
    tokens : str, tuple of int or of str
        As for `geomdiag.models.tokens.choose_tokens`; empty where none are said.
    tokenizer : str or path
        File that turns strings into token ids.
    numbers : {"", "steps", "runs"}
        What the numbers count in names that are, or differ by, a bare number.
    mapping : mapping of str to str
        Part to tensor name, the table ``[map]``.
    files : mapping of str to path
        Key to the file that said it.
    """

    task: str = ""
    split: str | AnyPath = ""
    model: str = ""
    tokens: str | tuple[int, ...] | tuple[str, ...] = ""
    tokenizer: str | AnyPath = ""
    numbers: str = ""
    mapping: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, AnyPath] = field(default_factory=dict)


_KEYS = tuple({"mapping": "map"}.get(one.name, one.name) for one in fields(Options)[:-1])


def read_options(folders: Sequence[AnyPath]) -> Options:
    """Return what the files in these folders say together.

    Parameters
    ----------
    folders : sequence of Path
        From the opened folder down to the run's own; what a later one says wins.

    Raises
    ------
    OptionsError
        If a file cannot be read, names an unknown key, or gives one the wrong kind of value.
    """
    found = Options()
    for folder in dict.fromkeys(folders):
        path = folder / OPTIONS_FILE
        if path.is_file():
            said = _read(path)
            files = {**found.files, **dict.fromkeys(said, path)}
            found = replace(found, **said, files=files)
    return found


def _read(path: AnyPath) -> dict[str, Any]:
    """Return the fields that a file gives, checked; paths in it are relative to its folder."""
    try:
        with path.open("rb") as file:
            data = file.read(_LIMIT + 1)
        if len(data) > _LIMIT:
            raise OptionsError(f"{path}: has more than {_LIMIT} bytes; expected a few lines")
        table = tomllib.loads(data.decode("utf-8"))
    except OSError as error:
        raise OptionsError(f"{path}: cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and UnicodeDecodeError
        raise OptionsError(f"{path}: not TOML: {error}") from error
    said: dict[str, Any] = {}
    for key, value in table.items():
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise OptionsError(f"{path}: unknown key {key!r}; known: {', '.join(_KEYS)}.{hint}")
        if key == "map":
            said["mapping"] = flat_map(value, f"{path}: [map]")
        elif key == "tokens":
            said[key] = _tokens(value, path)
        elif key == "numbers" and value not in ("steps", "runs"):
            raise OptionsError(f'{path}: numbers is {value!r}; expected "steps" or "runs"')
        elif not isinstance(value, str) or not value:
            raise OptionsError(f"{path}: {key} is {value!r}; expected a text such as {_like(key)}")
        else:
            beside = path.parent / value
            is_path = key in ("split", "tokenizer") and beside.is_file()
            said[key] = beside if is_path else value
    return said


def _like(key: str) -> str:
    return {
        "task": '"group:Z12"',
        "split": '"python:seed=0,fraction=0.3"',
        "model": '"package.module:factory"',
        "tokenizer": '"tokenizer.json"',
    }[key]


def _tokens(value: Any, path: AnyPath) -> str | tuple[int, ...] | tuple[str, ...]:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list) and value:
        if all(isinstance(one, int) and not isinstance(one, bool) for one in value):
            return tuple(value)
        if all(isinstance(one, str) for one in value):
            return tuple(value)
    raise OptionsError(
        f'{path}: tokens is {value!r}; expected "months", "0:100", a list of token ids or a list '
        "of strings"
    )


def flat_map(table: Any, where: str) -> dict[str, str]:
    """Return a table of part to tensor name; ``embedding.rows = ...`` may be nested.

    Parameters
    ----------
    table : mapping
        As read.
    where : str
        For the message.

    Raises
    ------
    OptionsError
        If it is no table of texts.
    """
    flat: dict[str, str] = {}
    for part, value in table.items() if isinstance(table, Mapping) else ((table, None),):
        inner = value.items() if isinstance(value, Mapping) else (("", value),)
        for axis, name in inner:
            if not isinstance(name, str) or not name:
                raise OptionsError(
                    f"{where} gives {part!r} the value {name!r}; expected the name of a tensor, "
                    'such as embedding = "encoder.tok.weight"'
                )
            flat[f"{part}.{axis}" if axis else str(part)] = name
    return flat
