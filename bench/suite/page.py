# SPDX-License-Identifier: Apache-2.0
"""Writes the page from a results file."""

import os
import re
import statistics

from . import bars, cases, plots
from .figures import Figures, geometric_mean

THREADS = (1, 2, 4)


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


UNITS = (("s", 1e9), ("ms", 1e6), ("us", 1e3), ("ns", 1))


def scaled(value, size):
    """Three figures."""
    value /= size
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def unit_of(value):
    return next((unit for unit in UNITS if value >= unit[1]), UNITS[-1])


def number(value):
    """Nanoseconds in the unit that suits."""
    if value is None:
        return "-"
    unit, size = unit_of(value)
    return f"{scaled(value, size)} {unit}"


def ratio(value):
    """Lost cases are bold."""
    if value is None:
        return "-"
    text = f"{value:.2f}"
    return f"**{text}**" if float(text) > 1 else text


def spread(figures, case, threads, who, key="ns"):
    if figures.has_failed(case, threads, who):
        return "failed"
    values = figures.values(case, threads, who, key)
    if not values:
        return "-"
    median = figures.median(case, threads, who, key)
    size = unit_of(median)[1]
    return f"{number(median)} ({scaled(min(values), size)}..{scaled(max(values), size)})"


def taken(figures, case, who):
    """Bytes taken per live byte: of the file where it grows with its content, else resident."""
    live = figures.median(case, 1, who, "live_bytes")
    used = figures.median(case, 1, who, "file_bytes") or figures.median(case, 1, who, "resident_bytes")
    return used / live if live and used else None


def present(figures, case):
    return [who for who in case.contestants if (case.name, 1, who) in figures.runs]


# ---------------------------------------------------------------- sections: text, or "" without figures

def about(figures):
    results = figures.results
    facts = [("date", results["date"]), ("commit", results["commit"]), *results["machine"].items()]
    facts.append(("peers", ", ".join(f"{name} {version}" for name, version in results["packages"].items())))
    facts.append(("runs", f"{results['rounds']} of each contestant, alternating; {results['ms']} ms each where the "
                          "work has no end of its own"))
    others = [run["others"] for run in results["runs"] if "others" in run]
    if others:
        again = f"; a disturbed run is made up to {results['tries']} times" if results["tries"] > 1 else ""
        facts.append(("taken by other processes",
                      f"{statistics.median(others):.1%} of the processors in the median run, "
                      f"{max(others):.1%} in the worst one{again}"))
    facts.append(("load average", " before, ".join(f"{load:.2f}" for load in results["load"]) + " after"))
    warning = ""
    if results.get("quick"):
        warning = "**A trial of the programs with small sizes: no figures to quote.**\n\n"
    elif others and statistics.median(others) > 0.05:
        warning = "**The machine was not quiet: other processes took part in most runs. Wall times, those of several " \
            "threads above all, are theirs, too; instructions, memory and space are not affected.**\n\n"
    return warning + table(["", ""], facts)


def bar_table(figures):
    return table(["bar", "measured", "verdict"], bars.check(figures))


def ratio_row(figures, case, threads):
    best, _ = figures.best(case.name, threads, cases.VOLATILE)
    cells = [ratio(figures.ratio(case.name, threads, peer)) for peer in cases.VOLATILE]
    return [case.title, number(figures.median(case.name, threads, "ours")), *cells,
            f"{ratio(figures.to_best(case.name, threads))} {best or ''}",
            ratio(figures.ratio(case.name, threads, "mimalloc", "cpu_ns"))]


def mean_row(figures, measured, threads):
    means = [geometric_mean([figures.ratio(case.name, threads, peer) for case in measured]) for peer in cases.VOLATILE]
    best = geometric_mean([figures.to_best(case.name, threads) for case in measured])
    cpu = geometric_mean([figures.ratio(case.name, threads, "mimalloc", "cpu_ns") for case in measured])
    return ["geometric mean", "", *map(ratio, means), ratio(best), ratio(cpu)]


def throughput(figures):
    text = ""
    for threads in THREADS:
        measured = figures.measured("throughput", threads)
        if not measured:
            continue
        text += f"\n### Threads: {threads}\n\n"
        head = ["case", "ours", *(f"/ {peer}" for peer in cases.VOLATILE), "/ the best", "CPU time / mimalloc"]
        rows = [ratio_row(figures, case, threads) for case in measured]
        text += table(head, [*rows, mean_row(figures, measured, threads)])
        if f"ratios-{threads}.svg" in figures.plots:
            text += f"\n![ratios](performance/ratios-{threads}.svg)\n"
        names = ["ours", *cases.VOLATILE]
        text += "\nMedians (least..largest), wall time:\n\n" + table(
            ["case", *names],
            [[case.title, *(spread(figures, case.name, threads, who) for who in names)] for case in measured])
    return text


def target(figures):
    rows = []
    for case in cases.CASES:
        for threads in case.threads:
            if figures.median(case.name, threads, "fmalloc") and figures.median(case.name, threads, "ours"):
                rows.append([case.title, str(threads), number(figures.median(case.name, threads, "ours")),
                             number(figures.median(case.name, threads, "fmalloc")),
                             ratio(figures.ratio(case.name, threads, "mimalloc", ours="fmalloc")),
                             ratio(figures.ratio(case.name, threads, "fmalloc"))])
    return rows and table(["case", "threads", "fm_malloc, fm_free", "fmalloc, ffree", "fmalloc / mimalloc",
                           "fm_malloc / fmalloc"], rows)


def scaling(figures):
    names = ["ours", *cases.VOLATILE]
    rows = []
    for case in figures.measured("throughput", 2):
        if 1 not in case.threads:
            continue
        for threads in (2, 4):
            values = [figures.scaling(case.name, threads, who) for who in names]
            if values[0] is not None:
                rows.append([case.title, str(threads), *("-" if value is None else f"{value:.2f}" for value in values)])
    plot = "\n![scaling](performance/scaling.svg)\n" if "scaling.svg" in figures.plots else ""
    return rows and table(["case", "threads", *names], rows) + plot


def file_backed(figures):
    rows = []
    for threads in THREADS:
        for case in figures.measured("file", threads):
            spreads = [spread(figures, case.name, threads, who) for who in case.contestants]
            ratios = [ratio(figures.ratio(case.name, threads, who)) for who in cases.FILE_BACKED]
            rows.append([case.title, str(threads), *spreads, *ratios])
    by = [f"/ {who}" for who in cases.FILE_BACKED]
    return rows and table(["case", "threads", "ours", *cases.FILE_BACKED, *by], rows)


def first_touch(figures):
    rows = []
    for case in figures.measured("list", 1):
        for who in present(figures, case):
            mine = "ours@tmpfs" if who.endswith("@tmpfs") else "ours"
            bytes_taken = taken(figures, case.name, who)
            rows.append([who, spread(figures, case.name, 1, who), ratio(figures.ratio(case.name, 1, who, ours=mine)),
                         f"{bytes_taken:.3f}" if bytes_taken else "-"])
    plot = "\n![list](performance/list.svg)\n" if "list.svg" in figures.plots else ""
    return rows and table(["who", "time of a node", "ours / it, on the same file system",
                           "bytes taken per live byte"], rows) + plot


def fragmentation(figures):
    rows = []
    for case in figures.measured("fragment", 1):
        for who in case.contestants:
            value = taken(figures, case.name, who)
            if value:
                of = "file" if figures.median(case.name, 1, who, "file_bytes") else "resident memory"
                mine = taken(figures, case.name, "ours")
                rows.append([who, f"{value:.2f}", of, ratio(mine / value if mine else None)])
    plot = "\n![fragmentation](performance/fragmentation.svg)\n" if "fragmentation.svg" in figures.plots else ""
    return rows and table(["who", "bytes per live byte", "of", "ours / it"], rows) + plot


def peak(figures):
    rows = []
    for case in [case for group in ("throughput", "list", "fragment") for case in figures.measured(group, 1)]:
        mine = figures.median(case.name, 1, "ours", "peak_kib")
        if mine:
            rows.append([case.title, f"{mine / 1024:.1f} MiB",
                         *(ratio(figures.ratio(case.name, 1, peer, "peak_kib")) for peer in cases.VOLATILE)])
    return rows and table(["case, one thread", "ours", *(f"/ {peer}" for peer in cases.VOLATILE)], rows)


def opening(figures):
    rows = []
    for case in figures.measured("opening", 1):
        for who in present(figures, case):
            times = [spread(figures, case.name, 1, who, key) for key in ("ns", "close_ns", "first_close_ns")]
            rows.append([case.title, who, *times])
    text = rows and table(["case", "who", "open", "close", "close after making them"], rows)
    found = figures.results["promises"]
    if found:
        text = (text or "") + "\nOur heap beside what the device takes (`make bars`): one synchronous write of 512 " \
            f"bytes takes {found['write_us']:.0f} us; opening for writing {found['open_empty_us']:.0f} us without " \
            f"objects and {found['open_full_us']:.0f} us with 5,000,000, for reading {found['read_empty_us']:.0f} and " \
            f"{found['read_full_us']:.0f} us; closing after a sync {found['close_us'] / 1000:.1f} ms.\n"
    return text


def links(figures):
    rows = []
    for case in figures.measured("links", 1):
        for who in present(figures, case):
            value = figures.ratio(case.name, 1, "raw", ours=who)
            rows.append([case.title, f"`{who}`", spread(figures, case.name, 1, who),
                         "-" if value is None else f"{value:.2f}"])
    return rows and table(["list", "link", "time of a node", "/ raw pointers"], rows)


def instructions(figures):
    counts = figures.results["instructions"]
    rows = [[who, *(f"{found[key]:.1f}" for key in ("malloc", "free", "pair"))] for who, found in counts.items()]
    if not rows:
        return ""
    loops = ", ".join(f"{found['loop']:.0f} ({who})" for who, found in counts.items())
    return table(["who", "malloc", "free", "malloc-free pair"], rows) + f"\nThe loop alone, taken off above: {loops}.\n"


# ---------------------------------------------------------------- what the programs do, from their own words

def markdown_of(lines):
    """The indented lines of a comment become a list."""
    text, was_item = [], False
    for line in lines:
        is_item = line.startswith("  ")
        if is_item != was_item:
            text.append("")
        text.append(f"- {line.strip()}" if is_item else line)
        was_item = is_item
    return "\n".join(text).strip()


def program_texts():
    """[(program, text of its first comment)]"""
    texts = []
    for program in dict.fromkeys([case.program for case in cases.CASES] + ["count"]):
        with open(f"bench/{program}.c", encoding="utf-8") as file:
            comment = re.search(r"/\* SPDX.*?\n \*\n(.*?) \*/", file.read(), re.S).group(1)
        lines = [re.sub(r"^ \* ?", "", line) for line in comment.splitlines()]
        texts.append((program, markdown_of(lines)))
    return texts


def programs(_):
    return "\n\n".join(f"**bench/{program}.c.** {text}" for program, text in program_texts()) + "\n"


SECTIONS = [
    ("", "about", about),
    ("The bars", "bars", bar_table),
    ("Throughput, against volatile mallocs", "throughput", throughput),
    ("By the original's names", "target", target),
    ("More threads", "scaling", scaling),
    ("Throughput, against file-backed heaps", "file", file_backed),
    ("First touch", "list", first_touch),
    ("Fragmentation", "fragment", fragmentation),
    ("Peak resident memory", "peak", peak),
    ("Opening and closing", "opening", opening),
    ("Links", "links", links),
    ("Instructions", "instructions", instructions),
    ("What each program does", "programs", programs),
]


def write(results, folder):
    """Write performance.md and its plots into the folder; returns the page's path."""
    figures = Figures(results)
    os.makedirs(folder, exist_ok=True)
    figures.plots = plots.draw(figures, os.path.join(folder, "performance"), taken)
    with open("bench/suite/page.txt", encoding="utf-8") as file:
        texts = dict(re.findall(r"^\[(\w+)\]\n(.*?)\n*(?=^\[|\Z)", file.read(), re.M | re.S))
    path = os.path.join(folder, "performance.md")
    with open(path, "w", encoding="utf-8") as file:
        file.write("# Performance\n")
        for title, name, section in SECTIONS:
            body = section(figures)
            if body:
                parts = [f"## {title}" if title else "", texts.get(name, ""), body.strip("\n")]
                file.write("\n" + "\n\n".join(part for part in parts if part) + "\n")
    return path
