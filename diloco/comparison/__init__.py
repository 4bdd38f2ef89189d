"""Methods compared at equal tokens."""
