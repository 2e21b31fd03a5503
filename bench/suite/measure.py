# SPDX-License-Identifier: Apache-2.0
"""Runs the programs: each contestant once a round, the first one another in each round, as whole processes."""

import json
import os
import re
import resource
import shutil
import subprocess
import tempfile
import time

from . import cases

TIMEOUT = 300  # seconds for one process
DISTURBED = 0.05  # share of all processors that others may take: some clock ticks of a run, the kernel's writeback


def libraries():
    """{soname: path} of the shared libraries that the linker knows."""
    listing = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=False).stdout
    found = {}
    for soname, path in re.findall(r"^\s*(\S+) \(.*\) => (\S+)$", listing, re.M):
        found.setdefault(soname, path)
    return found


class OthersLoad:
    """What share of all processors other processes, or the hypervisor, take from now on."""

    def __init__(self):
        self.start = self.now()

    @staticmethod
    def now():
        """(clock, seconds that all processors worked, of it for us and our children)"""
        with open("/proc/stat", encoding="ascii") as file:
            user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
        usages = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return time.monotonic(), busy, sum(usage.ru_utime + usage.ru_stime for usage in usages)

    def share(self):
        clock, busy, own = (after - before for before, after in zip(self.start, self.now()))
        return max(busy - own, 0) / clock / os.cpu_count()


class Bench:
    """Where and how long to measure, and which contestants there are."""

    def __init__(self, build, files, ms, tries, quick):
        self.build, self.ms, self.tries, self.quick = build, ms, tries, quick
        self.folders = {"disk": files or os.path.join(build, "bench", "files")}
        os.makedirs(self.folders["disk"], exist_ok=True)
        if os.path.isdir("/dev/shm") and os.access("/dev/shm", os.W_OK):
            self.folders["tmpfs"] = "/dev/shm"
        self.libraries = libraries()
        self.built = {}

    def make(self, *programs):
        """Build programs of bench/; whether they could be."""
        for program in programs:
            if program not in self.built:
                target = f"{self.build}/bench/{program}"
                made = subprocess.run(["make", "-s", target], stdout=subprocess.DEVNULL,
                                      stderr=subprocess.PIPE, text=True, check=False)
                self.built[program] = made.returncode == 0
                if made.returncode:
                    print(f"  {program} can't be built: {made.stderr.strip().splitlines()[-1:]}")
        return all(self.built[program] for program in programs)

    def has(self, case, contestant):
        """Whether the contestant's program, library and file system are here."""
        variant, library, _, place = cases.variant_of(contestant)
        if place not in self.folders or (library and library not in self.libraries):
            return False
        return self.make(f"{case.program}-{variant}")

    def command(self, case, contestant, threads, folder):
        variant, library, extra, _ = cases.variant_of(contestant)
        options = [*(case.quick if self.quick else ()), *extra, *case.options, f"threads={threads}", f"ms={self.ms}"]
        environment = dict(os.environ)
        environment.pop("LD_PRELOAD", None)
        if library:
            environment["LD_PRELOAD"] = self.libraries[library]
        return [f"{self.build}/bench/{case.program}-{variant}", folder, *options], environment

    def run(self, case, contestant, threads):
        """The figures of one process; of those tries that others disturbed the least disturbed one."""
        tries = []
        while len(tries) < self.tries:
            others = OthersLoad()
            tries.append(self.run_once(case, contestant, threads))
            tries[-1]["others"] = round(others.share(), 4)
            if "error" in tries[-1] or tries[-1]["others"] <= DISTURBED:
                return tries[-1]
        return min(tries, key=lambda figures: figures["others"])

    def run_once(self, case, contestant, threads):
        """The figures of one process, or {"error": text}."""
        place = cases.variant_of(contestant)[3]
        folder = tempfile.mkdtemp(prefix="bench-", dir=self.folders[place])
        try:
            command, environment = self.command(case, contestant, threads, folder)
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT,
                                  check=False)
        except subprocess.TimeoutExpired:
            return {"error": f"took more than {TIMEOUT} s"}
        finally:
            shutil.rmtree(folder)
        if done.returncode or "ld.so" in done.stderr:  # the loader goes on without a library it can't preload
            return {"error": done.stderr.strip() or f"ended with status {done.returncode}"}
        return json.loads(done.stdout)

    def alternate(self, case, threads, rounds):
        """Runs of all contestants, in an order that begins with another one in each round."""
        here = [name for name in case.contestants if self.has(case, name)]
        runs = []
        for number in range(rounds):
            start = number % max(len(here), 1)
            for name in here[start:] + here[:start]:
                figures = self.run(case, name, threads)
                runs.append({"case": case.name, "threads": threads, "who": name, "round": number, **figures})
                if "error" in figures:
                    print(f"  {case.name} {name}: {figures['error']}")
        return runs
