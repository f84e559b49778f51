"""`geomdiag compare`: two results side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geomdiag_cli.baseline import Metrics
from geomdiag_cli.check import print_verdict
from geomdiag_cli.console import Debug, Json, print_json, stdout


def command(
    first: Annotated[Path, typer.Argument(metavar="A", help="A result of analyze.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one of the same task.")],
    metrics: Metrics = None,
    json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Show what is different in B from A, the worst first.

    As `geomdiag check` with a baseline of A and default tolerances, but for people: nothing is
    written, and the exit code does not tell the outcome.
    """
    from geomdiag.gate.measured import measure
    from geomdiag.gate.reports import counts, to_dict
    from geomdiag.gate.verdict import compare
    from geomdiag.store import load

    verdict = compare(measure(load(first)), measure(load(second)), metrics=metrics)
    if json:
        print_json(to_dict(verdict))
        return
    console = stdout()
    print_verdict(console, verdict, first="A", second="B")
    console.print(f"B against A: {counts(verdict)}")
