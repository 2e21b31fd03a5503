# SPDX-License-Identifier: Apache-2.0
"""The figures of bench/bars.c (opening, closing, density), read from the lines that it prints."""

import re
import shutil
import subprocess
import tempfile

QUESTIONS = ["opening", "closing", "density"]

LINES = {
    "write_us": r"one synchronous write of 512 bytes: (\d+) us",
    "open_empty_us": r"opening +0 objects: writable (\d+) us",
    "open_full_us": r"opening +5000000 objects: writable (\d+) us",
    "read_empty_us": r"opening +0 objects: .* read-only (\d+) us",
    "read_full_us": r"opening +5000000 objects: .* read-only (\d+) us",
    "close_us": r"closing 5000000 objects after a sync \(\d+ us\): (\d+) us",
    "list_density": r"list of 5000000 x 24 bytes: ([\d.]+) file bytes per live byte",
}


def read(text):
    """{name: figure}; a line that is not there is an error."""
    figures = {}
    for name, pattern in LINES.items():
        found = re.search(pattern, text)
        if not found:
            raise SystemExit(f"bench: bars printed no line for {name}")
        figures[name] = float(found.group(1))
    return figures


def measure(bench):
    if not bench.make("bars"):
        return {}
    folder = tempfile.mkdtemp(prefix="bench-", dir=bench.folders["disk"])
    try:
        done = subprocess.run([f"{bench.build}/bench/bars", folder, *QUESTIONS], capture_output=True, text=True,
                              check=True)
    finally:
        shutil.rmtree(folder)
    return read(done.stdout)
