"""Swarms in one process under virtual time: the cores that run for real, on a simulated network."""
