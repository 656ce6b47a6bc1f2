"""Runs a program, and takes note of the end of whatever it leaves behind: ``reaper.py COMMAND …``.

Libvirt waits until a guest's process is gone. The guest is no child of the daemon, so the machine's first process has
to take note of its end, and where that is no init system it may do so seconds later.
"""

import ctypes
import os
import subprocess
import sys

# linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    """Print the program's pid, and stay for as long as there are descendants."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    program = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *sys.argv[1:]], stdout=subprocess.DEVNULL)
    os.write(1, f"{program.pid}\n".encode())
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


if __name__ == "__main__":
    main()
