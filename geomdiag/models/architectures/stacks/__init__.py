"""Transformers in other arrangements: stacks of blocks told from names or a Flax tree."""
