"""The simulated driver, under virtual time."""
