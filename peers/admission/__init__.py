"""Who someone is, and how one gets in."""
