"""One peer: streams that arrive exactly once over reconnects, credit, sessions."""
