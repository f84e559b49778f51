"""`geomdiag evaluate`: how good forecasts are on runs of a corpus that took no part in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geomdiag_cli.console import Debug, Json, Quiet, clean, print_json, say, stdout

if TYPE_CHECKING:
    from geomdiag.dynamics.evaluation import Evaluation


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
    workers: Annotated[int, typer.Option("--workers", "-j", min=1, help="Processes.")] = 1,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Judge forecasts by backtests on left-out tasks and configurations.

    Takes some minutes for some hundred runs. With --save, the forecaster that is fitted to all
    runs of the corpus is written as small data; `geomdiag forecast --forecaster` reads it.
    """
    from geomdiag._replace import write_text
    from geomdiag._version import version
    from geomdiag.dynamics.corpus import digest, load_corpus
    from geomdiag.dynamics.evaluation import evaluate, fit_forecasters
    from geomdiag.dynamics.evaluation_page import page, verdicts
    from geomdiag.dynamics.forecast import save_forecaster

    found = load_corpus(corpus)
    if out is not None:
        drawn = _drawing()  # without matplotlib nothing is begun
    told = None if quiet else (lambda what: say(f"judged: {what}"))
    evaluation = evaluate(found, workers=workers, progress=told)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        text = page(
            evaluation,
            source=f"`{corpus.name}`",
            command=f"geomdiag evaluate {corpus.name} --out {out.name}",
            pictures=drawn(evaluation, out),
        )
        write_text(text, out)
    if save is not None:
        about = {
            "geomdiag_version": version(),
            "source": corpus.name,
            "corpus": digest(found),
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


def _drawing() -> Callable[[Evaluation, Path], dict[str, str]]:
    """Return what draws the pictures of a page beside it, in ``figures/``."""
    from geomdiag.dynamics.evaluation import RELIABILITY_AT, reliability
    from geomdiag.plots.backtest import plot_alarms, plot_errors, plot_reliability
    from geomdiag.plots.style import pyplot, save_figure

    pyplot()

    def draw(evaluation: Evaluation, page: Path) -> dict[str, str]:
        judged = evaluation.tasks
        figures = {
            "error": plot_errors({name: one.score.error for name, one in judged.items()}),
            "reliability": plot_reliability(
                {
                    f"{mode}, {factor:g} times the step": reliability(
                        judged[mode].forecasts.survival, cases, factor
                    )
                    for mode, cases in evaluation.cases.items()
                    for factor in RELIABILITY_AT
                }
            ),
            "alarms": plot_alarms(
                {
                    name: [(a.requested, a.false, a.hit) for a in one.alarms]
                    for name, one in judged.items()
                }
            ),
        }
        folder = page.parent / "figures"
        folder.mkdir(exist_ok=True)
        return {
            name: f"figures/{save_figure(drawn, folder / f'{page.stem}-{name}.svg').name}"
            for name, drawn in figures.items()
        }

    return draw
