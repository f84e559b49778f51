"""What `analyze`, `inspect` and `watch` are asked alike: their options, as one object."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

Paths = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH", help="Checkpoint, run folder, folder of runs, archive, or an address."
    ),
]
Task = Annotated[str | None, typer.Option("--task", "-t", help="Such as modadd or modadd:p=113.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Result. Default: NAME.geomdiag.zarr in this folder."),
]
Split = Annotated[
    str | None,
    typer.Option(
        "--split",
        help="Train/held-out split: a file, or python:seed=0,fraction=0.3 (numpy:, torch:).",
    ),
]
Model = Annotated[
    str | None,
    typer.Option("--model", metavar="PACKAGE.MODULE:FACTORY", help="Your own model."),
]
Map = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="PART=TENSOR",
        help="Which tensor is the embedding, the unembedding, ...; several by commas.",
    ),
]
Tokens = Annotated[
    str | None,
    typer.Option(
        "--tokens",
        help="Rows of a vocabulary: 15,16 or 0:100, months, days, numbers:0:100, strings:A,B.",
    ),
]
Tokenizer = Annotated[
    Path | None,
    typer.Option("--tokenizer", metavar="FILE", help="What turns strings into token ids."),
]
Analyzers = Annotated[
    str,
    typer.Option(
        "--analyzers",
        metavar="A,B",
        help="These diagnostics; 'default' and 'all' stand for many.",
    ),
]
Skip = Annotated[str, typer.Option("--skip", metavar="X,Y", help="Without these diagnostics.")]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Processes, of one thread each.")
]
AllowPickle = Annotated[
    bool,
    typer.Option("--allow-pickle", help="Read files that run code. Only those you trust."),
]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is measured of the checkpoints, and how: options that several commands have."""

    split: Split = None
    model: Model = None
    map: Map = None
    tokens: Tokens = None
    tokenizer: Tokenizer = None
    analyzers: Analyzers = ""
    skip: Skip = ""
    workers: Workers = None

    def arguments(self) -> dict[str, Any]:
        """Return them as arguments of `geomdiag.analyze`."""
        from geomdiag.models.mapping import parse_map

        return {
            "analyzers": _choose(self.names(), _names(self.skip)),
            "model": self.model,
            "split": self.split,
            "mapping": parse_map(",".join(self.map)) if self.map else {},
            "tokens": self.tokens,
            "tokenizer": self.tokenizer,
            "workers": self.workers,
        }

    def names(self) -> list[str]:
        """Return the diagnostics that were named."""
        return _names(self.analyzers)


#: Nothing was asked.
NOTHING = Asked()


def asking(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `Asked` in the place of its parameter ``asked``."""
    names = [one.name for one in fields(Asked)]

    @wraps(command)
    def wrapped(**given: Any) -> None:
        asked = Asked(**{name: given.pop(name) for name in names})
        command(**given, asked=asked)

    hints = get_type_hints(Asked, include_extras=True)
    keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters: list[inspect.Parameter] = []
    for one in inspect.signature(command, eval_str=True).parameters.values():
        if one.name != "asked":
            parameters.append(one)
            continue
        parameters += [
            inspect.Parameter(own.name, keyword, default=own.default, annotation=hints[own.name])
            for own in fields(Asked)
        ]
    # Typer makes its options of what a function says it takes
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return wrapped


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _choose(named: Sequence[str], without: Sequence[str]) -> list[str] | None:
    """Return the names of the diagnostics asked for, None for the default ones."""
    from geomdiag.analysis.plan import choose
    from geomdiag.analyzers import ANALYZERS

    for name in without:
        ANALYZERS[name]  # an unknown name is an error that lists the known ones
    if not named and not without:
        return None
    left = [one.name for one in choose(named or None) if one.name not in without]
    if not left:
        raise typer.BadParameter("--skip leaves no diagnostic")
    return left


def open_all(
    paths: Sequence[str | Path], split: str | None, allow_pickle: bool
) -> tuple[Any, list[str]]:
    """Open one path as it is, several as a list; return it with the notices of the whole."""
    from geomdiag.checkpoints import open_runs

    opened = [open_runs(path, split=split, allow_pickle=allow_pickle) for path in paths]
    notices = [notice for runs in opened for notice in runs.notices]
    return (opened[0] if len(opened) == 1 else opened), notices
