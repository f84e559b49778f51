"""`geomdiag check`: a result against its baseline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geomdiag_cli.console import Debug, Json, Quiet, clean, print_json, stdout
from geomdiag_cli.tables import print_note

if TYPE_CHECKING:
    from rich.console import Console

    from geomdiag.gate.verdict import Verdict

#: Exit code of a result that is worse than its baseline. A bug in Python has the same: neither may
#: pass a gate.
REGRESSED = 1

_STYLES = {"regressed": "bold red", "missing": "bold red", "noise": "yellow", "improved": "green"}


def command(
    result: Annotated[Path, typer.Argument(metavar="RESULT", help="A result of analyze.")],
    baseline: Annotated[
        Path, typer.Option("--baseline", "-b", metavar="BASE", help="From geomdiag baseline.")
    ],
    level: Annotated[
        float | None,
        typer.Option(
            "--level", metavar="P", help="Chance that runs without a change fail. [baseline's]"
        ),
    ] = None,
    correction: Annotated[
        str | None,
        typer.Option(
            "--correction",
            metavar="NAME",
            help="For many metrics: family-wise, benjamini-hochberg or none. [baseline's]",
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json-file", metavar="FILE", help="Write JSON there.")
    ] = None,
    junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML there.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write a summary there.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Compare a result's geometry with a baseline, metric by metric, the worst first.

    A metric has regressed where it is worse than every tolerance of it and than noise between seeds
    explains. The notices say what the level rests on: five seeds in the baseline and two new runs,
    or three and three, keep it however seeds scatter. Exit codes: 0 no regression; 1 some metric
    regressed or is missing; 2 bad arguments or unusable input.
    """
    from json import dumps

    from geomdiag.gate.baseline import load_baseline
    from geomdiag.gate.files import write_text
    from geomdiag.gate.measured import measure
    from geomdiag.gate.reports import headline, to_dict, to_junit, to_markdown
    from geomdiag.gate.verdict import check
    from geomdiag.store import load

    against = load_baseline(baseline)
    verdict = check(measure(load(result)), against, level=level, correction=correction)
    if json_file is not None:
        write_text(dumps(to_dict(verdict), indent=2, ensure_ascii=False) + "\n", json_file)
    if junit is not None:
        write_text(to_junit(verdict), junit)
    if markdown is not None:
        write_text(to_markdown(verdict), markdown)
    if json:
        print_json(to_dict(verdict))
    elif not quiet:
        console = stdout()
        print_verdict(console, verdict)
        console.print(headline(verdict), soft_wrap=True)
    if not verdict.passed:
        raise typer.Exit(REGRESSED)


def print_verdict(
    console: Console, verdict: Verdict, *, first: str = "baseline", second: str = "now"
) -> None:
    """Print the rows of a verdict, and why; `second` is held against `first`."""
    from rich.table import Table

    from geomdiag.gate.reports import number

    settings = list(dict.fromkeys(row.setting for row in verdict.rows))
    for setting in settings:
        if len(settings) > 1:
            console.print(clean(setting), style="bold", soft_wrap=True)
        rows = [row for row in verdict.rows if row.setting == setting]
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column("metric", overflow="fold")
        table.add_column("verdict", no_wrap=True)
        for heading in (first, second, "spreads"):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in rows:
            numbers = map(number, (row.baseline, row.value, row.spreads))
            style = _STYLES.get(row.verdict)
            table.add_row(clean(row.metric), row.verdict, *numbers, style=style)
        console.print(table)
        for row in rows:
            if row.verdict != "same":
                print_note(console, row.metric, row.words, indent=0)
    for notice in verdict.notices:
        print_note(console, "notice", notice, indent=0)
