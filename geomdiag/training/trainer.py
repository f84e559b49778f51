"""The reference trainer: full-batch descent on the loss, many networks in one program."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from geomdiag.errors import RecipeError
from geomdiag.training import files
from geomdiag.training.allocator import freed_memory_kept
from geomdiag.training.reading import load_recipe
from geomdiag.training.recipe import Recipe
from geomdiag.training.recording import Progress, Recording
from geomdiag.training.sizes import check_sizes
from geomdiag.training.stack import Stack

__all__ = ["choose_device", "train", "train_together"]


def choose_device(recipe: Recipe, asked: str) -> torch.device:
    """Return where a recipe trains, if that is possible here.

    Parameters
    ----------
    recipe : Recipe
        Recipe.
    asked : {"auto", "cpu", "cuda"}
        ``auto``: as the recipe says.

    Raises
    ------
    RecipeError
        If it is no device, or torch sees no GPU.
    """
    name = recipe.device if asked == "auto" else asked
    if name not in ("auto", "cpu", "cuda"):
        raise RecipeError(f"device: found {name!r}, expected one of 'auto', 'cpu', 'cuda'")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise RecipeError("device: found 'cuda', but torch sees no GPU here; use 'auto' or 'cpu'")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def _compiled_unasked(device: torch.device) -> bool:
    # on a GPU most of a small step is the launching of its operations
    return device.type == "cuda"


@contextmanager
def _threads(count: int) -> Iterator[None]:
    # The number of threads decides the order of summation, so it must not depend on the machine.
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train(
    recipe: Recipe | str | Path,
    out: str | Path,
    *,
    device: str = "auto",
    progress: Callable[[Progress], None] | None = None,
    resume: bool = True,
    threads: int = 1,
    state_every: float = 30.0,
    compile: bool | None = None,
) -> list[Path]:
    """Train every seed of a recipe and record its checkpoints.

    The loss is the mean cross-entropy of the train inputs over the answer classes, taken in
    float64, and what the recipe's ``[auxiliary]`` adds; every step uses all of them. On one
    CPU the same recipe gives the same bytes, interrupted or not. A training that was
    interrupted goes on; one that finished is left as it is.

    Parameters
    ----------
    recipe : Recipe, str or Path
        Recipe, or its TOML file.
    out : str or Path
        Folder that ``<recipe name>/seed=<k>/`` go into.
    device : {"auto", "cpu", "cuda"}
        ``auto``: as the recipe says.
    progress : callable, optional
        Called with a `Progress` at each evaluation. What it raises ends the training.
    resume : bool
        False: start again from the beginning even where an earlier training of the same
        recipe could go on or has finished.
    threads : int
        CPU threads. Another number gives other rounding.
    state_every : float
        Seconds between two writes of the state that an interrupted training goes on from.
    compile : bool, optional
        Compile the forward and backward pass first (`torch.compile`), which takes some 20
        seconds and gives other rounding. Needs a C++ compiler on a CPU, Triton on a GPU.
        None: on a GPU, unless it cannot be done there, which `progress` is told; not on a CPU.

    Returns
    -------
    list of Path
        Folder of each seed's run, in the order of the seeds.

    Raises
    ------
    RecipeError
        If the recipe is wrong, the folder holds the checkpoints of another recipe, or the step
        cannot be compiled here though it was asked for.
    StoreError
        If the folder cannot be written.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    return train_together(
        [recipe],
        out,
        device=device,
        progress=progress,
        resume=resume,
        threads=threads,
        state_every=state_every,
        compile=compile,
    )[0]


def train_together(
    recipes: Sequence[Recipe],
    out: str | Path,
    *,
    device: str = "auto",
    progress: Callable[[Progress], None] | None = None,
    resume: bool = True,
    threads: int = 1,
    state_every: float = 30.0,
    compile: bool | None = None,
) -> list[list[Path]]:
    """Train recipes that differ in numbers only in one program.

    What was interrupted goes on when it is called with the same recipes, and begins anew
    otherwise. When all have finished, nothing is done.

    Parameters
    ----------
    recipes : sequence of Recipe
        For which `program` is the same, under different names.
    out, device, progress, resume, threads, state_every, compile
        As in `train`.

    Returns
    -------
    list of list of Path
        Folders of each recipe's runs.

    Raises
    ------
    RecipeError, StoreError
        As `train`; `RecipeError` also if they cannot be stacked.
    """
    out = Path(out)
    first = recipes[0]
    chosen = choose_device(first, device)
    tasks = [recipe.build_task() for recipe in recipes]
    present = [
        folder
        for recipe, task in zip(recipes, tasks, strict=True)
        for folder in files.check_folder(out, recipe, task.name)
    ]
    folders = [
        [files.run_folder(out, recipe, seed) for seed in recipe.training.seeds]
        for recipe in recipes
    ]
    if resume and all(files.is_finished(out, recipe) for recipe in recipes):
        files.state_path(out, first).unlink(missing_ok=True)
        if progress is not None:
            last = first.training.steps
            for recipe in recipes:
                seeds = recipe.training.seeds
                message = f"{out / recipe.name} is already finished"
                names = (recipe.name,) * len(seeds)
                progress(
                    Progress(step=last, steps=last, seeds=seeds, recipes=names, message=message)
                )
        return folders
    for recipe, task in zip(recipes, tasks, strict=True):
        check_sizes(recipe, task, chosen)
    with _threads(threads), freed_memory_kept():
        stack = Stack(recipes, tasks[0], chosen)
        training = Recording(stack, recipes, tasks[0], out)
        if compile or (compile is None and _compiled_unasked(chosen)):
            try:
                stack.compile()
            except RecipeError as error:
                if compile:
                    raise
                if progress is not None:
                    progress(training.report(f"trained without compiling: {error}"))
        if not resume:
            training.state_path.unlink(missing_ok=True)
            for folder in present:
                files.remove_checkpoints(folder, set())
        resumed = training.restore()
        training.write_runs(finished=False)
        if not resumed:  # there may be one of another stack
            training.state_path.unlink(missing_ok=True)
        training.tidy()
        if resumed and progress is not None:
            progress(training.report(f"resumed at step {stack.optimiser.step_count}"))
        training.run(state_every=state_every, progress=progress)
        training.tidy()
        if len(recipes) > 1:
            # should it be interrupted here, with some of them finished, it goes on from the end
            training.write_state(first.training.steps)
        training.write_runs(finished=True)
        training.state_path.unlink(missing_ok=True)
    return folders
