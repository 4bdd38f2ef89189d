"""The vocabulary of a swarm: messages, events, records. It decides nothing."""
