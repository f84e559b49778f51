"""`geomdiag analyze`: checkpoints in, a result on disk and its summary out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from geomdiag_cli.console import (
    INTERRUPTED,
    SOME_FAILED,
    Bar,
    Debug,
    Json,
    Quiet,
    clean,
    print_json,
    say,
    stdout,
)

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

_SUFFIXES = {"zarr": ".zarr", "netcdf": ".nc"}


def command(
    paths: Paths,
    task: Task = None,
    out: Out = None,
    split: Split = None,
    model: Model = None,
    map: Map = None,
    tokens: Tokens = None,
    tokenizer: Tokenizer = None,
    analyzers: Analyzers = "",
    skip: Skip = "",
    workers: Workers = None,
    format: Annotated[
        str, typer.Option("--format", help="zarr or netcdf.", metavar="zarr|netcdf")
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Compute finished steps anew.")] = False,
    criterion: Annotated[
        Path | None,
        typer.Option("--criterion", help="Thresholds of `geomdiag calibrate`.", metavar="FILE"),
    ] = None,
    allow_pickle: AllowPickle = False,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Measure every checkpoint of every run, keep the result, and summarise it.

    An earlier result at the same place is extended: steps that are finished are not computed
    again. What --task, --split, --map, --tokens and --tokenizer leave unsaid, a geomdiag.toml
    beside the runs may say. Exit code 3 says that some checkpoint failed.
    """
    from geomdiag.summary import summarise

    kind = _format(format, out)
    target = out if out is not None else default_out(paths, _SUFFIXES[kind])
    bar = None if quiet else _Bar()
    own = _criterion(criterion)
    try:
        from geomdiag.analysis import analyze_into

        chosen = choose(analyzers, skip)
        runs, general = open_all(paths, split, allow_pickle)
        with bar or nullcontext():
            tree = analyze_into(
                target,
                runs,
                task,
                format=kind,
                force=force,
                analyzers=chosen,
                model=model,
                split=split,
                mapping=parse(map),
                tokens=tokens,
                tokenizer=tokenizer,
                workers=workers,
                progress=bar,
            )
    except KeyboardInterrupt:
        say("Interrupted. Finished steps are kept; the same command goes on from there.")
        raise typer.Exit(INTERRUPTED) from None
    if own is not None:
        from geomdiag.dynamics.criterion import apply_criterion
        from geomdiag.store import save

        tree = apply_criterion(tree, own)
        save(tree, target, kind)
    summaries = summarise(tree)
    if json:
        print_json(
            {
                "result": str(target),
                "format": kind,
                "task": tree.attrs.get("task", ""),
                "geomdiag_version": tree.attrs.get("geomdiag_version", ""),
                "notices": general,
                "runs": summaries,
            }
        )
    if quiet or json:
        _shout(summaries)
    else:
        from geomdiag_cli.tables import print_summaries

        print_summaries(
            stdout(),
            summaries,
            general,
            reused=bar.reused if bar else 0,
            asked=[name.strip() for name in analyzers.split(",")],
        )
        _next(target)
    if any(summary["failed"] or summary["partial"] for summary in summaries):
        raise typer.Exit(SOME_FAILED)


def _criterion(path: Path | None) -> dict[str, Any] | None:
    """Read the user's thresholds before any work."""
    if path is None:
        return None
    from geomdiag.dynamics.criterion import load_criterion

    return load_criterion(path)


def open_all(
    paths: Sequence[str | Path], split: str | None, allow_pickle: bool
) -> tuple[Any, list[str]]:
    """Open one path as it is, several as a list; return it with the notices of the whole."""
    from geomdiag.checkpoints import open_runs

    opened = [open_runs(path, split=split, allow_pickle=allow_pickle) for path in paths]
    notices = [notice for runs in opened for notice in runs.notices]
    return (opened[0] if len(opened) == 1 else opened), notices


def parse(maps: Sequence[str] | None) -> dict[str, str]:
    """Return what all --map say together."""
    from geomdiag.models.mapping import parse_map

    return parse_map(",".join(maps)) if maps else {}


def choose(analyzers: str, skip: str) -> list[str] | None:
    """Return the names of the diagnostics asked for, None for the default ones."""
    from geomdiag.analysis.plan import choose as choose_analyzers
    from geomdiag.analyzers import ANALYZERS

    named, without = (
        [name.strip() for name in text.split(",") if name.strip()] for text in (analyzers, skip)
    )
    for name in without:
        ANALYZERS[name]  # an unknown name is an error that lists the known ones
    if not named and not without:
        return None
    left = [one.name for one in choose_analyzers(named or None) if one.name not in without]
    if not left:
        raise typer.BadParameter("--skip leaves no diagnostic")
    return left


def default_out(paths: Sequence[str | Path], suffix: str) -> Path:
    """Return where the result goes when nobody says: in this folder, named after the input."""
    from geomdiag.checkpoints.runs import name_of

    name = name_of(paths[0]) or "runs"
    return Path(f"{name if len(paths) == 1 else 'runs'}.geomdiag{suffix}")


def _format(said: str, out: Path | None) -> Any:
    if said and said not in _SUFFIXES:
        raise typer.BadParameter(f"unknown format {said!r}; known: {', '.join(_SUFFIXES)}")
    return said or ("netcdf" if out is not None and out.suffix == ".nc" else "zarr")


def _shout(summaries: Sequence[dict[str, Any]]) -> None:
    """Say on stderr what nobody may miss."""
    from geomdiag_cli.tables import DISAGREE, WARNING, failures

    for summary in summaries:
        name = summary["run"]
        for text in summary["disagreement"]:
            say(f"{name}: {DISAGREE}: {text}")
        for notice in summary["notices"]:
            if notice.startswith(WARNING):
                say(f"{name}: {notice}")
        for label, text in failures(summary):
            say(f"{name}: {label}: {text}")


def _next(target: Path) -> None:
    console = stdout()
    shown = clean(target)
    console.print(f"\nresult: {shown}", soft_wrap=True)
    console.print("open it in Python:", soft_wrap=True)
    console.print("  import geomdiag as gd", soft_wrap=True)
    console.print(f"  tree = gd.load({shown!r})", soft_wrap=True)


class _Bar(Bar):
    """Checkpoints done; how many of them an earlier analysis left, `reused`."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

        super().__init__(
            TextColumn("checkpoints"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False),
        )
        self.reused = 0
        self._started = False

    def __call__(self, done: int, total: int, label: str) -> None:
        if not self._started:
            self.reused, self._started = done, True
        self._bar.update(self._task, completed=done, total=total, description=clean(label))
