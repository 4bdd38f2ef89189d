"""What a simulated run came to: the report, and how it is shown."""
