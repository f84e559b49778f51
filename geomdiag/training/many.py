"""Many recipes: those that differ in numbers only share a program, programs share processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from geomdiag.errors import GeomdiagError, RecipeError
from geomdiag.tasks.contract import Task
from geomdiag.training import files
from geomdiag.training.recipe import Recipe
from geomdiag.training.recording import Progress
from geomdiag.training.sizes import check_sizes
from geomdiag.training.stack import HIDDEN_BYTES, networks_at_once, program
from geomdiag.training.trainer import choose_device, train_together

__all__ = ["plan", "train_all"]

_Tell = Callable[[Progress], None]


class _Ended(BaseException):
    """The caller wants no more; not a failure of what trains."""


def plan(
    recipes: Sequence[Recipe], tasks: Sequence[Task], out: Path, *, device: str, resume: bool
) -> list[list[Recipe]]:
    """Return the recipes that train together, program by program.

    Which these are depends on the recipes and on what `out` holds alone. A stack that was
    interrupted stays one; the others are filled in the order of the recipes, up to what is
    worked on at once.

    Parameters
    ----------
    recipes : sequence of Recipe
        Recipes.
    tasks : sequence of Task
        Their tasks.
    out : Path
        As in `train_all`.
    device : {"auto", "cpu", "cuda"}
        As in `train_all`.
    resume : bool
        As in `train_all`.

    Returns
    -------
    list of list of Recipe
        Every recipe once.

    Raises
    ------
    RecipeError
        If a saved state is damaged, or a device is not there.
    """
    named = {recipe.name: recipe for recipe in recipes}
    finished = {name: resume and files.is_finished(out, one) for name, one in named.items()}
    groups: list[list[Recipe]] = []
    for recipe in recipes:
        state = files.read_state(files.state_path(out, recipe)) if resume else None
        if state is None:
            continue
        names = files.stacked_names(recipe, state[1])
        if not set(names) <= set(named):
            continue
        # some of them may be finished only if it was interrupted while it wrote that
        at_the_end = state[1]["step"] == recipe.training.steps
        if at_the_end or not any(finished[name] for name in names):
            groups.append([named.pop(name) for name in names])
    open_groups: dict[Any, tuple[list[Recipe], int]] = {}  # and how many networks fit in
    for recipe, task in zip(recipes, tasks, strict=True):
        if recipe.name not in named:
            continue
        count = len(recipe.training.seeds)
        auxiliary = recipe.auxiliary
        # what is taken over all instances fills the memory as it is
        heavy = auxiliary and auxiliary.symmetries and not auxiliary.tuples
        place = choose_device(recipe, device).type
        key = (program(recipe), place)
        group, room = open_groups.get(key, ([], 0))
        if finished[recipe.name] or heavy or count > room:
            group, room = [], networks_at_once(recipe, task, HIDDEN_BYTES[place])
            groups.append(group)
        group.append(recipe)
        if not finished[recipe.name] and not heavy:
            open_groups[key] = (group, room - count)
    return groups


def train_all(
    recipes: Sequence[Recipe],
    out: str | Path,
    *,
    device: str = "auto",
    progress: Callable[[Progress], None] | None = None,
    resume: bool = True,
    workers: int = 1,
    compile: bool | None = None,
) -> list[list[Path]]:
    """Train recipes, in one program those that differ in numbers only.

    These numbers are learning rate and its warm-up, decays, betas, momentum, the strength of
    Grokfast and of an auxiliary loss, label noise, scales, and seeds. Every recipe has the folders
    that `train` gives it. A stack that was interrupted goes on when all its recipes are there
    again, and begins anew otherwise; what has finished is left as it is. When one fails, the
    others are trained before the error is raised.

    Parameters
    ----------
    recipes : sequence of Recipe
        Under different names.
    out : str or Path
        Folder that ``<recipe name>/seed=<k>/`` go into.
    device : {"auto", "cpu", "cuda"}
        ``auto``: as each recipe says.
    progress : callable, optional
        Called with a `Progress` at each evaluation of a program. What it raises ends everything.
    resume : bool
        False: start all again from the beginning.
    workers : int
        Processes, of one CPU thread each, that each train a program at a time. Results do not
        depend on it. More than one are started with ``spawn``: a script that calls this needs
        ``if __name__ == "__main__":``.
    compile : bool, optional
        As in `geomdiag.training.train`, of every program.

    Returns
    -------
    list of list of Path
        Folders of each recipe's runs, in the order of the recipes and of their seeds.

    Raises
    ------
    RecipeError
        If a recipe is wrong, two have one name, or a folder holds the checkpoints of another
        recipe; nothing is trained then. Or if the step cannot be compiled here though it
        was asked for.
    StoreError
        If a folder cannot be written.
    GeomdiagError
        If a worker process was killed.
    """
    out = Path(out)
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise RecipeError(f"workers: found {workers!r}, expected a whole number >= 1")
    names = [recipe.name for recipe in recipes]
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(f"two recipes are called {name!r}; each needs a folder of its own")
    tasks = []
    for recipe in recipes:
        try:
            tasks.append(recipe.build_task())
            check_sizes(recipe, tasks[-1], choose_device(recipe, device))
            files.check_folder(out, recipe, tasks[-1].name)
        except RecipeError as error:
            raise RecipeError(f"{recipe.name}: {error}") from error
    groups = plan(recipes, tasks, out, device=device, resume=resume)
    settings = {"device": device, "resume": resume, "compile": compile}
    tell = progress or _silent
    if workers == 1 or len(groups) == 1:
        failures = list(_one_by_one(groups, out, settings, tell))
    else:
        failures = list(_in_processes(groups, out, settings, tell, min(workers, len(groups))))
    _raise(failures)
    return [
        [files.run_folder(out, recipe, seed) for seed in recipe.training.seeds]
        for recipe in recipes
    ]


_Failure = tuple[list[Recipe], BaseException]


def _silent(_: Progress) -> None:
    pass


def _one_by_one(
    groups: list[list[Recipe]], out: Path, settings: dict[str, Any], tell: _Tell
) -> Iterator[_Failure]:
    """Train groups here; yield those that failed."""

    def report(event: Progress) -> None:
        try:
            tell(event)
        except Exception as error:
            raise _Ended from error

    for group in groups:
        try:
            train_together(group, out, progress=report, **settings)
        except _Ended as ended:
            raise ended.__cause__ or ended from None
        except Exception as error:
            yield group, error


def _in_processes(
    groups: list[list[Recipe]], out: Path, settings: dict[str, Any], tell: _Tell, workers: int
) -> Iterator[_Failure]:
    """Train groups in processes; yield those that failed."""
    context = multiprocessing.get_context("spawn")
    events, stop = context.SimpleQueue(), context.Event()
    with ProcessPoolExecutor(workers, context, _start_worker, (events, stop)) as pool:
        futures = {pool.submit(_work, group, out, settings): group for group in groups}
        waiting = set(futures)
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=0.1, return_when=FIRST_COMPLETED)
                while not events.empty():
                    tell(events.get())
                for future in done:
                    error = future.exception()
                    if error is not None:
                        yield futures[future], error
        except BaseException:
            stop.set()  # each ends at its next evaluation
            pool.shutdown(wait=False, cancel_futures=True)
            while waiting:
                # a full queue would hold them up
                while not events.empty():
                    events.get()
                _, waiting = wait(waiting, timeout=0.1)
            raise


_shared: tuple[Any, Any] | None = None


def _start_worker(events: Any, stop: Any) -> None:
    global _shared
    _shared = (events, stop)
    # Ctrl-C reaches all processes of a terminal; the parent ends the workers by `stop`
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End a worker whose parent was killed: it could neither be told to stop nor tell anything."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # as if it had been killed with it: files are whole at any moment


def _work(group: list[Recipe], out: Path, settings: dict[str, Any]) -> None:
    """Train a group in a worker process."""
    if _shared is None:
        raise RuntimeError("a worker was not started by _start_worker")
    events, stop = _shared

    def report(event: Progress) -> None:
        if stop.is_set():
            raise _Ended
        events.put(event)

    train_together(group, out, progress=report, **settings)


def _raise(failures: list[_Failure]) -> None:
    """Raise the first failure, if there is one; the message names the recipes of all."""
    if not failures:
        return
    error = failures[0][1]
    names = [", ".join(recipe.name for recipe in group) for group, _ in failures]
    others = f" (as well as {'; '.join(names[1:])})" if len(names) > 1 else ""
    if isinstance(error, BrokenProcessPool):
        raise GeomdiagError(
            "a worker process was ended from outside, often for lack of memory, while there were "
            f"to train: {'; '.join(names)}. What has finished is kept; start again, with fewer "
            "workers"
        ) from error
    if isinstance(error, GeomdiagError):
        raise type(error)(f"{names[0]}{others}: {error}") from error
    error.add_note(f"while training {names[0]}{others}")
    raise error
