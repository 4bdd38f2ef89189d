"""Peers of a simulated swarm that mean harm: each role twists what a production node says."""
