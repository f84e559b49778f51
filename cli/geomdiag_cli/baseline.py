"""`geomdiag baseline`: the geometry that later results are held against."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geomdiag_cli.console import UNUSABLE, Debug, Quiet, clean, say, stdout
from geomdiag_cli.tables import count

#: Patterns of metrics.
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        "-m",
        metavar="NAME",
        help="Metric to hold, * for anything: 'symmetry_js[*,mean]'; may be repeated.",
    ),
]


def command(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="RESULT", help="A result of analyze; with --validate, baselines."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Default: RESULT.geometry.toml here."),
    ] = None,
    metrics: Metrics = None,
    update: Annotated[
        bool,
        typer.Option("--update", help="Replace the values in FILE; keep its tolerances."),
    ] = False,
    validate: Annotated[
        bool, typer.Option("--validate", help="Write nothing; check the schema of baselines.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Write the baseline that `geomdiag check` holds later results against.

    A small TOML file to be reviewed and committed: for each metric its value in each seed, which
    direction is worse, and the changes that never count. Give it three seeds or more, so that
    noise can be told from regression; with how many new runs that is certain is printed.
    """
    if validate:
        if out is not None or metrics or update:
            raise typer.BadParameter("--validate takes baselines and no other option.")
        _validate(paths, quiet)
        return
    if len(paths) != 1:
        raise typer.BadParameter(
            f"found {len(paths)} results, expected one. Analyse the seeds into one result: "
            "geomdiag analyze runs/ ..."
        )
    from math import isfinite

    from geomdiag.errors import BaselineError
    from geomdiag.gate.baseline import load_baseline, make_baseline, save_baseline
    from geomdiag.gate.chance import SEEDS
    from geomdiag.gate.measured import measure
    from geomdiag.gate.permutation import fewest_new_runs
    from geomdiag.store import load

    (result,) = paths
    name = result.name.removesuffix(result.suffix).removesuffix(".geomdiag")
    target = out or Path(f"{name}.geometry.toml")
    if target.exists() and not update:
        raise BaselineError(
            f"{target} exists. Give --update to replace its values and keep its tolerances, or "
            "another --out."
        )
    like = load_baseline(target) if update and target.exists() else None
    made = make_baseline(measure(load(result)), metrics=metrics, like=like)
    save_baseline(made, target)
    if quiet:
        return
    console = stdout()
    console.print(f"baseline: {clean(target)}", soft_wrap=True)
    for label, setting in made.settings.items():
        seeds = max(len(metric.values) for metric in setting.metrics.values())
        told = f"  {label}: {count(len(setting.metrics), 'metric')} of {count(seeds, 'seed')}"
        console.print(clean(told), soft_wrap=True)
        new = count(fewest_new_runs(seeds, made.level), "new run")
        if seeds < SEEDS:
            say(
                f"notice: {label} has fewer than {SEEDS} seeds, so tolerances alone will decide "
                f"against less than {new}; analyse more seeds to tell noise from regression."
            )
        else:
            console.print(
                f"  check it with {new} or more: then at most {100 * made.level:g} % of results "
                "without a change fail",
                soft_wrap=True,
            )
        if some := [
            key for key, one in setting.metrics.items() if not all(map(isfinite, one.values))
        ]:
            say(
                f"notice: {', '.join(some)}: missing in some seeds of {label}, so may be missing "
                "later too (allow_missing)."
            )


def _validate(paths: list[Path], quiet: bool) -> None:
    from geomdiag.errors import BaselineError
    from geomdiag.gate.baseline import load_baseline

    wrong = 0
    for path in paths:
        try:
            load_baseline(path)
        except BaselineError as error:
            wrong += 1
            say(f"Error: {error}")
    if wrong:
        raise typer.Exit(UNUSABLE)
    if not quiet:
        stdout().print(f"{count(len(paths), 'baseline')} valid")
