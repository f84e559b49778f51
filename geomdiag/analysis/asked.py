"""What was asked for of a run: by the caller, and else by the ``geomdiag.toml`` beside it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geomdiag.errors import TaskError

if TYPE_CHECKING:
    from geomdiag.checkpoints.places.paths import AnyPath
    from geomdiag.checkpoints.series import Series
    from geomdiag.models.tokens import Tokens
    from geomdiag.tasks.contract import Task

__all__ = ["Asked", "Naming", "asked_of"]


@dataclass(frozen=True, kw_only=True)
class Naming:
    """How the caller names what cannot be guessed; what is left empty, ``geomdiag.toml`` may say.

    Attributes
    ----------
    mapping : mapping of str to str
        Part to tensor name; see `geomdiag.models.mapping.select`.
    tokens : str, or sequence of int or of str
        See `geomdiag.models.tokens.choose_tokens`.
    tokenizer : str or Path
        File that turns strings into token ids.
    """

    mapping: Mapping[str, str] = field(default_factory=dict)
    tokens: str | tuple[int, ...] | tuple[str, ...] = ""
    tokenizer: str | AnyPath = ""

    @classmethod
    def of(
        cls,
        mapping: Mapping[str, str] | str | None = None,
        tokens: str | Iterable[int] | Iterable[str] | None = None,
        tokenizer: str | os.PathLike[str] | None = None,
    ) -> Naming:
        """Return the arguments of `analyze` as one.

        Raises
        ------
        OptionsError
            If the map has another form.
        """
        if isinstance(mapping, str):
            from geomdiag.models.mapping import parse_map

            mapping = parse_map(mapping)
        listed: Any = tokens or "" if isinstance(tokens, str | None) else tuple(tokens)
        path = "" if tokenizer is None else Path(tokenizer)
        return cls(mapping=dict(mapping or {}), tokens=listed, tokenizer=path)


@dataclass(frozen=True, eq=False, kw_only=True)
class Asked:
    """Caller and file together.

    Attributes
    ----------
    task : str or Task
        What was to be learnt.
    mapping : mapping of str to str
        Part to tensor name.
    tokens : Tokens or None
        Rows of a vocabulary.
    notices : list of str
        What the file gave, and what it says that does not count.
    """

    task: str | Task
    mapping: Mapping[str, str]
    tokens: Tokens | None
    notices: list[str]


def asked_of(series: Series, task: str | Task | None, model: Any, naming: Naming) -> Asked:
    """Return what is asked of a run; what the caller says wins over the file.

    Raises
    ------
    TaskError
        If neither names a task.
    OptionsError
        If the tokens cannot be understood.
    """
    options = series.options
    said = {
        "task": "" if task is None else getattr(task, "name", task),
        "map": naming.mapping,
        "tokens": naming.tokens,
        "tokenizer": naming.tokenizer,
        "model": model,
    }
    gave: dict[AnyPath, list[str]] = {}
    notices: list[str] = []
    for key, path in options.files.items():
        name = "map" if key == "mapping" else key
        value = getattr(options, key)
        shown = (
            ", ".join(f"{part}={tensor}" for part, tensor in value.items())
            if isinstance(value, Mapping)
            else getattr(value, "name", str(value))
            if name in ("split", "tokenizer")
            else str(value)
        )
        if said.get(name):
            if str(said[name]) != str(value):
                notices.append(
                    f"{_shown(path)} says {name} = {shown}, which does not count: another one was "
                    "given"
                )
        elif name == "model":
            notices.append(
                f"WARNING: {_shown(path)} names the model {shown}, which is not used: importing it "
                f"runs code. If you trust it, say --model {shown}"
            )
        elif name != "split":  # its own attribute tells where the split comes from
            gave.setdefault(path, []).append(f"{name} = {shown}")
    notices = [f"{_shown(path)} gives {'; '.join(texts)}" for path, texts in gave.items()] + notices
    chosen = task if task is not None else options.task
    if not chosen:
        raise TaskError(
            "no task was given; say which one, such as --task modadd (geomdiag tasks lists them), "
            f'or write task = "modadd" into a geomdiag.toml beside the runs of {series.name}'
        )
    tokens = naming.tokens or options.tokens
    return Asked(
        task=chosen,
        mapping=naming.mapping or options.mapping,
        tokens=_tokens(series, tokens, naming.tokenizer or options.tokenizer) if tokens else None,
        notices=notices,
    )


def _shown(path: AnyPath) -> str:
    return f"{path.parent.name}/{path.name}" if path.parent.name else path.name


def _tokens(
    series: Series, said: str | tuple[int, ...] | tuple[str, ...], tokenizer: str | AnyPath
) -> Tokens:
    path: AnyPath | None = Path(tokenizer) if isinstance(tokenizer, str) else tokenizer
    if not tokenizer:
        path = _tokenizer_beside(series)
    stamp = 0
    if path is not None and path.is_file():
        stamp = path.stat().st_mtime_ns
    return _chosen(said, path, stamp)


@lru_cache(maxsize=8)
def _chosen(
    said: str | tuple[int, ...] | tuple[str, ...], path: AnyPath | None, _stamp: int
) -> Tokens:
    """Read a tokenizer once for all runs; it may have tens of megabytes."""
    from geomdiag.models.tokens import choose_tokens

    return choose_tokens(said, path)


def _tokenizer_beside(series: Series) -> AnyPath | None:
    """Return the tokenizer file that lies where the run or its first checkpoint does."""
    from geomdiag.models.vocabulary import TOKENIZER_FILES

    folders = [one.path.parent for one in list(series)[:1]]
    folders.append(series.path if series.path.is_dir() else series.path.parent)
    for folder in dict.fromkeys(folders):
        for name in TOKENIZER_FILES:
            if (folder / name).is_file():
                return folder / name
    return None
