"""Vectors to fewer bytes and back: pure functions and codecs."""
