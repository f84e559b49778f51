"""The `geomdiag` command: what there is to call, and how it ends."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from geomdiag_cli import (
    analyze,
    baseline,
    calibrate,
    check,
    compare,
    evaluate,
    forecast,
    formats,
    inspect,
    plot,
    report,
    stages,
    tasks,
    train,
    watch,
)
from geomdiag_cli.console import ReportingGroup, plain_warnings

__all__ = ["app", "main"]

EPILOG = (
    "Exit codes: 0 done; 1 check found a regression; 2 bad arguments or unusable input; 3 done, "
    "but some checkpoint failed; 130 interrupted."
)

# Plain help: it reads the same on a terminal, in a pipe and in a log.
app = typer.Typer(
    name="geomdiag",
    cls=ReportingGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
)


def _version(wanted: bool) -> None:
    if wanted:
        from geomdiag import __version__

        typer.echo(f"geomdiag {__version__}")
        raise typer.Exit


@app.callback()
def geomdiag(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Measure how symmetry and geometry develop over a network's training checkpoints."""


for _name, _command, _short in (
    ("analyze", analyze.command, "Measure every checkpoint and summarise."),
    ("watch", watch.command, "Follow a folder that grows, and keep its result current."),
    ("inspect", inspect.command, "Show what is there, what it allows, what it costs."),
    ("stages", stages.command, "Tell the stages of a result's runs, and how surely."),
    ("forecast", forecast.command, "Say when each run of a result will generalise."),
    ("calibrate", calibrate.command, "Set symmetry thresholds from solved and unsolved runs."),
    ("evaluate", evaluate.command, "Judge forecasts on runs they did not see."),
    ("baseline", baseline.command, "Write the geometry that later results are held against."),
    ("check", check.command, "Hold a result against a baseline."),
    ("compare", compare.command, "Show two results side by side."),
    ("plot", plot.command, "Draw a figure of a result."),
    ("report", report.command, "Write a result as one HTML page."),
    ("train", train.command, "Make checkpoints from a recipe."),
    ("tasks", tasks.command, "List the tasks."),
    ("formats", formats.command, "List the checkpoint formats."),
):
    app.command(_name, short_help=_short)(_command)


def main() -> None:
    """Run the command line with the arguments of the process."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show an arrow shows a question mark, not a traceback.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    plain_warnings()
    app(prog_name="geomdiag")
