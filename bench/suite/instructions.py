# SPDX-License-Identifier: Apache-2.0
"""Instructions of the fast paths, counted by callgrind: the same at every run, whatever else the machine does."""

import re
import shutil
import subprocess
import tempfile

from . import cases

LOOP, MALLOC, BOTH, PAIR = range(4)  # count.c's kinds
CONTESTANTS = ["ours", "fmalloc", *cases.VOLATILE]


def collected(bench, contestant, kind, n):
    """Instructions of one process."""
    case = cases.Case("count", "", "count", (f"kind={kind}", f"n={n}"))
    folder = tempfile.mkdtemp(prefix="bench-", dir=bench.folders["disk"])
    try:
        command, environment = bench.command(case, contestant, 1, folder)
        output = subprocess.run(["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", *command],
                                env=environment, capture_output=True, text=True, check=False).stderr
    finally:
        shutil.rmtree(folder)
    found = re.search(r"Collected : (\d+)", output)
    return int(found.group(1)) if found else None


def each(bench, contestant, kind, n):
    """Instructions of one turn of the loop."""
    short, long = (collected(bench, contestant, kind, length) for length in (n, 2 * n))
    return None if short is None or long is None else (long - short) / n


def count(bench, n):
    """{contestant: {"loop", "malloc", "free", "pair"}}; {} without valgrind."""
    counts = {}
    if not shutil.which("valgrind"):
        print("  instructions: valgrind is missing")
        return counts
    case = cases.Case("count", "", "count")
    for contestant in CONTESTANTS:
        if not bench.has(case, contestant):
            continue
        loop, malloc, both, pair = (each(bench, contestant, kind, n) for kind in (LOOP, MALLOC, BOTH, PAIR))
        if None in (loop, malloc, both, pair):
            print(f"  instructions: {contestant} does not run under valgrind")
            continue
        counts[contestant] = {"loop": loop, "malloc": malloc - loop, "free": both - malloc, "pair": pair - loop}
    return counts
