"""A stack that trains: when it is evaluated, its curves, and what of both is on disk."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomdiag.errors import RecipeError
from geomdiag.tasks.contract import Task
from geomdiag.training import files
from geomdiag.training.recipe import Recipe
from geomdiag.training.schedule import Keeper, evaluation_steps, log_spaced
from geomdiag.training.stack import Stack

__all__ = ["Progress", "Recording"]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a training stands; given to the caller's callback at each evaluation.

    Attributes
    ----------
    step, steps : int
        Steps done, and steps there will be.
    seeds : tuple of int
        Seed of each network that trains.
    recipes : tuple of str
        Name of the recipe of each.
    train_loss, heldout_loss, train_accuracy, heldout_accuracy : tuple of float
        One value a network, nats and shares; empty when nothing was evaluated.
    checkpoints : int
        Checkpoints kept so far, over all networks.
    message : str
        Something to tell a person (resumed, already finished), usually empty.
    """

    step: int
    steps: int
    seeds: tuple[int, ...]
    recipes: tuple[str, ...]
    train_loss: tuple[float, ...] = ()
    heldout_loss: tuple[float, ...] = ()
    train_accuracy: tuple[float, ...] = ()
    heldout_accuracy: tuple[float, ...] = ()
    checkpoints: int = 0
    message: str = ""


class Recording:
    """A stack of networks, their curves, and what of both is on disk.

    Parameters
    ----------
    stack : Stack
        What trains.
    recipes : sequence of Recipe
        Of its networks.
    task : Task
        Their task.
    out : Path
        As in `geomdiag.training.train`.
    """

    def __init__(self, stack: Stack, recipes: Sequence[Recipe], task: Task, out: Path) -> None:
        self.stack, self.recipes, self.task = stack, tuple(recipes), task
        first = recipes[0]
        self.folders = [
            files.run_folder(out, recipe, seed)
            for recipe, seed in zip(stack.owners, stack.seeds, strict=True)
        ]
        self.state_path = files.state_path(out, first)
        self.columns = files.CURVES + (() if stack.auxiliary is None else ("auxiliary",))
        rules = first.checkpoints
        fixed = log_spaced(first.training.steps, rules.count)
        self.evaluated = frozenset(
            evaluation_steps(first.training.steps, rules.evaluate_every, fixed)
        )
        self.keepers = [Keeper(rules, frozenset(fixed)) for _ in stack.seeds]
        self.steps: list[int] = []
        self.curves: list[NDArray[np.float64]] = []  # (networks, columns) each

    # -- numbers -------------------------------------------------------------------------

    def run(self, *, state_every: float, progress: Callable[[Progress], None] | None) -> None:
        """Train from where the stack stands to the last step.

        Parameters
        ----------
        state_every : float
            Seconds between two writes of the state.
        progress : callable or None
            Called at each evaluation.
        """
        last = self.recipes[0].training.steps
        start = self.stack.optimiser.step_count
        written = time.monotonic()
        for step in range(start, last + 1):
            logits, losses = self.stack.learn(step, descend=step < last)
            if step in self.evaluated and not (self.steps and self.steps[-1] >= step):
                self._evaluate(step, logits, *losses)
                if step < last and time.monotonic() - written >= state_every:
                    self.write_state(step)
                    written = time.monotonic()
                if progress is not None:
                    progress(self.report())
            if step < last:
                self.stack.optimiser.update()

    @torch.no_grad()
    def _evaluate(self, step: int, logits: list[Tensor], losses: Tensor, *more: Tensor) -> None:
        stack, data = self.stack, self.stack.data
        found = stack.network.logits(stack.parameters, data.heldout.inputs)
        columns = [
            losses,
            data.heldout.losses(found),
            data.train.accuracies(torch.cat(logits)),
            data.heldout.accuracies(found),
            *more,
        ]
        curves = torch.stack(columns, dim=-1).cpu().numpy()
        self.steps.append(step)
        self.curves.append(curves)
        weights: dict[str, NDArray[np.float32]] | None = None
        for i, keeper in enumerate(self.keepers):
            if keeper.offer(step, accuracy=curves[i, 3], loss=curves[i, 1]):
                if weights is None:
                    weights = {
                        name: parameter.detach().float().cpu().numpy()
                        for name, parameter in stack.network.stored(stack.parameters).items()
                    }
                self._write_checkpoint(i, step, {name: w[i] for name, w in weights.items()})

    def report(self, message: str = "") -> Progress:
        """Return where the training stands at its last evaluation."""
        columns = self.curves[-1].T.tolist() if self.curves else [[] for _ in files.CURVES]
        return Progress(
            step=self.steps[-1] if self.steps else 0,
            steps=self.recipes[0].training.steps,
            seeds=self.stack.seeds,
            recipes=tuple(recipe.name for recipe in self.stack.owners),
            checkpoints=sum(len(keeper.kept) for keeper in self.keepers),
            message=message,
            **{name: tuple(column) for name, column in zip(files.CURVES, columns, strict=False)},
        )

    # -- files ---------------------------------------------------------------------------

    def _write_checkpoint(self, i: int, step: int, weights: dict[str, NDArray[np.float32]]) -> None:
        metadata = {
            "format": "pt",  # what other readers of safetensors expect to find
            "step": str(step),
            "task": self.task.name,
            "seed": str(self.stack.seeds[i]),
            "config": json.dumps(self.stack.networks[i].config),
            **{
                name: f"{value:.9g}"
                for name, value in zip(self.columns, self.curves[-1][i], strict=True)
            },
        }
        files.write_safetensors(files.checkpoint_path(self.folders[i], step), weights, metadata)

    def write_runs(self, *, finished: bool) -> None:
        """Write the ``run.json`` of every network."""
        stack = self.stack
        shape = (len(self.steps), len(stack.seeds), len(self.columns))
        curves = np.array(self.curves).reshape(shape)
        device = "cpu"
        if stack.device.type == "cuda":
            device = torch.cuda.get_device_name(stack.device)
        for i, (folder, recipe) in enumerate(zip(self.folders, stack.owners, strict=True)):
            noise = recipe.training.label_noise
            files.write_run(
                folder,
                recipe,
                seed=stack.seeds[i],
                task=self.task.name,
                # what an analysis must know: the train curves are of other answers
                config=stack.networks[i].config | ({"label_noise": noise} if noise else {}),
                train_rows=stack.data.rows[i],
                steps=np.array(self.steps, dtype=np.int64),
                columns=self.columns,
                curves=curves[:, i],
                noise=stack.data.noise[i],
                device=device + (", compiled" if stack.compiled else ""),
                finished=finished,
            )

    def write_state(self, step: int) -> None:
        """Save all that is needed to go on from `step`, then tidy up what it no longer lists."""
        arrays = {
            "parameters": self.stack.flat.detach().cpu().numpy(),
            **{name: value.cpu().numpy() for name, value in self.stack.optimiser.state.items()},
            "steps": np.array(self.steps, dtype=np.int64),
            "curves": np.array(self.curves),
        }
        notes = {
            "step": step,
            "recipes": [recipe.name for recipe in self.recipes],
            "keepers": [keeper.state() for keeper in self.keepers],
        }
        files.write_safetensors(self.state_path, arrays, {"notes": json.dumps(notes)})
        self.write_runs(finished=False)
        self.tidy()

    def tidy(self) -> None:
        """Remove checkpoints that are not kept."""
        for folder, keeper in zip(self.folders, self.keepers, strict=True):
            files.remove_checkpoints(folder, keeper.steps)

    def restore(self) -> bool:
        """Take up the saved state; tell whether there was one of these recipes together."""
        state = files.read_state(self.state_path)
        if state is None or files.stacked_names(self.recipes[0], state[1]) != [
            recipe.name for recipe in self.recipes
        ]:
            return False
        kept = [{int(entry[0]) for entry in keeper["kept"]} for keeper in state[1]["keepers"]]
        for folder, steps in zip(self.folders, kept, strict=False):
            # where another recipe of the stack has been trained alone since
            if not all(files.checkpoint_path(folder, step).exists() for step in steps):
                return False
        arrays, notes = state
        optimiser = self.stack.optimiser
        with torch.no_grad():
            for name, target in {"parameters": self.stack.flat, **optimiser.state}.items():
                if arrays[name].shape != tuple(target.shape):
                    raise RecipeError(
                        f"{self.state_path} holds {name} of shape {arrays[name].shape}, expected "
                        f"{tuple(target.shape)}; remove it to train from the beginning"
                    )
                target.copy_(torch.from_numpy(arrays[name]))
        optimiser.step_count = int(notes["step"])
        self.steps = arrays["steps"].tolist()
        self.curves = list(arrays["curves"])
        for keeper, saved in zip(self.keepers, notes["keepers"], strict=True):
            keeper.restore(saved)
        return True
