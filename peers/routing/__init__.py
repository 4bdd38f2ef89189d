"""Microbatches on their way through the stages of a model."""
