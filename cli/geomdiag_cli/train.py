"""`geomdiag train`: a recipe in, series of checkpoints out."""

from __future__ import annotations

import math
import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geomdiag_cli.console import Bar, Debug, Json, Quiet, clean, print_json, say, stdout

if TYPE_CHECKING:
    from geomdiag.training import Progress, Recipe


def command(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE.toml", help="What to train: a recipe, or a sweep.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the runs.", metavar="DIR")
    ] = Path("runs"),
    device: Annotated[
        str, typer.Option("--device", help="auto, cpu or cuda; auto: as the recipe says.")
    ] = "auto",
    seeds: Annotated[
        str,
        typer.Option("--seeds", help="In place of the recipe's, such as 0,1,5 or 0-9."),
    ] = "",
    workers: Annotated[
        int, typer.Option("--workers", "-j", min=1, help="Processes for the recipes of a sweep.")
    ] = 1,
    compile: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            help="Compile the step first, which pays for long trainings.",
            show_default="on a GPU only",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Start again where an earlier training could go on.")
    ] = False,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Train the reference models of a recipe, or of all recipes of a sweep, and record them.

    Seeds, and recipes of a sweep that differ in numbers only, train in one program. A training
    that was interrupted goes on; one that is finished is left as it is.
    """
    from geomdiag.training import load_recipes, sweep_name, train_all
    from geomdiag.training.files import state_path

    loaded = load_recipes(recipe)
    if seeds:
        chosen = _parse_seeds(seeds)
        loaded = [replace(one, training=replace(one.training, seeds=chosen)) for one in loaded]
    if (sweep := sweep_name(recipe)) is not None:
        out = out / sweep
    try:
        with nullcontext() if quiet else _Bar(loaded) as bar:
            folders = train_all(
                loaded,
                out,
                device=device,
                progress=bar,
                resume=not force,
                workers=workers,
                compile=compile,
            )
    except KeyboardInterrupt:
        say(
            "Interrupted. The same command goes on from the state of at most 30 s before."
            if any(state_path(out, one).exists() for one in loaded)
            else "Interrupted before the first state was written (every 30 s): the same command "
            "starts again with what was not finished."
        )
        raise typer.Exit(130) from None
    root = out / loaded[0].name if sweep is None else out
    tasks = list(dict.fromkeys(one.task for one in loaded))
    if json:
        runs = [str(folder) for group in folders for folder in group]
        task = {"task": tasks[0]} if sweep is None else {"tasks": tasks}
        print_json({**task, "path": str(root), "runs": runs})
    elif not quiet:
        number = sum(map(len, folders))
        count = f"{number} run{'s' * (number > 1)}"
        of = tasks[0] if len(tasks) == 1 else f"{len(tasks)} tasks"
        console = stdout()
        console.print(f"{count} of {of} in {clean(root)}", soft_wrap=True)
        # one analysis is of one task
        first = root if len(tasks) == 1 else out / loaded[0].name
        console.print(f"next: geomdiag analyze {clean(first)} --task {tasks[0]}", soft_wrap=True)


def _parse_seeds(text: str) -> tuple[int, ...]:
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not match:
            raise typer.BadParameter(f"{text!r}: expected seeds such as 0,1,5 or 0-9")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise typer.BadParameter(f"{text!r}: {part.strip()} goes down; write {last}-{first}")
        seeds.extend(range(first, last + 1))
    return tuple(dict.fromkeys(seeds))


class _Bar(Bar):
    """Steps done, of one network each, with the last accuracies."""

    def __init__(self, recipes: list[Recipe]) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

        super().__init__(
            TextColumn("training"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False),
            TimeRemainingColumn(),
        )
        #: Of each recipe, steps that are done and that there are, over all its seeds.
        self._steps = {one.name: 0 for one in recipes}
        self._last = {one.name: one.training.steps for one in recipes}
        self._many = len(recipes) > 1
        self._lost: set[tuple[str, int]] = set()

    def __call__(self, now: Progress) -> None:
        if now.message and not (self._many and now.step == now.steps):
            say(now.message)
        lost = {
            (name, seed)
            for name, seed, loss in zip(now.recipes, now.seeds, now.train_loss, strict=False)
            if not math.isfinite(loss)
        }
        if new := lost - self._lost:
            self._lost |= new
            for name in dict.fromkeys(name for name, _ in sorted(new)):
                seeds = ", ".join(str(seed) for own, seed in sorted(new) if own == name)
                say(
                    f"WARNING: step {now.step}: the loss of seed {seeds}"
                    f"{f' of {name}' * self._many} is no longer a finite number; a smaller lr or "
                    "weight may help"
                )
        self._steps |= dict.fromkeys(now.recipes, now.step)
        words = ""
        if now.heldout_accuracy:
            train, heldout = now.train_accuracy, now.heldout_accuracy
            words = f"train {min(train):.2f} held-out {min(heldout):.2f}…{max(heldout):.2f}"
        if self._many:
            finished = sum(self._steps[name] == last for name, last in self._last.items())
            words = f"{finished}/{len(self._last)} recipes, {now.recipes[0]}: {words}"
        self._bar.update(
            self._task,
            completed=sum(self._steps.values()),
            total=sum(self._last.values()),
            description=words,
        )
