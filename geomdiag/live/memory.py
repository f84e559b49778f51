"""A network in memory seen as a checkpoint, and measured without leaving a trace in it."""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geomdiag.checkpoints.series import Checkpoint, TensorMap, TensorSpec
from geomdiag.errors import ArchitectureError, CheckpointError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = ["checkpoint_of", "runner", "untouched"]


#: Wrappers, and under which name they hold the network.
_INNER = {"DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}

_SHARDED = (
    "{} is sharded over several processes, and this one holds a part of it. Save whole "
    "checkpoints and follow their folder with `geomdiag watch`."
)


class _Tensors(TensorMap):
    """Copies of a network's tensors in main memory, under the names a saved file would have."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        from torch.nn.parameter import is_lazy

        self._tensors: dict[str, Tensor] = {}
        for name, value in state.items():
            if not hasattr(value, "detach"):
                continue  # a module's own extra state is no tensor, in a file neither
            if is_lazy(value):
                raise CheckpointError(
                    f"the tensor {name!r} has no shape yet: it is made when the network first "
                    "runs. Run the network once on an input before the monitor is made."
                )
            if hasattr(value, "full_tensor") or hasattr(value, "local_shards"):
                raise CheckpointError(_SHARDED.format(f"the tensor {name!r}"))
            if value.device.type == "meta":
                raise CheckpointError(
                    f"the tensor {name!r} is on the device 'meta' and has no values; expected a "
                    "network whose weights are in memory"
                )
            self._tensors[name] = value.detach().to("cpu", copy=True)

    def spec(self, name: str) -> TensorSpec:
        """Return shape and type of `name`."""
        tensor = self._tensors[name]
        return TensorSpec(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))

    def __getitem__(self, name: str) -> NDArray[Any]:
        tensor = self._tensors[name]
        if tensor.is_floating_point() and str(tensor.dtype).startswith(
            ("torch.bfloat", "torch.float8")
        ):
            tensor = tensor.float()  # as files of these types are read
        values: NDArray[Any] = tensor.numpy()
        return values

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def checkpoint_of(module: nn.Module, step: int, *, name: str = "model") -> Checkpoint:
    """Return a network's present state as a checkpoint; later updates do not change it.

    Its digest is that of its tensors' names, types, shapes and values, as
    `Checkpoint.content_digest` gives it for a file with the same state.

    Parameters
    ----------
    module : torch.nn.Module
        Or whatever else has a ``state_dict()``.
    step : int
        Updates made so far.
    name : str
        What messages call it.

    Raises
    ------
    CheckpointError
        If its tensors are sharded over several processes, or have no values.
    """
    import torch

    wrapped = any(type(one).__name__ == "FullyShardedDataParallel" for one in _members(module))
    if wrapped:  # its state_dict() waits for the other processes, which do not come
        raise CheckpointError(_SHARDED.format("the network"))
    with torch.no_grad():
        tensors = _Tensors(module.state_dict())
    # an entry of something that holds a series is identified by its content
    return Checkpoint(
        step=step,
        path=Path(name),
        load=lambda: tensors,
        step_source="metadata",
        member="in memory",
    )


def _members(module: Any) -> list[nn.Module]:
    return list(module.modules()) if hasattr(module, "modules") else []


def runner(
    module: nn.Module, forward: Callable[[nn.Module, Tensor], Any]
) -> Callable[[Mapping[str, Any]], Callable[[Any], Any]]:
    """Return a factory, as `geomdiag.analyze` takes for ``model``, that runs the live network.

    Parameters
    ----------
    module : torch.nn.Module
        Run as it is: in eval mode, without gradients, on its own device.
    forward : callable
        ``forward(module, inputs)`` maps (n, arity) int64 operands to logits (n, classes).
    """
    import torch

    # Run in one process alone, a distributed wrapper would wait for the others; a compiled one
    # would be compiled again, for our inputs and modes.
    while (inner := _INNER.get(type(module).__name__)) is not None:
        module = getattr(module, inner)

    def run(inputs: Tensor) -> Any:
        parameter = next(iter(module.parameters()), None)
        with ExitStack() as stack:
            stack.enter_context(_evaluating(module))
            stack.enter_context(_uncompiled())
            if parameter is not None:
                # what the network makes on its way is where and what the network is
                stack.enter_context(torch.device(parameter.device))
                stack.enter_context(_default_type(parameter.dtype))
                inputs = inputs.to(parameter.device)
            return forward(module, inputs)

    # results say by the function's source which model was run: that of `forward`
    if not hasattr(forward, "__qualname__"):
        raise ArchitectureError(
            f"forward is a {type(forward).__name__}; expected a function (module, inputs) → logits"
        )

    @functools.wraps(forward)
    def factory(_state: Mapping[str, Any]) -> Callable[[Any], Any]:
        return run

    return factory


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Run what was compiled as it was written: what is compiled stays for the training alone."""
    import torch

    # nothing is compiled where torch's compiler, which is slow to import, was not
    if "torch._dynamo" not in sys.modules or not hasattr(torch.compiler, "set_stance"):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def _default_type(dtype: torch.dtype) -> Iterator[None]:
    import torch

    before = torch.get_default_dtype()
    plain = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    torch.set_default_dtype(dtype if dtype in plain else before)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Put a network into eval mode, and its modes and buffers back as they were."""
    import torch

    members = list(module.modules())
    modes = [(one, one.training) for one in members]
    buffers = [
        (one, name, tensor, None if tensor is None else tensor.clone())
        for one in members
        for name, tensor in one._buffers.items()
    ]
    try:
        for one in members:
            one.training = False  # `eval()` may be overridden to do more than that
        with torch.no_grad():
            yield
    finally:
        for one, mode in modes:
            one.training = mode
        with torch.no_grad():
            kept = {(id(one), name) for one, name, _, _ in buffers}
            for one in members:
                for name in [name for name in one._buffers if (id(one), name) not in kept]:
                    del one._buffers[name]  # made on the way, as a cache is
            for one, name, tensor, before in buffers:
                one._buffers[name] = tensor
                # written only if it must be: writing counts as a change where gradients wait
                if tensor is not None and before is not None and not _same(tensor, before):
                    tensor.copy_(before)


def _same(one: Tensor, other: Any) -> bool:
    import torch

    if one.is_floating_point():
        return bool(((one == other) | (torch.isnan(one) & torch.isnan(other))).all())
    return bool((one == other).all())


@contextmanager
def untouched() -> Iterator[None]:
    """Measure as a fresh process would, and leave no trace in this one.

    Random states (Python, NumPy, torch on the processor and on every GPU in use), gradient and
    autocast mode, default type and device, and the precision of products are put back as they were.
    """
    import torch

    python, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - the user's
    cpu = torch.get_rng_state()
    cuda = torch.cuda.is_available() and bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
    gpus = torch.cuda.get_rng_state_all() if cuda else []
    dtype = torch.get_default_dtype()
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())  # diagnostics turn it off where they need
            stack.enter_context(torch.device("cpu"))
            stack.enter_context(torch.autocast("cpu", enabled=False))
            if cuda:
                stack.enter_context(torch.autocast("cuda", enabled=False))
            stack.enter_context(_exact_products())
            torch.set_default_dtype(torch.float32)
            yield
    finally:
        torch.set_default_dtype(dtype)
        random.setstate(python)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if gpus:
            torch.cuda.set_rng_state_all(gpus)


@contextmanager
def _exact_products() -> Iterator[None]:
    """Multiply matrices of float32 in float32, whatever shortcut the training takes."""
    import torch

    backends = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    switches: list[Any] = [one for one in backends if hasattr(one, "fp32_precision")]
    if not switches:  # before torch 2.9
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)
        return
    # the older functions raise where a program has used the switches; one that is not set follows
    # a common switch, which setting it would end
    before = [(one, one.fp32_precision) for one in switches]
    changed = [(one, value) for one, value in before if value not in ("none", "ieee")]
    try:
        for one, _ in changed:
            one.fp32_precision = "ieee"
        yield
    finally:
        for one, value in changed:
            one.fp32_precision = value
