# SPDX-License-Identifier: Apache-2.0
"""The cases of the benchmark of commits, its contestants, and how they are run."""

import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass

from . import machine
from .measure import DISTURBED, OthersLoad

PEERS = ["lmdb", "sqlite", "rocksdb", "pmemobj"]
OURS = ["ours", "ours-declared"]
PACKAGES = {"lmdb": "liblmdb0", "sqlite": "libsqlite3-0", "rocksdb": "librocksdb7.8", "pmemobj": "libpmemobj1"}
BATCHES = (1, 10, 100, 1000, 10000)
TIMEOUT = 1800  # seconds for one process
RECORD = 108


@dataclass(frozen=True)
class Case:
    name: str
    title: str
    options: tuple
    contestants: tuple
    duration: str = "ms"
    gib: int = 0       # of records instead of the records asked for
    named: bool = False  # runs only if it is asked for


CASES = [
    *(Case(f"commit-{n}", f"{n} update{'s' * (n > 1)} a commit", (f"batch={n}",), ("limit", *OURS, *PEERS))
      for n in BATCHES),
    Case("read", "random reads", ("reads=1",), ("ours", *PEERS)),
    Case("minute-1", "a minute without pause, 1 update a commit", ("batch=1",), (*OURS, "limit"), "minute"),
    Case("minute-10000", "a minute without pause, 10000 updates a commit", ("batch=10000",), OURS, "minute"),
    Case("threads-8", "8 threads, 1 update a commit", ("batch=1", "threads=8"), (*OURS, *PEERS)),
    *(Case(f"resident-{gib}-{n}", f"{gib} GiB resident, {n} update{'s' * (n > 1)} a commit", (f"batch={n}",), OURS,
           gib=gib, named=True) for gib in (1, 8) for n in (1, 10)),
]


def select(words):
    """The cases that the words name, by name or its beginning. No words: all that needn't be named."""
    for word in words:
        if not any(case.name.startswith(word) for case in CASES):
            raise SystemExit(f"bench: nothing is called {word}; there are {' '.join(case.name for case in CASES)}")
    names = {case.name for case in CASES}
    return [case for case in CASES if not (words or case.named) or any(
        case.name == word if word in names else case.name.startswith(word) for word in words)]


def packages():
    return {peer: machine.output("dpkg-query", "-W", "-f", "${Version}", package) or "unknown"
            for peer, package in PACKAGES.items()}


class Bench:
    def __init__(self, options):
        self.options = options
        self.folder = options.files or os.path.join(options.build, "bench", "files")
        os.makedirs(self.folder, exist_ok=True)
        self.built = {}

    def program(self, contestant):
        return f"{self.options.build}/bench/commit/{contestant.partition('-')[0]}"

    def has(self, contestant):
        """Whether the program is there, or could be built."""
        program = self.program(contestant)
        if program not in self.built:
            made = subprocess.run(["make", "-s", program], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                  check=False)
            self.built[program] = made.returncode == 0
            if made.returncode:
                print(f"  {program} can't be built: {made.stderr.strip().splitlines()[-1:]}")
        return self.built[program]

    def command(self, case, contestant, folder):
        records = case.gib * 2**30 // RECORD or self.options.records
        if case.gib and self.options.trial:
            records = self.options.records * case.gib
        command = [self.program(contestant), folder, f"records={records}", f"ms={getattr(self.options, case.duration)}",
                   *case.options]
        if contestant == "ours-declared":
            command.append("declared=1")
        return command

    def run_once(self, case, contestant):
        """The figures of one process, or {"error": text}."""
        folder = tempfile.mkdtemp(prefix="commit-", dir=self.folder)
        try:
            done = subprocess.run(self.command(case, contestant, folder), capture_output=True, text=True, timeout=TIMEOUT,
                                  check=False)
        except subprocess.TimeoutExpired:
            return {"error": f"took more than {TIMEOUT} s"}
        finally:
            shutil.rmtree(folder)
            os.sync()  # what one leaves behind is not another's time
        if done.returncode:
            return {"error": done.stderr.strip() or f"ended with status {done.returncode}"}
        return json.loads(done.stdout)

    def run(self, case, contestant):
        """Of those tries that others disturbed the least disturbed one."""
        tries = []
        while len(tries) < self.options.tries:
            others = OthersLoad()
            tries.append(self.run_once(case, contestant))
            tries[-1]["others"] = round(others.share(), 4)
            if "error" in tries[-1] or tries[-1]["others"] <= DISTURBED:
                return tries[-1]
        return min(tries, key=lambda figures: figures["others"])

    def alternate(self, case, rounds):
        """Runs of all contestants, in an order that begins with another one in each round."""
        here = [name for name in case.contestants if self.has(name)]
        runs = []
        for number in range(rounds if case.duration == "ms" else 1):
            start = number % max(len(here), 1)
            for name in here[start:] + here[:start]:
                figures = self.run(case, name)
                runs.append({"case": case.name, "who": name, "round": number, **figures})
                if "error" in figures:
                    print(f"  {case.name} {name}: {figures['error']}")
        return runs
