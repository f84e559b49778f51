"""The reference trainer: full-batch descent on the loss, many networks in one program.

The networks are the seeds of a recipe, or of several recipes that differ in numbers only.
"""

from __future__ import annotations

import copy
import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
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
from geomdiag.training.recipe import MLPModel, Recipe, load_recipe
from geomdiag.training.schedule import Keeper, evaluation_steps, log_spaced

__all__ = [
    "HIDDEN_BYTES",
    "Progress",
    "choose_device",
    "networks_at_once",
    "noisy_answers",
    "program",
    "train",
    "train_rows",
    "train_together",
]

#: Most bytes of hidden layer that recipes which share a program have together. On a CPU what is
#: larger does not stay in the cache from one operation to the next, which costs more than stacking
#: gains; on a GPU it is for the memory.
HIDDEN_BYTES = {"cpu": 2 * 2**20, "cuda": 2**30}
#: Most of them that go through a step at once on a CPU, where one recipe has more: another number
#: might round differently from the runs that are recorded.
_STEP_BYTES = 16 * 2**20


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


def program(recipe: Recipe) -> Recipe:
    """Return the recipe with everything at one value that recipes of one program may differ in.

    Recipes for which this is equal have the same shapes and the same operations.

    Parameters
    ----------
    recipe : Recipe
        Recipe.
    """
    auxiliary = recipe.auxiliary
    return replace(
        recipe,
        name="any",
        device="auto",
        model=replace(recipe.model, init_scale=1.0, embedding_init_scale=1.0, output_scale=1.0),
        training=replace(
            recipe.training,
            seeds=(0,),
            split_seed=0,
            lr=1.0,
            betas=(0.9, 0.98),
            weight_decay=0.0,
            warmup=0,
            momentum=0.9,
            grokfast=float(recipe.training.grokfast > 0),
            grokfast_decay=0.98,
            label_noise=0.0,
        ),
        auxiliary=None if auxiliary is None else replace(auxiliary, weight=1.0),
    )


def networks_at_once(recipe: Recipe, task: Task, most: int) -> int:
    """Return how many networks have a hidden layer of at most so many bytes; at least 1.

    Parameters
    ----------
    recipe : Recipe
        Gives the sizes.
    task : Task
        Its task.
    most : int
        Bytes.
    """
    model = recipe.model
    width = model.d_hidden if isinstance(model, MLPModel) else model.d_mlp
    inputs = int(recipe.training.train_fraction * len(task.inputs))
    return max(1, most // (inputs * width * (8 if recipe.dtype == "float64" else 4)))


def _forward(
    network: StackedNetwork, part: _Part, parameters: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return logits and losses of some networks."""
    logits = network.logits(parameters, part.inputs)
    return logits, part.losses(logits)


#: From parameters to logits and losses.
_Forward = Callable[[dict[str, Tensor]], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class _Group:
    """Networks that go through a step together."""

    parameters: dict[str, Tensor]
    part: _Part
    forward: _Forward  # of the parameters


class _Part:
    """The same number of inputs for every network, with their answers, on the device."""

    def __init__(
        self,
        task: Task,
        rows: NDArray[np.int64],
        answers: NDArray[np.int64],
        device: torch.device,
    ) -> None:
        inputs = np.moveaxis(task.inputs[rows], -1, 0)  # [arity, networks, n]
        self.inputs = torch.from_numpy(np.ascontiguousarray(inputs)).to(device)
        self.answers = torch.from_numpy(answers).to(device)

    def of(self, networks: slice) -> _Part:
        """Return the part of some of the networks; shares the memory."""
        part = copy.copy(self)
        part.inputs, part.answers = self.inputs[:, networks], self.answers[networks]
        return part

    def losses(self, logits: Tensor) -> Tensor:
        """Return the mean loss of each network, float64 (float32 rounds small losses away)."""
        losses = cross_entropy(logits.double().flatten(0, 1), self.answers.flatten())
        mean: Tensor = losses.unflatten(0, self.answers.shape).mean(1)
        return mean

    def accuracies(self, logits: Tensor) -> Tensor:
        """Return the share of right answers of each network."""
        right = correct(logits.flatten(0, 1), self.answers.flatten())
        share: Tensor = right.unflatten(0, self.answers.shape).double().mean(1)
        return share


class _Training:
    """All networks of one program: parameters, data, curves, and what of them is on disk.

    Lists are one entry a network: the seeds of the first recipe, then those of the next.
    """

    def __init__(
        self,
        recipes: Sequence[Recipe],
        task: Task,
        out: Path,
        device: torch.device,
        *,
        compiled: bool = False,
    ) -> None:
        first = recipes[0]
        for other in recipes[1:]:
            if program(other) != program(first):
                raise RecipeError(
                    f"{other.name} cannot be trained in one program with {first.name}: they differ "
                    "in more than numbers; use train_all, which finds those that can"
                )
        self.recipes, self.task, self.out, self.device = tuple(recipes), task, out, device
        self.compiled = compiled
        #: Place of each network's recipe.
        self.members = [i for i, recipe in enumerate(recipes) for _ in recipe.training.seeds]
        self.seeds = tuple(seed for recipe in recipes for seed in recipe.training.seeds)
        self.owners = [recipes[i] for i in self.members]
        self.networks = [build_network(task, recipe.model) for recipe in recipes]
        self.folders = [
            files.run_folder(out, recipe, seed)
            for recipe, seed in zip(self.owners, self.seeds, strict=True)
        ]
        self.state_path = files.state_path(out, first)
        self._draw()

        dtype = torch.float64 if first.dtype == "float64" else torch.float32
        # Parameters and gradients are windows into one flat tensor each, so that the optimiser
        # is a few operations; all networks of a parameter lie together.
        initial = [
            self.networks[i].initial(seed) for i, seed in zip(self.members, self.seeds, strict=True)
        ]
        order = flat_order(self.networks[0], first.training)
        stacked = {name: np.stack([arrays[name] for arrays in initial]) for name in order}
        flat = np.concatenate([array.ravel() for array in stacked.values()])
        self.flat = torch.from_numpy(flat).to(device=device, dtype=dtype)
        scales = [recipe.model.output_scale for recipe in self.owners]
        self.network = self.networks[0].with_output_scales(scales, self.flat)
        settings = [recipe.training for recipe in recipes]
        self.optimiser = build_optimiser(self.network, settings, self.members, self.flat)
        self.auxiliary = build_auxiliary(first, task, self.network, device, self.seeds)
        weights = [recipe.auxiliary.weight for recipe in self.owners if recipe.auxiliary]
        self.weights = torch.tensor(weights, dtype=torch.float64, device=device)
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

        rules = first.checkpoints
        fixed = log_spaced(first.training.steps, rules.count)
        self.evaluated = frozenset(
            evaluation_steps(first.training.steps, rules.evaluate_every, fixed)
        )
        self.keepers = [Keeper(rules, frozenset(fixed)) for _ in self.seeds]
        self.steps: list[int] = []
        self.curves: list[NDArray[np.float64]] = []  # (networks, columns) each

    def _draw(self) -> None:
        """Draw the train inputs, and their answers where some are wrong."""
        task = self.task
        settings = [recipe.training for recipe in self.owners]
        split_seeds = [
            seed if one.split_seed == "seed" else one.split_seed
            for one, seed in zip(settings, self.seeds, strict=True)
        ]
        self.rows = np.stack(
            [
                train_rows(task, one.train_fraction, seed)
                for one, seed in zip(settings, split_seeds, strict=True)
            ]
        )
        answers = np.tile(task.answers, (len(self.seeds), 1))  # that are trained on
        #: Rows with a wrong answer and these answers; None: no noise.
        self.noise: list[tuple[NDArray[np.int64], NDArray[np.int64]] | None] = []
        for own, rows, one, seed in zip(answers, self.rows, settings, split_seeds, strict=True):
            drawn = None
            if one.label_noise:
                drawn = noisy_answers(task, rows, one.label_noise, seed)
                own[drawn[0]] = drawn[1]
            self.noise.append(drawn)
        everything = np.arange(len(task.inputs))
        heldout = np.stack([np.setdiff1d(everything, rows) for rows in self.rows])
        trained = np.take_along_axis(answers, self.rows, axis=1)
        self.train_part = _Part(task, self.rows, trained, self.device)
        self.heldout_part = _Part(task, heldout, task.answers[heldout], self.device)

    def _groups(self) -> list[_Group]:
        """Return the networks that go through a step together."""
        count = len(self.seeds)
        size = count
        if self.device.type == "cpu":
            size = networks_at_once(self.recipes[0], self.task, _STEP_BYTES)
        groups = []
        for start in range(0, count, size):
            some = slice(start, start + size)
            parameters = self.parameters
            if size < count:
                parameters = {}
                for name, parameter in self.parameters.items():
                    parameters[name] = parameter.detach()[some].requires_grad_()
                    parameters[name].grad = self.gradients[name][some]
            part = self.train_part.of(some)
            forward = partial(_forward, self.network.of(some), part)
            groups.append(_Group(parameters, part, self._compile(forward)))
        return groups

    def _compile(self, forward: _Forward) -> _Forward:
        """Compile forward and backward pass, if that is asked for."""
        if not self.compiled:
            return forward
        # on a GPU the operations of a step are captured and launched as one
        mode = "reduce-overhead" if self.device.type == "cuda" else None
        compiled: _Forward = torch.compile(forward, fullgraph=True, dynamic=False, mode=mode)
        return compiled

    def warm_up(self) -> None:
        """Compile before anything is written; the gradient is thrown away."""
        if not self.compiled:
            return
        # torch counts what is compiled in a process and stops at a few; earlier trainings are over
        torch.compiler.reset()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch, about how it reads the code
                self.learn(0, descend=True)
        except RuntimeError as error:
            raise RecipeError(
                f"compile: torch cannot compile the step here ({str(error).splitlines()[0]}). On a "
                "CPU it needs a C++ compiler such as g++, on a GPU Triton; install it, or train "
                "without compile"
            ) from error

    # -- numbers -------------------------------------------------------------------------

    def run(self, *, state_every: float, progress: Callable[[Progress], None] | None) -> None:
        last = self.recipes[0].training.steps
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
        list of (networks of a group, n, classes) tensor
            Logits.
        list of (networks,) tensor
            Cross-entropy, and the auxiliary loss where there is one.
        """
        self.optimiser.gradient.zero_()
        logits, losses, more = [], [], []
        for i, group in enumerate(self.groups, start=1):
            found, loss = group.forward(group.parameters)
            total = loss.sum()
            logits.append(found.detach())
            losses.append(loss.detach())
            if self.auxiliary is not None and i == len(self.groups):  # once, for all networks
                auxiliary = self.auxiliary.losses(self.parameters, step)
                total = total + (self.weights * auxiliary).sum()
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
            steps=self.recipes[0].training.steps,
            seeds=self.seeds,
            recipes=tuple(recipe.name for recipe in self.owners),
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
            "config": json.dumps(self.networks[self.members[i]].config),
            **{
                name: f"{value:.9g}"
                for name, value in zip(self.columns, self.curves[-1][i], strict=True)
            },
        }
        files.write_safetensors(files.checkpoint_path(self.folders[i], step), weights, metadata)

    def write_runs(self, *, finished: bool) -> None:
        curves = np.array(self.curves).reshape(len(self.steps), len(self.seeds), len(self.columns))
        device = "cpu"
        if self.device.type == "cuda":
            device = torch.cuda.get_device_name(self.device)
        for i, (folder, recipe) in enumerate(zip(self.folders, self.owners, strict=True)):
            noise = recipe.training.label_noise
            files.write_run(
                folder,
                recipe,
                seed=self.seeds[i],
                task=self.task.name,
                # what an analysis must know: the train curves are of other answers
                config=self.networks[self.members[i]].config
                | ({"label_noise": noise} if noise else {}),
                train_rows=self.rows[i],
                steps=np.array(self.steps, dtype=np.int64),
                columns=self.columns,
                curves=curves[:, i],
                noise=self.noise[i],
                device=device + (", compiled" if self.compiled else ""),
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
        notes = {
            "step": step,
            "recipes": [recipe.name for recipe in self.recipes],
            "keepers": [keeper.state() for keeper in self.keepers],
        }
        files.write_safetensors(self.state_path, arrays, {"notes": json.dumps(notes)})
        self.write_runs(finished=False)
        self.tidy()

    def tidy(self) -> None:
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
    compile: bool = False,
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
    compile : bool
        Compile the forward and backward pass first (`torch.compile`), which takes some 20
        seconds and gives other rounding. Needs a C++ compiler on a CPU, Triton on a GPU.

    Returns
    -------
    list of Path
        Folder of each seed's run, in the order of the seeds.

    Raises
    ------
    RecipeError
        If the recipe is wrong, the folder holds the checkpoints of another recipe, or the step
        cannot be compiled here.
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
    compile: bool = False,
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
    with _threads(threads):
        training = _Training(recipes, tasks[0], out, chosen, compiled=compile)
        training.warm_up()
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
            progress(training.report(f"resumed at step {training.optimiser.step_count}"))
        training.run(state_every=state_every, progress=progress)
        training.tidy()
        if len(recipes) > 1:
            # should it be interrupted here, with some of them finished, it goes on from the end
            training.write_state(first.training.steps)
        training.write_runs(finished=True)
        training.state_path.unlink(missing_ok=True)
    return folders
