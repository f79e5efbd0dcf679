"""Runs a Python program whose wall clock is wrong: `shifted_clock.py SECONDS PROGRAM [ARGUMENT...]`."""

from __future__ import annotations

import runpy
import sys
import time

if __name__ == "__main__":
    shift, right = float(sys.argv[1]), time.time
    time.time = lambda: right() + shift
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")
