"""`geomdiag evaluate`: how good forecasts are on runs of a corpus that took no part in them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geomdiag_cli.console import Debug, Json, Quiet, clean, print_json, say, stdout


def command(
    corpus: Annotated[
        Path, typer.Argument(metavar="CORPUS.zarr.zip", help="Many analysed runs, as one file.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="PAGE.md", help="Write a page about it.")
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option("--save", metavar="FORECASTER.json", help="Fit to all runs and keep that."),
    ] = None,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Judge forecasts by backtests on left-out tasks and configurations.

    Takes some minutes for some hundred runs. With --save, the forecaster that is fitted to all
    runs of the corpus is written as small data; `geomdiag forecast --forecaster` reads it.
    """
    from geomdiag._version import version
    from geomdiag.dynamics.corpus import load_corpus
    from geomdiag.dynamics.evaluation import evaluate, fit_forecasters
    from geomdiag.dynamics.evaluation_page import page, verdicts
    from geomdiag.dynamics.forecast import save_forecaster

    found = load_corpus(corpus)
    told = None if quiet else (lambda what: say(f"judging: {what}"))
    evaluation = evaluate(found, progress=told)
    if out is not None:
        text = page(
            evaluation,
            source=f"`{corpus.name}`",
            command=f"geomdiag evaluate {corpus.name} --out {out.name}",
        )
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    if save is not None:
        about = {
            "geomdiag_version": version(),
            "source": corpus.name,
            "runs": evaluation.runs,
            "generalised": evaluation.hopeful,
            "tasks": evaluation.tasks_count,
        }
        save_forecaster(fit_forecasters(found), save, about=about)
    expectations = verdicts(evaluation)
    if json:
        print_json(
            {
                "runs": evaluation.runs,
                "generalised": evaluation.hopeful,
                "expectations": [
                    {"expectation": what, "reached": held, "found": how}
                    for what, held, how in expectations
                ],
                "scores": {
                    name: {
                        "coverage_50": one.score.coverage_50,
                        "coverage_90": one.score.coverage_90,
                        "crps": one.score.crps,
                        "error": {str(share): x for share, x in one.score.error.items()},
                        "useful_from": one.score.lead,
                    }
                    for name, one in evaluation.tasks.items()
                },
            }
        )
    elif not quiet:
        console = stdout()
        for what, held, how in expectations:
            mark = "yes" if held else "NO "
            console.print(f"{mark} {what}: {how}", soft_wrap=True, markup=False, highlight=False)
        for written in (out, save):
            if written is not None:
                console.print(f"written: {clean(written)}", soft_wrap=True)

