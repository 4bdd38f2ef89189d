"""The member's side of a run, with rounds or with gossip."""
