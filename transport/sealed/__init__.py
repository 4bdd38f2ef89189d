"""Bulk lanes that are sealed by keys of one connection: all that is decided and computed, and no socket."""
