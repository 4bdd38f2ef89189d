"""Settings of all tests: hypothesis draws the same examples each time and asserts no duration.

A shell has what it runs in the background ignore Ctrl-C, and all that such a process starts would do so too:
tests send that to the processes that they start.

What takes long and proves little more than what always runs is marked `slow`: `--slow` runs it.
"""

import signal

import pytest
from hypothesis import settings

settings.register_profile("project", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("project")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run also what takes long")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for each in items:
            if each.get_closest_marker("slow") is not None:
                each.add_marker(pytest.mark.skip(reason="takes long: --slow runs it"))
