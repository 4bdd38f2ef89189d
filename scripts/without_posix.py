"""A Python without what only POSIX has, as on Windows: modules that cannot be imported, names that are gone.

    python scripts/without_posix.py -m pytest tests/sim
    python scripts/without_posix.py -m diloco plan ...

Takes them away from this process, for all that it imports, then runs the module. It takes no sockets away,
and `sys.platform` stays what it is: paths, line ends and locked files of a real Windows it does not show.
"""

from __future__ import annotations

import importlib.abc
import os
import runpy
import signal
import sys
import time
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

import filelock  # noqa: F401  (first: on Windows it has a lock that needs no fcntl, and here it has not)

# What filelock, pytest and shutil have found by now is left: O_NONBLOCK, O_NOFOLLOW, fchmod, getuid,
# sendfile, statvfs.
MODULES = frozenset({"crypt", "fcntl", "grp", "nis", "pty", "pwd", "resource", "syslog", "termios", "tty"})
OF_OS = """
O_CLOEXEC O_DIRECTORY O_DSYNC O_NOCTTY O_SYNC WNOWAIT chown chroot confstr ctermid
fchdir fchown fdatasync fork forkpty fpathconf getegid geteuid getgid getgroups getloadavg
getpgid getpgrp getpriority getsid killpg lchown lockf mkfifo mknod nice openpty pathconf posix_fadvise
posix_fallocate pread preadv pwrite pwritev readv sched_getaffinity sched_setaffinity sched_yield
setpgid setpriority setsid setuid sync sysconf sysconf_names tcgetpgrp ttyname writev
"""
OF_SIGNAL = """
SIGALRM SIGCHLD SIGCONT SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGTSTP SIGUSR1 SIGUSR2 alarm getitimer pause
pthread_kill pthread_sigmask setitimer sigpending siginterrupt sigtimedwait sigwait sigwaitinfo
"""
OF_TIME = "clock_getres clock_gettime clock_settime pthread_getcpuclockid tzset"


class _Lacking(importlib.abc.MetaPathFinder):
    """Answers for `MODULES` that there are none."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


def take_away() -> None:
    """From now on they are not there."""
    for name in MODULES:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, _Lacking())
    for module, names in ((os, OF_OS), (signal, OF_SIGNAL), (time, OF_TIME)):
        for name in names.split():
            if hasattr(module, name):
                delattr(module, name)


if __name__ == "__main__":
    if sys.argv[1:2] != ["-m"] or len(sys.argv) < 3:
        sys.exit(f"usage: {sys.argv[0]} -m MODULE [ARGUMENTS]")
    take_away()
    sys.argv = sys.argv[2:]
    sys.path.insert(0, os.getcwd())
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
