"""Mutants: the cores changed in one place at a time, each run against the tests that cover its line."""
