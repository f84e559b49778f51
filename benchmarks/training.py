"""Steps · seeds per second of the stacked trainer, against a plain step and against its floor.

Run ``python benchmarks/training.py`` (``--threads 1 2``, ``--seeds 8``, ``--repeats 9``;
``--compile`` adds the compiled step, at half a minute a recipe). On a GPU 64 seeds are stacked.
Medians; what is compared takes turns within one run, so that the ratios hold on any machine. One
CPU thread is timed in CPU time, which other work disturbs little; more threads and a GPU, where
torch sees one, in wall time, which needs a machine that nothing else keeps busy.

The plain step is a `torch.nn.Module` of the same network, one seed, as one writes it with care:
every position goes through attention, MLP and read-out, keys, queries and values come from one
product, attention from `scaled_dot_product_attention`, the loss is float32 `cross_entropy` of
the last position, and `torch.optim.AdamW` runs fused. It starts from the same weights; before
anything is timed both take three steps, and their losses must agree.

The floor. At the last position each of the n train inputs has a stream and a hidden layer of its
own, so that the products attention → residual → hidden → residual → logits remain, once forward
and twice backward: 6 · n · (d·d + 2·d·m + d·c) FLOP a step and seed (an MLP on tables: the
read-out alone, 6 · n · m · c). Attention, look-ups, loss and optimiser count nothing. The rate
is measured on these very products with `torch.bmm`, on as many seeds as are stacked. The share
is the time of the products over the time of the step. Products of weights with weights
(W_O·W_in, W_out·W_U) would avoid a part of them, most where classes are few; the trainer does not
use them, since they round differently from the runs that are recorded.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from geomdiag.training import Recipe, load_recipe
from geomdiag.training.allocator import freed_memory_kept
from geomdiag.training.recipe import MLPModel, TransformerModel
from geomdiag.training.stack import Stack

RECIPES = Path(__file__).resolve().parents[1] / "fixtures" / "recipes"
NAMES = (
    "modadd-p113-transformer",
    "modadd-p31-transformer",
    "graph-hypercube-5-transformer",
    "comparison-5x5-transformer",
    "modadd-p31-mlp",
    "group-S4-mlp",
)


class PlainTransformer(nn.Module):
    """One seed, all positions; parameters in the order and under the shapes of the recipe's."""

    def __init__(self, model: TransformerModel, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.heads = model.heads
        d = model.d_model
        names = {name.rpartition(".")[2]: weight for name, weight in weights.items()}
        self.embed = nn.Parameter(names["W_E"])
        self.position = nn.Parameter(names["W_pos"])
        joined = [names[f"W_{part}"].permute(1, 0, 2).reshape(d, d) for part in "QKV"]
        self.attention_in = nn.Parameter(torch.cat(joined, dim=1).T.contiguous())
        self.attention_out = nn.Parameter(names["W_O"].flatten(0, 1).T.contiguous())
        self.w_in, self.b_in = (
            nn.Parameter(names["W_in"].T.contiguous()),
            nn.Parameter(names["b_in"]),
        )
        self.w_out = nn.Parameter(names["W_out"].T.contiguous())
        self.b_out = nn.Parameter(names["b_out"])
        self.read_out = nn.Parameter(names["W_U"].T.contiguous())

    def forward(self, inputs: Tensor) -> Tensor:
        residual = functional.embedding(inputs, self.embed) + self.position
        n, length, d = residual.shape
        joined = functional.linear(residual, self.attention_in)
        query, key, value = joined.view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        mixed = mixed.transpose(1, 2).reshape(n, length, d)
        residual = residual + functional.linear(mixed, self.attention_out)
        hidden = torch.relu(functional.linear(residual, self.w_in, self.b_in))
        residual = residual + functional.linear(hidden, self.w_out, self.b_out)
        return functional.linear(residual, self.read_out)[:, -1]


class PlainMLP(nn.Module):
    """One seed of an MLP whose operands have a table each."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(weights["W_x"]), nn.Parameter(weights["W_y"])
        self.w_in = nn.Parameter(weights["W"].T.contiguous())
        self.read_out = nn.Parameter(weights["W_U"].T.contiguous())

    def forward(self, inputs: Tensor) -> Tensor:
        left, right = inputs.T
        both = [functional.embedding(left, self.left), functional.embedding(right, self.right)]
        hidden = torch.relu(functional.linear(torch.cat(both, dim=1), self.w_in))
        return functional.linear(hidden, self.read_out)


class Stacked:
    """The trainer's own step on a few seeds; nothing is evaluated or written.

    With `variants` the networks are as many recipes, each with other numbers.
    """

    def __init__(
        self,
        recipe: Recipe,
        seeds: tuple[int, ...],
        device: torch.device,
        *,
        compiled: bool = False,
        variants: bool = False,
    ) -> None:
        # without warm-up, which the plain step has not
        recipes = [replace(recipe, training=replace(recipe.training, seeds=seeds, warmup=0))]
        if variants:
            settings = recipes[0].training
            recipes = [
                replace(
                    recipe,
                    training=replace(
                        settings,
                        seeds=(seed,),
                        lr=settings.lr * 0.9**k,
                        weight_decay=settings.weight_decay * 0.9**k,
                        betas=(0.9 * 0.99**k, 0.98),
                    ),
                )
                for k, seed in enumerate(seeds)
            ]
        self.recipe, self.task = recipes[0], recipe.build_task()
        self.stack = Stack(recipes, self.task, device)
        start = time.perf_counter()
        if compiled:
            self.stack.compile()
        #: Seconds that compiling took.
        self.compiling = time.perf_counter() - start

    def __call__(self) -> Tensor:
        _, losses = self.stack.learn(self.stack.optimiser.step_count, descend=True)
        self.stack.optimiser.update()
        return losses[0]


class Plain:
    """The plain step: network, inputs, optimiser."""

    def __init__(self, alone: Stacked) -> None:
        settings, model, stack = alone.recipe.training, alone.recipe.model, alone.stack
        weights = {name: value[0].detach().clone() for name, value in stack.parameters.items()}
        self.inputs = stack.data.train.inputs[:, 0].T.contiguous()
        self.answers = stack.data.train.answers[0]
        self.network: nn.Module
        if isinstance(model, MLPModel):
            self.network = PlainMLP(weights)
        else:
            equals = torch.full_like(self.inputs[:, :1], len(weights["embed.W_E"]) - 1)
            self.inputs = torch.cat([self.inputs, equals], dim=1)
            self.network = PlainTransformer(model, weights)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(),
            lr=settings.lr,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=True,
        )

    def __call__(self) -> Tensor:
        self.optimiser.zero_grad()
        loss = functional.cross_entropy(self.network(self.inputs), self.answers)
        torch.autograd.backward(loss)
        self.optimiser.step()
        return loss.detach()


def products(stacked: Stacked) -> tuple[Callable[[], None], int]:
    """Return the products that no step can avoid, and their FLOPs, over all seeds."""
    model, classes = stacked.recipe.model, stacked.task.classes
    seeds, n = stacked.stack.data.train.answers.shape
    if isinstance(model, MLPModel):
        shapes = [(model.d_hidden, classes)]
    else:
        d, m = model.d_model, model.d_mlp
        shapes = [(d, d), (d, m), (m, d), (d, classes)]
    pairs = []
    for rows, columns in shapes:
        x, weight, y = (
            torch.randn(shape, device=stacked.stack.device)
            for shape in ((seeds, n, rows), (seeds, rows, columns), (seeds, n, columns))
        )
        # forward; gradient of the input; gradient of the weight
        for left, right in ((x, weight), (y, weight.mT), (x.mT, y)):
            pairs.append((left, right, torch.bmm(left, right)))

    def call() -> None:
        for left, right, out in pairs:
            torch.bmm(left, right, out=out)

    return call, 6 * seeds * n * sum(rows * columns for rows, columns in shapes)


def take_turns(
    calls: dict[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, float]:
    """Return the median seconds of each call, every call once a round, after a warm-up."""

    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter

    def timed(call: Callable[[], object], times: int) -> float:
        start = clock()
        for _ in range(times):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (clock() - start) / times

    # calls that take turns disturb each other's caches, so each turn lasts some 30 ms
    times = {}
    for name, call in calls.items():
        timed(call, 2)
        times[name] = max(1, round(0.03 / max(timed(call, 1), 1e-5)))
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            spent[name].append(timed(call, times[name]))
    return {name: statistics.median(values) for name, values in spent.items()}


def measure(
    recipe: Recipe, stack: int, repeats: int, device: torch.device, *, compiled: bool
) -> str:
    """Return one line of the table."""
    seeds = tuple(range(stack))
    alone = Stacked(recipe, (0,), device)
    together = Stacked(recipe, seeds, device)
    plain = Plain(alone)
    fast = {}
    if compiled:
        fast = {
            "compiled": Stacked(recipe, (0,), device, compiled=True),
            "compiled together": Stacked(recipe, seeds, device, compiled=True),
        }
    for _ in range(3):
        theirs = plain().item()
        for ours in (one().ravel()[0].item() for one in (alone, *fast.values())):
            if abs(ours - theirs) > 1e-3 * abs(theirs):
                raise SystemExit(f"{recipe.name}: loss {ours} is not the plain one, {theirs}")
    needed, flop = products(alone)
    needed_together, _ = products(together)
    singles = [Stacked(recipe, (seed,), device) for seed in seeds]

    def one_by_one() -> None:
        for single in singles:
            single()

    seconds = take_turns(
        {
            "plain": plain,
            "alone": alone,
            "together": together,
            "variants": Stacked(recipe, seeds, device, variants=True),
            "one by one": one_by_one,
            "needed": needed,
            "needed together": needed_together,
            **fast,
        },
        repeats,
        device,
    )
    rate = flop / seconds["needed"] / 1e9
    each = {
        name: value / stack
        for name, value in seconds.items()
        if name in ("variants", "one by one") or name.endswith("together")
    }
    line = (
        f"{recipe.name:31s}{1 / seconds['plain']:9.1f}{1 / seconds['alone']:9.1f}"
        f"{1 / each['together']:9.1f}{1 / each['variants']:9.1f}"
        f"{seconds['plain'] / seconds['alone']:9.2f}"
        f"{each['one by one'] / each['together']:9.2f}"
        f"{seconds['together'] / seconds['alone']:9.2f}"
        f"{flop / 1e9:9.3f}{rate:9.0f}{seconds['needed'] / seconds['alone']:8.0%}"
        f"{each['needed together'] / each['together']:8.0%}"
    )
    if not compiled:
        return line
    saved = seconds["alone"] - seconds["compiled"]
    pays = f"{fast['compiled'].compiling / saved:9.0f}" if saved > 0 else f"{'never':>9s}"
    return (
        f"{line}{1 / seconds['compiled']:9.1f}{1 / each['compiled together']:9.1f}"
        f"{seconds['plain'] / seconds['compiled']:9.2f}"
        f"{seconds['needed'] / seconds['compiled']:8.0%}"
        f"{fast['compiled'].compiling:8.0f}{pays}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seeds", type=int, default=8, help="that are stacked on a CPU")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--recipes", nargs="+", default=list(NAMES))
    parser.add_argument("--compile", action="store_true", help="also compile the step")
    options = parser.parse_args()
    torch.compiler.config.force_disable_caches = True  # so that compiling takes what it takes
    print(
        "plain, 1, stacked, variants: steps · seeds per second of the plain step, of one seed, of "
        "many stacked, of as many recipes stacked;\n1/plain, st/sing (stacked, the same seeds one "
        "by one): how many times as fast a seed; st/1: a stacked step in steps of one seed;\n"
        "GFLOP: needed for a step of one seed; GFLOP/s: measured on these products; share: of a "
        "step, 1 seed and stacked;\ncomp: compiled, 1 seed and stacked; c/plain: one seed; share; "
        "seconds to compile for one seed, and after how many steps that is won"
    )
    places = [("cpu", count, options.seeds) for count in options.threads]
    if torch.cuda.is_available():
        places.append(("cuda", 1, 64))
    for place, threads, stack in places:
        device = torch.device(place)
        torch.set_num_threads(threads)
        name = torch.cuda.get_device_name() if place == "cuda" else f"cpu, {threads} thread(s)"
        print(f"\n{name}, {stack} stacked, torch {torch.__version__}")
        columns = ["plain", "1", "stacked", "variants", "1/plain", "st/sing", "st/1", "GFLOP"]
        header = "".join(f"{column:>9s}" for column in [*columns, "GFLOP/s"])
        header += f"{'share':>8s}{'share':>8s}"
        if options.compile:
            header += "".join(f"{column:>9s}" for column in ("comp", "comp st", "c/plain"))
            header += f"{'share':>8s}{'seconds':>8s}{'won at':>9s}"
        print(f"{'':31s}{header}")
        for recipe in options.recipes:
            loaded = load_recipe(RECIPES / f"{recipe}.toml")
            with freed_memory_kept():  # as the trainer does
                line = measure(loaded, stack, options.repeats, device, compiled=options.compile)
            print(line, flush=True)


if __name__ == "__main__":
    main()
