"""Names by which token embeddings and read-outs are recognised, whatever the network is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from geomdiag.checkpoints.series import TensorSpec

__all__ = ["EMBEDDING_NAMES", "GENERIC_NAMES", "LEAVES", "UNEMBEDDING_NAMES", "known_axis", "named"]

#: Modules (or arrays) that are token embeddings wherever they occur, in lower case.
EMBEDDING_NAMES = (
    "wte",
    "embed_tokens",
    "embed_in",
    "embed_token",
    "word_embeddings",
    "word_embedding",
    "tok_embeddings",
    "tok_embedding",
    "tok_embed",
    "tok_emb",
    "token_embeddings",
    "token_embedding",
    "token_embed",
    "token_embd",
    "token_emb",
    "w_e",
)
#: Those that are one where no name of the first list occurs.
GENERIC_NAMES = ("embeddings", "embedding", "embed", "emb", "embed_0", "shared")
#: Read-outs over the vocabulary.
UNEMBEDDING_NAMES = ("lm_head", "embed_out", "unembedding", "unembed", "w_u")
#: What a layer calls its one matrix → the axis along which tokens lie in it.
LEAVES: Mapping[str, int] = {
    "weight": 0,
    "embedding": 0,
    "embeddings": 0,
    "embedding_weight": 0,
    "vars.0": 0,
    "kernel": 1,
    "w_u": 1,
}


def named(specs: Mapping[str, TensorSpec], part: str) -> list[str]:
    """Return the matrices whose names say that they are the part.

    Parameters
    ----------
    specs : mapping of str to TensorSpec
        A checkpoint's tensors.
    part : {"embedding", "unembedding"}
        What is looked for.

    Returns
    -------
    list of str
        In stored order; more than one if the names leave it open.
    """
    tiers = {
        "embedding": (EMBEDDING_NAMES, GENERIC_NAMES),
        "unembedding": (UNEMBEDDING_NAMES,),
    }[part]
    for known in tiers:
        found = [
            name
            for name, spec in specs.items()
            if len(spec.shape) == 2 and any(stem in known for stem in _stems(name))
        ]
        if found:
            return found
    return []


def _stems(name: str) -> Iterator[str]:
    """Yield what a tensor's name says it belongs to: its last part, and that before a leaf."""
    lowered = name.lower().replace("/", ".")
    yield lowered.rsplit(".", 1)[-1]
    for leaf in LEAVES:
        if lowered.endswith(f".{leaf}"):
            yield lowered.removesuffix(f".{leaf}").rsplit(".", 1)[-1]


def known_axis(name: str) -> int | None:
    """Return the axis along which tokens lie as frameworks name their layers, or None.

    Parameters
    ----------
    name : str
        A tensor that `named` finds; of another one nothing is known.
    """
    lowered, stems = name.lower().replace("/", "."), set(_stems(name))
    read_out = not stems.isdisjoint(UNEMBEDDING_NAMES)
    if not read_out and stems.isdisjoint((*EMBEDDING_NAMES, *GENERIC_NAMES)):
        return None
    if lowered.endswith(".kernel") and not read_out:  # (in, out): of one-hot vectors
        return 0
    return next(
        (axis for leaf, axis in LEAVES.items() if f".{lowered}".endswith(f".{leaf}")),
        None if lowered.rsplit(".", 1)[-1] == "w_e" else 0,
    )
