"""Runs a command that ends when its parent ends: `bound.py PARENT_PID COMMAND ARG...`.

A script of its own and not a `preexec_fn`, which is unsafe in a process with threads. It uses the
standard library only, so that it costs a few milliseconds.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl(2), kept across execve


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before the request was in force
        sys.exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
