"""Language models of other architectures: run by Hugging Face's ``transformers``, if installed.

What `decoder_transformer` knows it runs itself, without that library. The configuration that
the checkpoint came with builds the model; no code and no file but the weights is taken from the
checkpoint's folder, and nothing is fetched.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomdiag.checkpoints.series import TensorSpec
from geomdiag.errors import ArchitectureError
from geomdiag.models.architectures.decoder.architecture import ARCHITECTURE as DECODER
from geomdiag.models.architectures.decoder.language_model_names import NAMINGS, huggingface_config
from geomdiag.models.architectures.embedding_only import EmbeddingNetwork, token_matrices
from geomdiag.models.embedding_names import named
from geomdiag.models.layout import Sizes, TokenLayout, plan
from geomdiag.models.recognition import Architecture, Match, NearMiss
from geomdiag.models.settings import Settings
from geomdiag.models.snapshot import Network
from geomdiag.models.tensors import read_tensors
from geomdiag.tasks.contract import Task

__all__ = ["ARCHITECTURE", "HuggingFaceNetwork"]

#: Rows at a time.
CHUNK_ROWS = 1024
#: Numbers that a model may hold beside twice its weights: tables of positions, masks.
ROOM = 50_000_000
#: Models that `decoder_transformer` runs; here only where their configuration asks for more.
RUN_HERE = {kind for naming in NAMINGS for kind in naming.model_types}
#: What wrappers put before the names that transformers gave.
WRAPPERS = ("_orig_mod.", "module.")
_EXTRA = (
    "running it needs the package transformers: pip install 'geomdiag[transformers]' (its "
    "embedding is analysed without)"
)
_RECURSIVE = (
    "a recursive model: how often its levels run, and the states that they start from, are in "
    "neither weights nor configuration. Run it yourself with --model package.module:factory"
)


class HuggingFaceNetwork(EmbeddingNetwork):
    """A causal language model, built from its configuration and run by ``transformers``.

    Parameters
    ----------
    tensors : mapping of str to array
        A checkpoint's; read when logits are first asked for.
    config : mapping
        Its configuration, with ``model_type``.
    layout : TokenLayout
        How inputs are shown to it.
    classes : int
        Of the task.
    architecture, roles, matrices
        See `EmbeddingNetwork`.
    near : str
        Why `decoder_transformer` does not run it, where it runs others of its kind.
    """

    def __init__(
        self,
        tensors: Mapping[str, Any],
        config: Mapping[str, Any],
        layout: TokenLayout,
        classes: int,
        *,
        near: str = "",
        **known: Any,
    ) -> None:
        reason = _unrunnable(config)
        super().__init__(reason=f"{near}. {reason}" if near else reason, **known)
        if not reason:
            self.reasons = {
                "differentiable": "a network that transformers runs is not run from embedding "
                "vectors"
            }
        self.classes, self.layout = classes, layout
        self._tensors, self._config = tensors, config
        self._model: Any = None

    def logits(self, inputs: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the logits over the task's classes; see `Network.logits`.

        Raises
        ------
        MissingPartError
            If transformers is not installed or does not know the model.
        ArchitectureError
            If weights and configuration do not fit each other, or the model fails.
        """
        if "logits" in self.reasons:
            return super().logits(inputs)
        if self._model is None:
            self._model = _load(self._config, self._tensors)
        tokens = _sequences(self.layout, inputs)
        parts = []
        with torch.no_grad():
            for rows in torch.split(tokens, CHUNK_ROWS):
                try:
                    output = self._model(input_ids=rows, use_cache=False).logits
                except Exception as error:  # whatever a model's code raises
                    raise ArchitectureError(
                        f"transformers failed to run the {self._config['model_type']} model: "
                        f"{type(error).__name__}: {_first_line(error)}"
                    ) from error
                parts.append(output[:, -1, : self.classes].clone())
        values: NDArray[np.float32] = torch.cat(parts).numpy()
        return values


def _sequences(layout: TokenLayout, inputs: NDArray[np.int64]) -> Tensor:
    """Return the tokens of every input as the model is shown them, (n, positions)."""
    columns = [
        inputs[:, slot.operand] + layout.offsets[slot.operand]
        if slot.operand is not None
        else np.full(len(inputs), slot.token)
        for slot in layout.slots
    ]
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.int64))


def _unrunnable(config: Mapping[str, Any]) -> str:
    """Return why transformers cannot run the model, or an empty string."""
    kind = config["model_type"]
    if find_spec("transformers") is None:
        return f"the configuration says model_type = {kind}; {_EXTRA}"
    if config.get("quantization_config") is not None:
        return f"the configuration says that the {kind} model is quantised; such are not run"
    with _offline():
        try:
            from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, __version__
        except ImportError as error:
            return (
                f"the configuration says model_type = {kind}; the package transformers, which runs "
                f"such models, cannot be imported: {_first_line(error)}"
            )
        known = kind in CONFIG_MAPPING and CONFIG_MAPPING[kind] in MODEL_FOR_CAUSAL_LM_MAPPING
        own = MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[kind]].__name__ if known else ""
    if not known:
        return (
            f"the configuration says model_type = {kind}, which transformers {__version__} does "
            "not know as a causal language model (code beside a checkpoint is never run)"
        )
    classes = config.get("architectures") or [own]
    if own not in classes:
        return (
            f"the configuration says that the {kind} model was saved as {', '.join(classes)}; only "
            f"causal language models ({own}) are run"
        )
    return ""


def _load(config: Mapping[str, Any], tensors: Mapping[str, Any]) -> Any:
    """Build the model and put every tensor in its place, or raise `ArchitectureError`."""
    kind = config["model_type"]
    arrays = {name: np.asarray(tensors[name]) for name in tensors}
    floating = [name for name, array in arrays.items() if array.dtype.kind == "f"]
    state: dict[str, Tensor] = read_tensors(arrays, floating)
    dtype = next((value.dtype for value in state.values()), torch.float32)
    state |= {
        name: torch.from_numpy(array.copy()) for name, array in arrays.items() if name not in state
    }
    # settings that name code, kernels or files elsewhere
    said = {
        name: value
        for name, value in config.items()
        if not name.startswith("_") and name not in ("auto_map", "dtype", "torch_dtype")
    }
    with _offline(), torch.random.fork_rng(devices=[]):
        from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

        try:
            settings = CONFIG_MAPPING[kind].from_dict(said)
            network = MODEL_FOR_CAUSAL_LM_MAPPING[type(settings)]
            _refuse_size(network, settings, state)
            model, info = network.from_pretrained(
                None,
                config=settings,
                state_dict=state,
                dtype=dtype,
                attn_implementation="eager",
                local_files_only=True,
                output_loading_info=True,
            )
        except ArchitectureError:
            raise
        except Exception as error:  # whatever a configuration's or a model's code raises
            raise ArchitectureError(
                f"transformers cannot build the {kind} model from its configuration and weights: "
                f"{type(error).__name__}: {_first_line(error)}"
            ) from error
    for what, names in (
        ("are missing", info["missing_keys"]),
        ("have no place in it", info["unexpected_keys"]),
        ("have another shape than it expects", info["mismatched_keys"]),
    ):
        if names:
            shown = ", ".join(sorted(str(name) for name in names)[:5])
            raise ArchitectureError(
                f"the weights do not fit the {kind} model that the configuration describes: "
                f"{len(names)} tensors {what} ({shown}). Check that it belongs to the checkpoint."
            )
    return model.eval()


def _refuse_size(network: Any, settings: Any, state: Mapping[str, Tensor]) -> None:
    """Raise if the model would be far larger than the weights, before it takes any memory."""
    layers = getattr(settings, "num_hidden_layers", None) or 0
    count = 0
    if layers <= len(state):
        with torch.device("meta"):
            empty = network(settings)
        parts = (*empty.parameters(), *empty.buffers())
        count = sum(part.numel() for part in parts)
    stored = sum(part.numel() for part in state.values())
    if layers > len(state) or count > 2 * stored + ROOM:
        raise ArchitectureError(
            f"the configuration describes a model of type {settings.model_type} with {layers} "
            + (f"layers and {count} numbers" if count else "layers")
            + f", and the checkpoint has {len(state)} tensors with {stored} numbers. Check that it "
            "belongs to the checkpoint."
        )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")[:200]


@contextmanager
def _offline() -> Iterator[None]:
    """Keep transformers from reaching out and from writing to the terminal."""
    before = {name: os.environ.get(name) for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")}
    os.environ.update(dict.fromkeys(before, "1"))
    try:
        from transformers.utils import logging

        level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity(logging.CRITICAL)
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _Architecture(Architecture):
    name = "huggingface"
    title = (
        "language model run by transformers (any causal model_type it knows), and recursive "
        "models, of which the embedding is read"
    )
    last_resort = True

    def match(self, specs: Mapping[str, TensorSpec], settings: Settings) -> Match | NearMiss:
        found, heads = named(specs, "embedding"), named(specs, "unembedding")
        config = huggingface_config(settings)
        recursive = len(found) == 1 and found[0].endswith("embed_tokens.embedding_weight")
        wrapped = all(name.startswith(WRAPPERS) for name in specs)
        if len(found) != 1 or wrapped or not (recursive or config):
            return NearMiss(0, "a language model: no token embedding, or no configuration of one")
        vocabulary, width = specs[found[0]].shape
        roles = {"embed": found[0]}
        classes = vocabulary
        if len(heads) == 1 and specs[heads[0]].shape[1] == width:
            roles["unembed"] = heads[0]
            classes = specs[heads[0]].shape[0]
        elif config.get("tie_word_embeddings") is True:
            roles["unembed"] = found[0]
        sizes = Sizes(vocabulary, classes, sequence=True, language=True)
        nearly = ""
        if config.get("model_type") in RUN_HERE:
            near = DECODER.match(specs, settings)
            if not isinstance(near, NearMiss) or not near.refused:
                return NearMiss(0, f"a {config['model_type']} model, whose tensors do not fit")
            nearly = near.message

        # transformers puts every tensor in its place: which part it plays is not known here
        others = () if recursive else (name for name in specs if name not in roles.values())
        parts = {**roles, **{f"weight_{i}": name for i, name in enumerate(others)}}

        def build(tensors: Mapping[str, NDArray[Any]], task: Task) -> Network:
            layout = plan(task, sizes, settings, [])
            known: dict[str, Any] = {
                "architecture": self.name,
                "roles": parts,
                "matrices": token_matrices(tensors, roles, layout, task.classes),
            }
            if recursive:
                return EmbeddingNetwork(reason=_RECURSIVE, **known)
            return HuggingFaceNetwork(tensors, config, layout, task.classes, near=nearly, **known)

        return Match(
            architecture=self.name,
            convention="recursive model" if recursive else f"Hugging Face {config['model_type']}",
            roles=parts,
            sizes=sizes,
            build=build,
            notices=(f"the network is not run, only its matrices are read: {_RECURSIVE}",)
            if recursive
            else (),
        )


ARCHITECTURE = _Architecture()
