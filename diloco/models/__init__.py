"""The built-in model, its text and its inner optimizers."""
