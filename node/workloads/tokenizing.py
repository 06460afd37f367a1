"""Tokenizers of models, each read once in a process.

Reading one holds the interpreter, 0.2 s for `smollm2`: no other thread runs, and an owner's stop waits. So a model
that leaves the memory and comes back finds its tokenizer, which is small beside it, where it was.
"""

from functools import cache

from tokenizers import Tokenizer

from node.models import CachedModel


def tokenizer_of(model: CachedModel) -> Tokenizer:
    """The tokenizer of a model. Whoever sets it up does so the same way each time."""
    return _read(str(model.directory / "tokenizer.json"), model.digest)


@cache
def _read(path: str, digest: str) -> Tokenizer:
    """`digest`: that of the model, which another one in the same place does not share."""
    return Tokenizer.from_file(path)
