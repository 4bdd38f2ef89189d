"""The simulated world: peers, faults, checkers, and how a seed is run."""
