#!/usr/bin/env python3
"""Runs a command, and says what it took: wall seconds, processor seconds, and most memory of one of its processes in MB.

  benches/measure.py FILE COMMAND...      writes the three numbers to FILE, and ends as the command did
"""
import os
import resource
import subprocess
import sys
import time

began = time.monotonic()
code = subprocess.call(sys.argv[2:], stdin=subprocess.DEVNULL)
wall = time.monotonic() - began
used = resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "w") as out:
    # ru_maxrss is in KiB.
    print(f"{wall:.3f} {used.ru_utime + used.ru_stime:.3f} {used.ru_maxrss * 1024 / 1e6:.0f}", file=out)
sys.exit(code)
