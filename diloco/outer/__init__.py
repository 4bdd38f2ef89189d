"""Outer parameters, outer optimizers, and a worker's own side of them."""
