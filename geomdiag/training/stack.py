"""All networks of one program and the step they take together: parameters, inputs, optimiser.

The networks are the seeds of a recipe, or of several recipes that differ in numbers only.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from geomdiag.errors import RecipeError
from geomdiag.tasks.contract import Task
from geomdiag.training.auxiliary import build_auxiliary
from geomdiag.training.data import Data, Part
from geomdiag.training.networks import StackedNetwork, build_network
from geomdiag.training.optimiser import build_optimiser, flat_order
from geomdiag.training.recipe import MLPModel, Recipe

__all__ = ["HIDDEN_BYTES", "Stack", "networks_at_once", "program"]

#: Most bytes of hidden layer that recipes which share a program have together. On a CPU what is
#: larger does not stay in the cache from one operation to the next, which costs more than stacking
#: gains; on a GPU it is for the memory.
HIDDEN_BYTES = {"cpu": 2 * 2**20, "cuda": 2**30}
#: Most of them that go through a step at once on a CPU, where one recipe has more: another number
#: might round differently from the runs that are recorded.
_STEP_BYTES = 16 * 2**20
#: By how much a compiled step may differ from the same step as it is written: its losses, and its
#: gradient in the norm of each network's. Rounding in float32 is some 100 times less.
_LOSS_DIFFERENCE, _GRADIENT_DIFFERENCE = 1e-4, 1e-3
#: Steps that are compared. Where the operations of a step are captured, the first runs them, the
#: second records them, and what follows plays the record back.
_COMPARED = 4


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
    network: StackedNetwork, part: Part, parameters: dict[str, Tensor]
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
    forward: _Forward  # of the parameters


class Stack:
    """All networks of one program; nothing of it is written.

    Lists are one entry a network: the seeds of the first recipe, then those of the next.

    Parameters
    ----------
    recipes : sequence of Recipe
        For which `program` is the same.
    task : Task
        Their task.
    device : torch.device
        Where they train.

    Attributes
    ----------
    seeds, owners : sequence
        Seed and recipe of each network.
    networks : list of StackedNetwork
        Of each network's recipe.
    network : StackedNetwork
        All of them as one.
    parameters : dict of str to (networks, ...) tensor
        Windows into `flat`.
    flat : tensor
        All parameters of all networks.
    data : Data
        What they learn from.
    compiled : bool
        Whether `compile` has succeeded.

    Raises
    ------
    RecipeError
        If the recipes differ in more than numbers.
    """

    def __init__(self, recipes: Sequence[Recipe], task: Task, device: torch.device) -> None:
        first = recipes[0]
        for other in recipes[1:]:
            if program(other) != program(first):
                raise RecipeError(
                    f"{other.name} cannot be trained in one program with {first.name}: they differ "
                    "in more than numbers; use train_all, which finds those that can"
                )
        self.device = device
        self.compiled = False
        members = [i for i, recipe in enumerate(recipes) for _ in recipe.training.seeds]
        self.seeds = tuple(seed for recipe in recipes for seed in recipe.training.seeds)
        self.owners = [recipes[i] for i in members]
        self.data = Data(task, [recipe.training for recipe in self.owners], self.seeds, device)
        built = [build_network(task, recipe.model) for recipe in recipes]
        self.networks = [built[i] for i in members]

        # Parameters and gradients are windows into one flat tensor each, so that the optimiser
        # is a few operations; all networks of a parameter lie together.
        initial = [
            network.initial(seed) for network, seed in zip(self.networks, self.seeds, strict=True)
        ]
        order = flat_order(built[0], first.training)
        stacked = {name: np.stack([arrays[name] for arrays in initial]) for name in order}
        flat = np.concatenate([array.ravel() for array in stacked.values()])
        dtype = torch.float64 if first.dtype == "float64" else torch.float32
        self.flat = torch.from_numpy(flat).to(device=device, dtype=dtype)
        scales = [recipe.model.output_scale for recipe in self.owners]
        self.network = built[0].with_output_scales(scales, self.flat)
        settings = [recipe.training for recipe in recipes]
        self.optimiser = build_optimiser(self.network, settings, members, self.flat)
        self.auxiliary = build_auxiliary(first, task, self.network, device, self.seeds)
        weights = [recipe.auxiliary.weight for recipe in self.owners if recipe.auxiliary]
        self.weights = torch.tensor(weights, dtype=torch.float64, device=device)
        self.parameters: dict[str, Tensor] = {}
        self._gradients: dict[str, Tensor] = {}
        start = 0
        for name, array in stacked.items():
            window = slice(start, start + array.size)
            parameter = self.flat[window].view(array.shape).requires_grad_()
            self._gradients[name] = self.optimiser.gradient[window].view(array.shape)
            parameter.grad = self._gradients[name]
            self.parameters[name] = parameter
            start += array.size
        size = len(self.seeds)
        if device.type == "cpu":
            size = networks_at_once(first, task, _STEP_BYTES)
        self._groups = self._grouped(size)

    def _grouped(self, size: int) -> list[_Group]:
        """Return the networks that go through a step together, so many at a time."""
        count = len(self.seeds)
        groups = []
        for start in range(0, count, size):
            some = slice(start, start + size)
            parameters = self.parameters
            if size < count:
                parameters = {}
                for name, parameter in self.parameters.items():
                    parameters[name] = parameter.detach()[some].requires_grad_()
                    parameters[name].grad = self._gradients[name][some]
            forward = partial(_forward, self.network.of(some), self.data.train.of(some))
            groups.append(_Group(parameters, forward))
        return groups

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
        for i, group in enumerate(self._groups, start=1):
            found, loss = group.forward(group.parameters)
            total = loss.sum()
            logits.append(found.detach())
            losses.append(loss.detach())
            if self.auxiliary is not None and i == len(self._groups):  # once, for all networks
                auxiliary = self.auxiliary.losses(self.parameters, step)
                total = total + (self.weights * auxiliary).sum()
                more.append(auxiliary.detach())
            if descend:
                torch.autograd.backward(total)
        return logits, [torch.cat(losses), *more]

    def compile(self) -> None:
        """Compile the forward and backward pass, and hold it against what it was compiled from.

        On a GPU the operations of a pass are captured as well, and launched as one. The first
        step is taken a few times both ways, and thrown away.

        Raises
        ------
        RecipeError
            If torch cannot compile it here, or what is compiled gives other numbers. Nothing is
            compiled then.
        """
        wanted = self._first_step()
        written = self._groups
        # torch counts what is compiled in a process and stops at a few; earlier trainings are over
        torch.compiler.reset()
        mode = "reduce-overhead" if self.device.type == "cuda" else None
        self._groups = [
            replace(
                group,
                forward=torch.compile(group.forward, fullgraph=True, dynamic=False, mode=mode),
            )
            for group in written
        ]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch, about how it reads the code
                for _ in range(_COMPARED):
                    self._hold_against(wanted)
        except RecipeError:
            self._written_again(written)
            raise
        except Exception as error:  # of torch, Triton or a compiler: each has its own
            self._written_again(written)
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise RecipeError(
                f"compile: torch cannot compile the step here ({reason}). On a CPU it needs a C++ "
                "compiler such as g++, on a GPU Triton; install it, or train without compile"
            ) from error
        self.compiled = True

    def _written_again(self, written: list[_Group]) -> None:
        """Go back to the step as it is written; on a GPU a captured one holds its memory."""
        self._groups = written
        torch.compiler.reset()

    def _first_step(self) -> tuple[Tensor, list[Tensor]]:
        """Return losses and gradients of a step from where the networks are."""
        _, losses = self.learn(0, descend=True)
        return losses[0], [gradient.double() for gradient in self._gradients.values()]

    def _hold_against(self, wanted: tuple[Tensor, list[Tensor]]) -> None:
        """Take the step and raise where it is not the wanted one."""
        found = self._first_step()

        def squared(gradients: list[Tensor]) -> Tensor:  # norm of each network's
            return torch.stack([one.flatten(1).square().sum(1) for one in gradients]).sum(0)

        def greatest(difference: Tensor, size: Tensor) -> float:
            # what is not finite as it is written is not what is looked for here
            relative = torch.where(difference == 0, 0.0, difference / size)
            relative = relative[wanted[0].isfinite()].nan_to_num(nan=torch.inf)
            return relative.max().item() if len(relative) else 0.0

        difference = [ours - theirs for ours, theirs in zip(found[1], wanted[1], strict=True)]
        loss = greatest((found[0] - wanted[0]).abs(), wanted[0].abs())
        gradient = greatest(squared(difference).sqrt(), squared(wanted[1]).sqrt())
        if loss > _LOSS_DIFFERENCE or gradient > _GRADIENT_DIFFERENCE:
            raise RecipeError(
                f"compile: the step that torch compiled here gives other numbers: losses differ by "
                f"{loss:.1e} of their value, gradients by {gradient:.1e}; expected at most "
                f"{_LOSS_DIFFERENCE:.0e} and {_GRADIENT_DIFFERENCE:.0e}. Train without compile, or "
                "with another version of torch"
            )
