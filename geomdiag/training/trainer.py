"""The reference trainer: full-batch descent on the loss, all seeds in one program."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomdiag.errors import RecipeError
from geomdiag.metrics.fit import correct, cross_entropy
from geomdiag.tasks.contract import Task
from geomdiag.training import files
from geomdiag.training.auxiliary import build_auxiliary
from geomdiag.training.networks import StackedNetwork, build_network
from geomdiag.training.optimiser import build_optimiser, flat_order
from geomdiag.training.recipe import Recipe, load_recipe
from geomdiag.training.schedule import Keeper, evaluation_steps, log_spaced

__all__ = ["Progress", "noisy_answers", "train", "train_rows"]

#: Most bytes of hidden layer that are worked on at once on a CPU: larger blocks of memory go back
#: to the system after each operation, and to fetch them again costs more than stacking gains.
_HIDDEN_BYTES = 16 * 2**20


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a training stands; given to the caller's callback at each evaluation.

    Attributes
    ----------
    step, steps : int
        Steps done, and steps there will be.
    seeds : tuple of int
        Seeds that train.
    train_loss, heldout_loss, train_accuracy, heldout_accuracy : tuple of float
        One value a seed, nats and shares; empty when nothing was evaluated.
    checkpoints : int
        Checkpoints kept so far, over all seeds.
    message : str
        Something to tell a person (resumed, already finished), usually empty.
    """

    step: int
    steps: int
    seeds: tuple[int, ...]
    train_loss: tuple[float, ...] = ()
    heldout_loss: tuple[float, ...] = ()
    train_accuracy: tuple[float, ...] = ()
    heldout_accuracy: tuple[float, ...] = ()
    checkpoints: int = 0
    message: str = ""


def train_rows(task: Task, fraction: float, seed: int) -> NDArray[np.int64]:
    """Draw the train inputs: the first of ``numpy.random.default_rng(seed).permutation``.

    Parameters
    ----------
    task : Task
        Whose inputs.
    fraction : float
        Share of all inputs, rounded down.
    seed : int
        Seed.

    Returns
    -------
    (m,) int array
        Rows of ``task.inputs``, increasing.
    """
    total = len(task.inputs)
    drawn = np.random.default_rng(seed).permutation(total)[: int(fraction * total)]
    return np.sort(drawn).astype(np.int64)


def noisy_answers(
    task: Task, rows: NDArray[np.int64], share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw wrong answers for a share of the train inputs.

    Parameters
    ----------
    task : Task
        Whose inputs.
    rows : (m,) int array
        Train inputs.
    share : float
        Of them, rounded to whole inputs.
    seed : int
        Seed of the split; this draw is independent of that of the split.

    Returns
    -------
    (k,) int array
        Rows of ``task.inputs``, increasing.
    (k,) int array
        The answer each is trained on: uniform over all classes but the right one.
    """
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    chosen = np.sort(generator.permutation(rows)[: round(share * len(rows))])
    # 1 to classes - 1 further on, round the clock, is never the right one
    moved = generator.integers(1, task.classes, size=len(chosen))
    return chosen, (task.answers[chosen] + moved) % task.classes


class _Part:
    """The same number of inputs for every seed, with their answers, on the device."""

    def __init__(
        self,
        task: Task,
        rows: NDArray[np.int64],
        answers: NDArray[np.int64],
        device: torch.device,
    ) -> None:
        inputs = np.moveaxis(task.inputs[rows], -1, 0)  # [arity, seeds, n]
        self.inputs = torch.from_numpy(np.ascontiguousarray(inputs)).to(device)
        self.answers = torch.from_numpy(answers).to(device)

    def of(self, seeds: slice) -> _Part:
        """Return the part of some of the seeds; shares the memory."""
        part = copy.copy(self)
        part.inputs, part.answers = self.inputs[:, seeds], self.answers[seeds]
        return part

    def losses(self, logits: Tensor) -> Tensor:
        """Return the mean loss of each seed, float64 (float32 rounds small losses away)."""
        losses = cross_entropy(logits.double().flatten(0, 1), self.answers.flatten())
        mean: Tensor = losses.unflatten(0, self.answers.shape).mean(1)
        return mean

    def accuracies(self, logits: Tensor) -> Tensor:
        """Return the share of right answers of each seed."""
        right = correct(logits.flatten(0, 1), self.answers.flatten())
        share: Tensor = right.unflatten(0, self.answers.shape).double().mean(1)
        return share


class _Training:
    """All seeds of one recipe: parameters, data, curves, and what of them is on disk."""

    def __init__(self, recipe: Recipe, task: Task, out: Path, device: torch.device) -> None:
        self.recipe, self.task, self.out, self.device = recipe, task, out, device
        settings = recipe.training
        self.seeds = settings.seeds
        self.network: StackedNetwork = build_network(task, recipe.model)
        self.folders = [files.run_folder(out, recipe, seed) for seed in self.seeds]
        self.state_path = files.state_path(out, recipe)

        split_seeds = [
            seed if settings.split_seed == "seed" else settings.split_seed for seed in self.seeds
        ]
        self.rows = np.stack(
            [train_rows(task, settings.train_fraction, seed) for seed in split_seeds]
        )
        answers = np.tile(task.answers, (len(self.seeds), 1))  # that are trained on
        #: Rows with a wrong answer and these answers, each seed's.
        self.noise: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        if settings.label_noise:
            for own, rows, seed in zip(answers, self.rows, split_seeds, strict=True):
                self.noise.append(noisy_answers(task, rows, settings.label_noise, seed))
                wrong, own_answers = self.noise[-1]
                own[wrong] = own_answers
        everything = np.arange(len(task.inputs))
        heldout = np.stack([np.setdiff1d(everything, rows) for rows in self.rows])
        trained = np.take_along_axis(answers, self.rows, axis=1)
        self.train_part = _Part(task, self.rows, trained, device)
        self.heldout_part = _Part(task, heldout, task.answers[heldout], device)

        dtype = torch.float64 if recipe.dtype == "float64" else torch.float32
        # Parameters and gradients are windows into one flat tensor each, so that the optimiser
        # is a few operations; all seeds of a parameter lie together.
        initial = [self.network.initial(seed) for seed in self.seeds]
        order = flat_order(self.network, settings)
        stacked = {name: np.stack([arrays[name] for arrays in initial]) for name in order}
        flat = np.concatenate([array.ravel() for array in stacked.values()])
        self.flat = torch.from_numpy(flat).to(device=device, dtype=dtype)
        self.optimiser = build_optimiser(self.network, settings, self.flat, len(self.seeds))
        self.auxiliary = build_auxiliary(recipe, task, self.network, device)
        self.columns = files.CURVES + (() if self.auxiliary is None else ("auxiliary",))
        self.parameters: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}
        start = 0
        for name, array in stacked.items():
            window = slice(start, start + array.size)
            parameter = self.flat[window].view(array.shape).requires_grad_()
            self.gradients[name] = self.optimiser.gradient[window].view(array.shape)
            parameter.grad = self.gradients[name]
            self.parameters[name] = parameter
            start += array.size

        self.groups = self._groups()

        rules = recipe.checkpoints
        fixed = log_spaced(settings.steps, rules.count)
        self.evaluated = frozenset(evaluation_steps(settings.steps, rules.evaluate_every, fixed))
        self.keepers = [Keeper(rules, frozenset(fixed)) for _ in self.seeds]
        self.steps: list[int] = []
        self.curves: list[NDArray[np.float64]] = []  # (seeds, columns) each

    def _groups(self) -> list[tuple[dict[str, Tensor], _Part]]:
        """Return parameters and train inputs of the seeds that go through a step together."""
        count = len(self.seeds)
        hidden = self.rows.shape[1] * self.network.width * self.flat.element_size()
        size = max(1, _HIDDEN_BYTES // hidden) if self.device.type == "cpu" else count
        if size >= count:
            return [(self.parameters, self.train_part)]
        groups = []
        for start in range(0, count, size):
            seeds = slice(start, start + size)
            parameters = {}
            for name, parameter in self.parameters.items():
                parameters[name] = parameter.detach()[seeds].requires_grad_()
                parameters[name].grad = self.gradients[name][seeds]
            groups.append((parameters, self.train_part.of(seeds)))
        return groups

    # -- numbers -------------------------------------------------------------------------

    def run(self, *, state_every: float, progress: Callable[[Progress], None] | None) -> None:
        last = self.recipe.training.steps
        start = self.optimiser.step_count
        written = time.monotonic()
        for step in range(start, last + 1):
            logits, losses = self.learn(step, descend=step < last)
            if step in self.evaluated and not (self.steps and self.steps[-1] >= step):
                self._evaluate(step, logits, *losses)
                if step < last and time.monotonic() - written >= state_every:
                    self.write_state(step)
                    written = time.monotonic()
                if progress is not None:
                    progress(self.report())
            if step < last:
                self.optimiser.update()

    def learn(self, step: int, *, descend: bool) -> tuple[list[Tensor], list[Tensor]]:
        """Run the train inputs; with `descend`, leave the gradient to the optimiser.

        Returns
        -------
        list of (seeds of a group, n, classes) tensor
            Logits.
        list of (seeds,) tensor
            Cross-entropy, and the auxiliary loss where there is one.
        """
        self.optimiser.gradient.zero_()
        logits, losses, more = [], [], []
        for i, (parameters, part) in enumerate(self.groups, start=1):
            found = self.network.logits(parameters, part.inputs)
            loss = part.losses(found)
            total = loss.sum()
            logits.append(found.detach())
            losses.append(loss.detach())
            if self.auxiliary is not None and i == len(self.groups):  # once, for all seeds
                auxiliary = self.auxiliary.losses(self.parameters, step)
                total = total + (self.auxiliary.weight * auxiliary).sum()
                more.append(auxiliary.detach())
            if descend:
                torch.autograd.backward(total)
        return logits, [torch.cat(losses), *more]

    @torch.no_grad()
    def _evaluate(self, step: int, logits: list[Tensor], losses: Tensor, *more: Tensor) -> None:
        heldout = self.network.logits(self.parameters, self.heldout_part.inputs)
        columns = [
            losses,
            self.heldout_part.losses(heldout),
            self.train_part.accuracies(torch.cat(logits)),
            self.heldout_part.accuracies(heldout),
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
                        for name, parameter in self.network.stored(self.parameters).items()
                    }
                self._write_checkpoint(i, step, {name: w[i] for name, w in weights.items()})

    def report(self, message: str = "") -> Progress:
        columns = self.curves[-1].T.tolist() if self.curves else [[] for _ in files.CURVES]
        return Progress(
            step=self.steps[-1] if self.steps else 0,
            steps=self.recipe.training.steps,
            seeds=self.seeds,
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
            "seed": str(self.seeds[i]),
            "config": json.dumps(self.network.config),
            **{
                name: f"{value:.9g}"
                for name, value in zip(self.columns, self.curves[-1][i], strict=True)
            },
        }
        files.write_safetensors(files.checkpoint_path(self.folders[i], step), weights, metadata)

    def write_runs(self, *, finished: bool) -> None:
        curves = np.array(self.curves).reshape(len(self.steps), len(self.seeds), len(self.columns))
        cuda = self.device.type == "cuda"
        noise = self.recipe.training.label_noise
        for i, (folder, seed) in enumerate(zip(self.folders, self.seeds, strict=True)):
            files.write_run(
                folder,
                self.recipe,
                seed=seed,
                task=self.task.name,
                # what an analysis must know: the train curves are of other answers
                config=self.network.config | ({"label_noise": noise} if noise else {}),
                train_rows=self.rows[i],
                steps=np.array(self.steps, dtype=np.int64),
                columns=self.columns,
                curves=curves[:, i],
                noise=self.noise[i] if self.noise else None,
                device=torch.cuda.get_device_name(self.device) if cuda else "cpu",
                finished=finished,
            )

    def write_state(self, step: int) -> None:
        """Save all that is needed to go on from `step`, then tidy up what it no longer lists."""
        arrays = {
            "parameters": self.flat.detach().cpu().numpy(),
            **{name: value.cpu().numpy() for name, value in self.optimiser.state.items()},
            "steps": np.array(self.steps, dtype=np.int64),
            "curves": np.array(self.curves),
        }
        notes = {"step": step, "keepers": [keeper.state() for keeper in self.keepers]}
        files.write_safetensors(self.state_path, arrays, {"notes": json.dumps(notes)})
        self.write_runs(finished=False)
        self.tidy()

    def tidy(self) -> None:
        for folder, keeper in zip(self.folders, self.keepers, strict=True):
            files.remove_checkpoints(folder, keeper.steps)

    def restore(self) -> bool:
        """Take up the saved state; tell whether there was one."""
        state = files.read_state(self.state_path)
        if state is None:
            return False
        arrays, notes = state
        with torch.no_grad():
            for name, target in {"parameters": self.flat, **self.optimiser.state}.items():
                if arrays[name].shape != tuple(target.shape):
                    raise RecipeError(
                        f"{self.state_path} holds {name} of shape {arrays[name].shape}, expected "
                        f"{tuple(target.shape)}; remove it to train from the beginning"
                    )
                target.copy_(torch.from_numpy(arrays[name]))
        self.optimiser.step_count = int(notes["step"])
        self.steps = arrays["steps"].tolist()
        self.curves = list(arrays["curves"])
        for keeper, saved in zip(self.keepers, notes["keepers"], strict=True):
            keeper.restore(saved)
        return True


def _device(recipe: Recipe, asked: str) -> torch.device:
    name = recipe.device if asked == "auto" else asked
    if name not in ("auto", "cpu", "cuda"):
        raise RecipeError(f"device: found {name!r}, expected one of 'auto', 'cpu', 'cuda'")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise RecipeError("device: found 'cuda', but torch sees no GPU here; use 'auto' or 'cpu'")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


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

    Returns
    -------
    list of Path
        Folder of each seed's run, in the order of the seeds.

    Raises
    ------
    RecipeError
        If the recipe is wrong, or the folder holds the checkpoints of another recipe.
    StoreError
        If the folder cannot be written.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    out = Path(out)
    task = recipe.build_task()
    chosen = _device(recipe, device)
    present = files.check_folder(out, recipe, task.name)
    folders = [files.run_folder(out, recipe, seed) for seed in recipe.training.seeds]
    if resume and files.is_finished(out, recipe):
        files.state_path(out, recipe).unlink(missing_ok=True)
        if progress is not None:
            last = recipe.training.steps
            message = f"{out / recipe.name} is already finished"
            progress(Progress(step=last, steps=last, seeds=recipe.training.seeds, message=message))
        return folders
    with _threads(threads):
        training = _Training(recipe, task, out, chosen)
        if not resume:
            training.state_path.unlink(missing_ok=True)
            for folder in present:
                files.remove_checkpoints(folder, set())
        resumed = training.restore()
        training.write_runs(finished=False)
        training.tidy()
        if resumed and progress is not None:
            progress(training.report(f"resumed at step {training.optimiser.step_count}"))
        training.run(state_every=state_every, progress=progress)
        training.tidy()
        training.write_runs(finished=True)
        training.state_path.unlink(missing_ok=True)
    return folders
