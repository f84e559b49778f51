"""What a run's configuration says about the forward pass, where the weights cannot."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from geomdiag.errors import ArchitectureError

__all__ = ["ACTIVATIONS", "POOL_SETTINGS", "Settings"]

#: What a configuration calls that which the read-out gets of the positions.
POOL_SETTINGS = ("pool", "pooling", "pool_type", "readout")

#: Spellings of each activation, as configurations write them (letters and digits only).
ACTIVATIONS: Mapping[str, tuple[str, ...]] = {
    "relu": ("relu",),
    "gelu": ("gelu",),
    "gelu_tanh": ("gelutanh", "gelunew", "gelufast", "gelupytorchtanh"),
    "silu": ("silu", "swish"),
    "tanh": ("tanh",),
    "quadratic": ("quadratic", "quad", "square", "squared", "x2", "pow2"),
    "identity": ("identity", "linear", "none"),
}


class Settings:
    """Look-up in a nested configuration, by several possible names, whatever their case.

    Parameters
    ----------
    *configs : mapping
        Earlier ones win; inside one, the outer level wins.
    """

    def __init__(self, *configs: Mapping[str, Any] | None) -> None:
        self._values: dict[str, Any] = {}
        self._sections: dict[str, Mapping[str, Any]] = {}
        self._levels: list[Mapping[str, Any]] = []
        for config in configs:
            queue = deque([config or {}])
            while queue:
                level = queue.popleft()
                self._levels.append(level)
                for name, value in level.items():
                    if isinstance(value, Mapping):
                        self._sections.setdefault(str(name).lower(), value)
                        queue.append(value)
                    else:
                        self._values.setdefault(str(name).lower(), value)

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._values

    def get(self, *names: str) -> Any:
        """Return the first of `names` that is set and not None, else None."""
        for name in names:
            value = self._values.get(name.lower())
            if value is not None:
                return value
        return None

    def section(self, name: str) -> Mapping[str, Any]:
        """Return the part of the configuration that is called `name`, empty if there is none."""
        return self._sections.get(name.lower(), {})

    def level_with(self, name: str) -> Mapping[str, Any]:
        """Return the outermost part in which `name` is a setting, empty if there is none."""
        return next((level for level in self._levels if level.get(name) is not None), {})

    def integer(self, *names: str) -> int | None:
        """Return the first of `names` as an int, or None; truth values do not count."""
        value = self.get(*names)
        if value is None or isinstance(value, bool):
            return None
        try:
            number = float(value)
        except (TypeError, ValueError):
            return None
        return int(number) if number.is_integer() else None

    def number(self, *names: str) -> float | None:
        """Return the first of `names` as a float, or None."""
        value = self.get(*names)
        if value is None or isinstance(value, bool):
            return None
        try:
            return float(value)
        except (TypeError, ValueError):
            return None

    def flag(self, *names: str) -> bool | None:
        """Return the first of `names` as a truth value, or None."""
        value = self.get(*names)
        if isinstance(value, str):
            return {
                "true": True,
                "1": True,
                "yes": True,
                "false": False,
                "0": False,
                "no": False,
            }.get(value.strip().lower())
        return None if value is None else bool(value)

    def pre_norm(self) -> bool | None:
        """Return whether blocks normalise what enters a branch (pre-LN), or None if not said."""
        said = self.flag("pre_norm", "prenorm", "norm_first", "pre_ln", "pre_layernorm")
        if said is None and (post := self.flag("post_norm", "postnorm", "post_ln")) is not None:
            said = not post
        return said

    def causal(self) -> bool | None:
        """Return whether a position sees only those before it, or None if it is not said."""
        said = self.flag("causal", "is_causal", "causal_mask")
        if said is None and (word := self.word("attention_dir")) is not None:
            said = word == "causal"
        return said

    def word(self, *names: str) -> str | None:
        """Return the first of `names` as lower-case text, or None."""
        value = self.get(*names)
        return None if value is None else str(value).strip().lower()

    def activation(self, default: str, notices: list[str]) -> str:
        """Return the name of the activation; say in `notices` when it had to be assumed.

        Raises
        ------
        ArchitectureError
            If the configuration names an activation that is not known.
        """
        word = self.word(
            "act_fn",
            "activation",
            "act_type",
            "act",
            "nonlinearity",
            "hidden_act",
            "activation_function",
        )
        if word is None:
            notices.append(
                f"the activation is not in the weights and no configuration names it: {default} "
                "is assumed (say it as 'act_fn' in the run's config.json)"
            )
            return default
        letters = "".join(character for character in word if character.isalnum())
        for name, spellings in ACTIVATIONS.items():
            if letters in spellings:
                return name
        known = ", ".join(ACTIVATIONS)
        raise ArchitectureError(
            f"the configuration names the activation {word!r}, which is not one of {known}. "
            "Give the model yourself with --model package.module:factory."
        )
