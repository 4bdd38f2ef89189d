"""Processes of a benchmark that begin with a module imported, and torch with it: a server forks them."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from unittest import mock


def fork_server(module: str) -> ForkServerContext:
    """Makes processes that have imported this module of the folder of scripts. There is one server to a
    process: the first module that is asked for is the one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    # The server looks for modules where a new interpreter does, and not where this one does; where it finds
    # none it says nothing.
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    where = os.pathsep.join([str(Path(__file__).parent), *filter(None, known)])
    with mock.patch.dict(os.environ, PYTHONPATH=where):
        forkserver.ensure_running()
    return context
