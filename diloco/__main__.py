"""`python -m diloco`: the same as the `diloco` command."""

from __future__ import annotations

from diloco.cli.app import main

main()
