"""Settings of all tests: hypothesis draws the same examples each time and asserts no duration.

A shell has what it runs in the background ignore Ctrl-C, and all that such a process starts would do so too:
tests send that to the processes that they start. Where two processes share the tests, a file is one's, and
those with processes of their own are all one's: they would be in each other's way. It begins with them.
"""

import signal

import pytest
from hypothesis import settings

settings.register_profile("project", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("project")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

WITH_PROCESSES = "tests/net/"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say which tests stay together, for whoever shares them out."""
    items.sort(key=lambda item: not item.nodeid.startswith(WITH_PROCESSES))
    for item in items:
        file = item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(WITH_PROCESSES if file.startswith(WITH_PROCESSES) else file))
