"""A callback that measures the network while the `Trainer` of Hugging Face trains it."""

from __future__ import annotations

from typing import Any

from geomdiag.errors import MissingExtraError
from geomdiag.live.callback import MonitorCallback

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise MissingExtraError("transformers", "transformers") from error

__all__ = ["GeometryCallback"]


class GeometryCallback(MonitorCallback, TrainerCallback):
    """Measures the model that a `Trainer` trains; parameters are those of `MonitorCallback`.

    Examples
    --------
    >>> callback = GeometryCallback("modadd:p=31", out="run.geomdiag.zarr")  # doctest: +SKIP
    >>> Trainer(model, callbacks=[callback], train_dataset=rows).train()  # doctest: +SKIP
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Measure the network that the training starts from."""
        if state.is_world_process_zero:
            self._begin(kwargs["model"], state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Measure if the step's turn has come."""
        self._see(state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Measure the last step and write the result."""
        self._end(state.global_step)
