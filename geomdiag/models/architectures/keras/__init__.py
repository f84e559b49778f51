"""Keras models, run by the graph in their own description."""
