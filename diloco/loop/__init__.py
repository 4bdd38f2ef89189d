"""When a worker offers, waits and applies: decisions without tensors."""
