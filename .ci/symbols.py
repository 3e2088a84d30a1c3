"""Checks that an instruction set's objects define no symbol outside of its namespace: symbols.py BUILD_FOLDER

A function that two objects define is linked once, from either: outside of `qmk::avx512` a processor without AVX-512
could get the form for it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

FEWEST_OBJECTS = 10  # for each instruction set: the build was elsewhere

build = Path(sys.argv[1])
for isa in ("baseline", "avx2", "avx512"):
    objects = sorted((build / "CMakeFiles" / f"qmk_cpu_{isa}.dir").rglob("*.o"))
    if len(objects) < FEWEST_OBJECTS:
        sys.exit(f"{build} has {len(objects)} objects for {isa}.")
    command = ["nm", "-C", "--defined-only", *map(str, objects)]
    symbols = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    shared = [line for line in symbols if re.match(r"^\S*\s+[A-Zu-w]\s", line)]
    # The one exception is a pointer to the C++ runtime's exception handler, the same in every object.
    outside = [line for line in shared if f"qmk::{isa}::" not in line and "DW.ref." not in line]
    if outside or not shared:
        sys.exit("\n".join([f"{isa} defines symbols outside of its namespace:", *outside]))
    print(f"{isa}: {len(shared)} symbols of {len(objects)} objects are in its namespace")
