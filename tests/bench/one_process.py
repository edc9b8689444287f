"""Starts one command and says what it took.

    python -I -S one_process.py DESCRIPTOR COMMAND …

writes to the open DESCRIPTOR: exit code, seconds, processor seconds, peak memory in KiB. Linux
counts the memory of the process that starts a command as the command's own, as long as that is
more: so the one that starts it is this small.
"""

import os
import sys
import time

began = time.perf_counter()
child = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(child, 0)
seconds = time.perf_counter() - began
said = (
    f"{os.waitstatus_to_exitcode(status)} {seconds} {usage.ru_utime + usage.ru_stime} "
    f"{usage.ru_maxrss}"
)
os.write(int(sys.argv[1]), said.encode())
