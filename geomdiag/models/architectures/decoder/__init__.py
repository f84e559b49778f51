"""Decoder-only transformers: one network with options, and the names it goes by."""
