"""Files that outlive a process: the shared state, results since then, and what is a worker's own."""
