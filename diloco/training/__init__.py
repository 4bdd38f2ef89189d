"""`attach`: the outer loop hooked to a training loop that exists."""
