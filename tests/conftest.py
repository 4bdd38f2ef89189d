"""Settings of all tests: hypothesis draws the same examples each time and asserts no duration.

A shell has what it runs in the background ignore Ctrl-C, and all that such a process starts would do so too:
tests send that to the processes that they start.
"""

import signal

from hypothesis import settings

settings.register_profile("project", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("project")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
