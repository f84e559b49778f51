"""`geomdiag report`: a result as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from geomdiag_cli.asked import AllowPickle, Model
from geomdiag_cli.console import Debug, clean, say, stdout


def command(
    result: Annotated[
        Path, typer.Argument(metavar="RESULT", help="What geomdiag analyze left behind.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Page. Default: NAME.report.html in this folder."),
    ] = None,
    checkpoints: Annotated[
        Path | None,
        typer.Option("--checkpoints", metavar="RUNS", help="Shows the embedding as well."),
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", "-t", help="Of the checkpoints, such as modadd.")
    ] = None,
    title: Annotated[str | None, typer.Option("--title", help="Of the page.")] = None,
    model: Model = None,
    allow_pickle: AllowPickle = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Write a result as one HTML page that needs no network.

    It tells the verdict first, then the runs, every step, the figures. The result holds no
    embeddings: give the checkpoints it was made from, and their task, to see the tokens move.
    """
    from geomdiag.plots.style import pyplot
    from geomdiag.report import report
    from geomdiag.store import load

    if checkpoints is not None and task is None:
        raise typer.BadParameter("say what the checkpoints are of: --task, as in --task modadd")
    if checkpoints is None and (task is not None or model is not None or allow_pickle):
        raise typer.BadParameter("without --checkpoints leave --task, --model, --allow-pickle out")
    tree = load(result)
    pyplot().switch_backend("agg")  # draws into files, on machines without a screen as well
    runs: Any = None
    if checkpoints is not None:
        from geomdiag.checkpoints import open_runs

        runs = open_runs(checkpoints, allow_pickle=allow_pickle)
        for notice in runs.notices:
            say(notice)
    target = out if out is not None else _default_out(result)
    report(tree, target, runs=runs, task=task, model=model, title=title)
    stdout().print(f"report: {clean(target)}", soft_wrap=True)


def _default_out(result: Path) -> Path:
    path = result.expanduser().resolve()
    name = path.name.partition(".geomdiag.")[0]
    return Path(f"{path.stem if name == path.name else name}.report.html")
