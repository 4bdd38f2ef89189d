"""The command line: flags in, one line of error out."""

from __future__ import annotations

from diloco.cli.app import main

__all__ = ["main"]
