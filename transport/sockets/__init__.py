"""The real driver, over libzmq."""
