"""`geomdiag analyze`: checkpoints in, a result on disk and its summary out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from geomdiag_cli.asked import NOTHING, AllowPickle, Asked, Out, Paths, Task, asking, open_all
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

_SUFFIXES = {"zarr": ".zarr", "netcdf": ".nc"}


@asking
def command(
    paths: Paths,
    task: Task = None,
    out: Out = None,
    asked: Asked = NOTHING,
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
    finish = _criterion(criterion)
    try:
        from geomdiag.analysis import analyze_into

        arguments = asked.arguments()
        runs, general = open_all(paths, asked.split, allow_pickle)
        with bar or nullcontext():
            tree = analyze_into(
                target,
                runs,
                task,
                format=kind,
                force=force,
                finish=finish,
                progress=bar,
                **arguments,
            )
    except KeyboardInterrupt:
        say("Interrupted. Finished steps are kept; the same command goes on from there.")
        raise typer.Exit(INTERRUPTED) from None
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
            asked=asked.names(),
        )
        _next(target)
    if any(summary["failed"] or summary["partial"] for summary in summaries):
        raise typer.Exit(SOME_FAILED)


def _criterion(path: Path | None) -> Callable[[Any], Any] | None:
    """Return what lays the user's thresholds on a result; they are read before any work."""
    if path is None:
        return None
    from geomdiag.dynamics.criterion import apply_criterion, load_criterion

    return partial(apply_criterion, found=load_criterion(path))


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
