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
    from geomdiag.training import Progress


def command(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="What to train.")],
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
    force: Annotated[
        bool, typer.Option("--force", help="Start again where an earlier training could go on.")
    ] = False,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Train the reference model of a recipe and record its checkpoints.

    Every seed trains in the same program. A training that was interrupted goes on; one that is
    finished is left as it is.
    """
    from geomdiag.training import load_recipe, train
    from geomdiag.training.files import state_path

    loaded = load_recipe(recipe)
    if seeds:
        loaded = replace(loaded, training=replace(loaded.training, seeds=_parse_seeds(seeds)))
    try:
        with nullcontext() if quiet else _Bar() as bar:
            folders = train(loaded, out, device=device, progress=bar, resume=not force)
    except KeyboardInterrupt:
        say(
            "Interrupted. The same command goes on from the state of at most 30 s before."
            if state_path(out, loaded).exists()
            else "Interrupted before the first state was written (every 30 s): the same command "
            "starts again."
        )
        raise typer.Exit(130) from None
    root = out / loaded.name
    if json:
        print_json({"task": loaded.task, "path": str(root), "runs": [str(f) for f in folders]})
    elif not quiet:
        count = f"{len(folders)} run{'s' * (len(folders) > 1)}"
        console = stdout()
        console.print(f"{count} of {loaded.task} in {clean(root)}", soft_wrap=True)
        console.print(f"next: geomdiag analyze {clean(root)} --task {loaded.task}", soft_wrap=True)


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
    """Steps done, with the last accuracies."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

        super().__init__(
            TextColumn("training"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False),
            TimeRemainingColumn(),
        )
        self._lost: set[int] = set()

    def __call__(self, now: Progress) -> None:
        if now.message:
            say(now.message)
        lost = {
            seed
            for seed, loss in zip(now.seeds, now.train_loss, strict=False)
            if not math.isfinite(loss)
        }
        if new := lost - self._lost:
            self._lost |= new
            say(
                f"WARNING: step {now.step}: the loss of seed {', '.join(map(str, sorted(new)))} is "
                "no longer a finite number; a smaller lr or weight may help"
            )
        words = ""
        if now.heldout_accuracy:
            train, heldout = now.train_accuracy, now.heldout_accuracy
            words = f"train {min(train):.2f} held-out {min(heldout):.2f}…{max(heldout):.2f}"
        self._bar.update(self._task, completed=now.step, total=now.steps, description=words)
