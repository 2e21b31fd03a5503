# SPDX-License-Identifier: Apache-2.0
"""Writes docs/performance-commit.md from a results file of bench/commit/run."""

import os
import shutil
import statistics

from . import plots
from .commits import BATCHES, CASES, OURS, PEERS
from .page import number, table

COLOURS = {"limit": "#999999", "ours": "#1f4e79", "ours-declared": "#6fa0d0", "lmdb": "#c0504d", "sqlite": "#e0a030",
           "rocksdb": "#5b9a5b", "pmemobj": "#8064a2"}
WHO = ["limit", *OURS, *PEERS]

INTRODUCTION = """Written by `make bench-commit` from its own results; `bench/commit/run --page` writes it again without
measuring. All figures are of one run on one machine; what carries over to another are the ratios. A ratio is the peer's
time by ours: how many times as fast we are. **Bold** is what we lose.

A store has {records:,} records, keys of 8 bytes and values of 100. A commit sets so many random records to new values,
and is on the device when it returns; all records are read back after each run, the store closed and opened. `limit` is no store but one
synchronous write (RWF_DSYNC) of what a journal record of the commit takes, in a file of the same size. `ours` finds the
written pages itself, `ours-declared` is told of them by `fm_will_write`. Our records are objects found by a hash
table, and those of libpmemobj lie in an array; LMDB, SQLite and RocksDB keep theirs in the order of the keys, which
costs them more and which this load does not use (`examples/kv.c` is an ordered store on our heap). LMDB runs with its
default flags; SQLite in WAL mode with synchronous=FULL; RocksDB with sync=1; libpmemobj on a file, with a transaction a
commit. One process of each after the other makes a round, begun by another each time. Tables show medians."""


class Results:
    def __init__(self, results):
        self.results = results
        self.runs = {}
        for run in results["runs"]:
            self.runs.setdefault((run["case"], run["who"]), []).append(run)

    def values(self, case, who, key="ns"):
        return [run[key] for run in self.runs.get((case, who), []) if key in run]

    def median(self, case, who, key="ns"):
        values = self.values(case, who, key)
        return statistics.median(values) if values else None

    def speed(self, case, who, peer, key="ns"):
        """How many times as fast `who` is as the peer."""
        mine, other = self.median(case, who, key), self.median(case, peer, key)
        return other / mine if mine and other else None

    def is_there(self, case):
        return any((case, who) in self.runs for who in WHO)

    def cell(self, case, who, key="ns"):
        if any("error" in run for run in self.runs.get((case, who), [])):
            return "failed"
        return number(self.median(case, who, key))


def times(value, lost_below=1):
    if value is None:
        return "-"
    return f"**{value:.2f}**" if round(value, 2) < lost_below else f"{value:.2f}"


def plain(value, form="{:.0f}"):
    return "-" if value is None else form.format(value)


def updates(n):
    return f"{n} update{'s' * (n > 1)}"


# ---------------------------------------------------------------- the bars

def at_least(bar, value, limit):
    if value is None:
        return None
    return bar, f"{value:.2f}", "met" if round(value, 2) >= limit else "**missed**"


def at_most(bar, value, limit, form="{:.1f}"):
    if value is None:
        return None
    return bar, form.format(value), "met" if value <= limit else "**missed**"


def commit_bars(figures):
    rows = [
        at_least("1 update a commit: at least 0.80 of the limit", figures.speed("commit-1", "ours", "limit"), 0.80),
        at_least("the same, declared: at least 0.93", figures.speed("commit-1", "ours-declared", "limit"), 0.93),
        at_least("1 update a commit: at least 1.2 times SQLite", figures.speed("commit-1", "ours", "sqlite"), 1.2),
    ]
    for n in BATCHES[1:]:
        case = f"commit-{n}"
        for who, what, lmdb, rocksdb in (("ours", "", 3, 1.25), ("ours-declared", ", declared", 3.5 if n == 10000 else 5, 1.5)):
            rows.append(at_least(f"{updates(n)} a commit{what}: at least {lmdb} times LMDB", figures.speed(case, who, "lmdb"), lmdb))
            rows.append(at_least(f"{updates(n)} a commit{what}: at least {rocksdb} times RocksDB",
                                 figures.speed(case, who, "rocksdb"), rocksdb))
    rows.append(at_least("random reads: at least 8 times LMDB", figures.speed("read", "ours", "lmdb"), 8))
    return rows


def other_bars(figures):
    rows = []
    for gib in (1, 8):
        for n in (1, 10):
            for who, what in (("ours-declared", ", declared"), ("ours", "")):
                small, large = figures.median(f"commit-{n}", who), figures.median(f"resident-{gib}-{n}", who)
                bar = f"{gib} GiB resident, {updates(n)} a commit{what}: of the small heap's commits per second"
                value = small / large if small and large else None
                rows.append(at_least(bar + ", at least 0.7", value, 0.7) if what else at_least(bar + " (no bar)", value, 0))
    for n in (1, 10000):
        for who in OURS:
            median, p99 = (figures.median(f"minute-{n}", who, key) for key in ("median_ns", "p99_ns"))
            rows.append(at_most(f"a minute, {updates(n)} a commit, {who}: 99th percentile within 10 medians",
                                p99 / median if median and p99 else None, 10))
    for who in OURS:
        rows.append(at_most(f"a minute, 10000 updates a commit, {who}: at most 600 bytes written per update",
                            figures.median("minute-10000", who, "device_bytes_per_update"), 600, "{:.0f}"))
        rows.append(at_most(f"flushes a commit, growth and checkpoints apart, {who}: 1",
                            figures.median("commit-1", who, "flushes_per_commit"), 1.0, "{:.4f}"))
        one, eight = figures.median("commit-1", who), figures.median("threads-8", who, "together_ns")
        rows.append(at_least(f"8 threads, {who}: at least 4 times one thread's commits per second",
                             one / eight if one and eight else None, 4))
    return rows


def bars(figures):
    rows = [row for row in commit_bars(figures) + other_bars(figures) if row]
    return rows and table(["bar", "measured", "verdict"], rows)


# ---------------------------------------------------------------- sections: text, or nothing without figures

def about(figures):
    results = figures.results
    facts = [("date", results["date"]), ("commit", results["commit"]), *results["machine"].items()]
    facts.append(("peers", ", ".join(f"{name} {version}" for name, version in results["packages"].items())))
    facts.append(("runs", f"{results['rounds']} of each contestant, alternating; {results['ms']} ms each"))
    facts.append(("load average", " before, ".join(f"{load:.2f}" for load in results["load"]) + " after"))
    others = [run["others"] for run in results["runs"] if "others" in run]
    if others:
        facts.append(("taken by other processes", f"{statistics.median(others):.1%} of the processors in the median run, "
                                                  f"{max(others):.1%} in the worst one"))
    warning = "**A trial of the programs with small sizes: no figures to quote.**\n\n" if results["trial"] else ""
    return warning + table(["", ""], facts)


def commits(figures):
    cases = [f"commit-{n}" for n in BATCHES if figures.is_there(f"commit-{n}")]
    if not cases:
        return ""
    text = "Time of a commit:\n\n" + table(
        ["updates a commit", *WHO], [[case.partition("-")[2], *(figures.cell(case, who) for who in WHO)] for case in cases])
    for who in OURS:
        text += f"\nHow many times as fast is {who}:\n\n" + table(
            ["updates a commit", *(f"limit {peer}".split()[-1] for peer in ("limit", *PEERS))],
            [[case.partition("-")[2], *(times(figures.speed(case, who, peer)) for peer in ("limit", *PEERS))] for case in cases])
    return text + picture(figures, "commits.svg")


def reads(figures):
    who = ["ours", *PEERS]
    return figures.is_there("read") and table(
        ["", *who], [["a read", *(figures.cell("read", one) for one in who)],
                     ["ours is faster, times", *(times(figures.speed("read", "ours", one)) for one in who)]])


def written(figures):
    cases = [case for case in CASES if figures.is_there(case.name) and case.name != "read"]
    rows = [[case.title, *(plain(figures.median(case.name, who, "device_bytes_per_update")) for who in WHO)] for case in cases]
    flushes = [[case.title, *(plain(figures.median(case.name, who, "device_flushes_per_commit"), "{:.2f}") for who in WHO)]
               for case in cases]
    return rows and "Bytes that the device wrote per update, until all was in its place:\n\n" + table(["case", *WHO], rows) \
        + "\nFlushes of the device per commit:\n\n" + table(["case", *WHO], flushes) + picture(figures, "bytes.svg")


def steady(figures):
    rows = []
    for case in CASES:
        for who in WHO:
            if case.duration == "minute" and figures.median(case.name, who):
                cells = [figures.cell(case.name, who, key) for key in ("median_ns", "p99_ns", "longest_ns")]
                size = figures.median(case.name, who, "journal_size")
                rows.append([case.title, who, *cells, plain(size and size / 2**20, "{:.1f} MiB"),
                             *(plain(figures.median(case.name, who, key)) for key in ("checkpoints", "waits"))])
    return rows and table(["case", "", "median", "99th percentile", "longest", "journal at the end", "checkpoints", "waits"], rows)


def threads(figures):
    who = [*OURS, *PEERS]
    return figures.is_there("threads-8") and table(
        ["", *who], [["a commit, all threads together", *(figures.cell("threads-8", one, "together_ns") for one in who)],
                     ["one thread", *(figures.cell("commit-1", one) for one in who)],
                     ["times one thread", *(plain(many, "{:.2f}") for many in
                                            (scaling(figures, one) for one in who))]])


def scaling(figures, who):
    one, many = figures.median("commit-1", who), figures.median("threads-8", who, "together_ns")
    return one / many if one and many else None


def resident(figures):
    rows = [[case.title, *(figures.cell(case.name, who) for who in OURS)]
            for case in CASES if case.gib and figures.is_there(case.name)]
    runs = max((len(figures.values(case.name, who)) for case in CASES if case.gib for who in OURS), default=0)
    return rows and f"{runs} run{'s' * (runs != 1)} each.\n\n" + table(["time of a commit", *OURS], rows)


SECTIONS = [("", about), ("The bars", bars), ("Commits", commits), ("Reads", reads), ("Without pause", steady),
            ("Threads", threads), ("Large heaps", resident), ("What is written", written)]


# ---------------------------------------------------------------- plots

def picture(figures, name):
    return f"\n![{name}](performance/{name})\n" if name in figures.plots else ""


def draw(figures, folder):
    """Draw what there are figures for; returns the files' names."""
    if not shutil.which("gnuplot"):
        print("  plots: gnuplot is missing")
        return []
    os.makedirs(folder, exist_ok=True)
    plots.COLOURS.update(COLOURS)
    drawn = []
    for name, title, key in (("commits", "time of an update by updates a commit, durable (log)", "ns"),
                             ("bytes", "bytes that the device wrote per update (log)", "device_bytes_per_update")):
        rows = []
        for n in BATCHES:
            values = [figures.median(f"commit-{n}", who, key) for who in WHO]
            if any(values):
                rows.append((str(n), [value and (value / n if key == "ns" else value) for value in values]))
        if rows:
            unit = "ns per update" if key == "ns" else "bytes per update"
            drawn.append(plots.bars(f"{folder}/{name}.svg", title, unit, WHO, rows,
                                    "set logscale y\nset yrange [*:*]\nset xtics norotate center\nset xlabel 'updates a commit'\n"))
    return drawn


def write(results, folder):
    """Write performance-commit.md and its plots into the folder; returns the page's path."""
    figures = Results(results)
    os.makedirs(folder, exist_ok=True)
    figures.plots = draw(figures, os.path.join(folder, "performance"))
    path = os.path.join(folder, "performance-commit.md")
    with open(path, "w", encoding="utf-8") as file:
        file.write("# Performance of commits\n\n" + INTRODUCTION.format(records=results["records"]) + "\n")
        for title, section in SECTIONS:
            body = section(figures)
            if body:
                file.write("\n" + (f"## {title}\n\n" if title else "") + body.strip("\n") + "\n")
    return path
