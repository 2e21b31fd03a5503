# SPDX-License-Identifier: Apache-2.0
"""Plots as SVG, by gnuplot."""

import os
import shutil
import subprocess

from . import cases

COLOURS = {"ours": "#1f4e79", "glibc": "#999999", "mimalloc": "#c0504d", "jemalloc": "#e0a030", "tcmalloc": "#5b9a5b"}

HEAD = """set terminal svg noenhanced size 960,420 font 'sans-serif,11' background '#ffffff'
set output '{path}'
set title '{title}'
set style data histograms
set style histogram clustered gap 1
set style fill solid 0.9 noborder
set boxwidth 0.9
set grid ytics lc rgb '#dddddd'
set border 3
set tics nomirror
set xtics rotate by 30 right
set key outside top right
"""


def block(rows):
    """A data block for gnuplot: a label, then numbers or `-`."""
    lines = ["$data << END"]
    for label, values in rows:
        lines.append(f'"{label}" ' + " ".join("-" if value is None else f"{value:.5g}" for value in values))
    return "\n".join([*lines, "END", "set datafile missing '-'", ""])


def series(columns):
    parts = []
    for number, column in enumerate(columns):
        colour = f" lc rgb '{COLOURS.get(column, COLOURS['ours'])}'"
        label = ":xtic(1)" if number == 0 else ""
        parts.append(f"$data using {number + 2}{label} title '{column}'{colour}")
    return "plot " + ", ".join(parts)


def bars(path, title, ylabel, columns, rows, extra=""):
    shown = [number for number in range(len(columns)) if any(values[number] is not None for _, values in rows)]
    columns = [columns[number] for number in shown]
    rows = [(label, [values[number] for number in shown]) for label, values in rows]
    script = HEAD.format(path=path, title=title) + f"set ylabel '{ylabel}'\nset yrange [0:*]\n{extra}" \
        + block(rows) + series(columns) + "\n"
    subprocess.run(["gnuplot"], input=script, text=True, check=True)
    return os.path.basename(path)


def line_at(value):
    return f"set arrow from graph 0, first {value} to graph 1, first {value} nohead lw 2 lc rgb '#333333' front\n"


def ratios(figures, folder, threads):
    rows = [(case.name, [figures.ratio(case.name, threads, peer) for peer in cases.VOLATILE])
            for case in figures.measured("throughput", threads)]
    return rows and bars(f"{folder}/ratios-{threads}.svg",
                         f"time of ours / of the peer, threads: {threads} (below 1: faster; cut off at 16, 1/16)",
                         "ratio (log)", cases.VOLATILE, rows, "set logscale y 2\nset yrange [0.0625:16]\n" + line_at(1))


def scaling(figures, folder):
    columns = ["ours", *cases.VOLATILE]
    rows = [(case.name, [figures.scaling(case.name, 2, who) for who in columns])
            for case in figures.measured("throughput", 2) if 1 in case.threads]
    return rows and bars(f"{folder}/scaling.svg",
                         "throughput of 2 threads / throughput of one (the line: 1.9; cut off at 4)", "times", columns,
                         rows, "set yrange [0:4]\n" + line_at(1.9))


def first_touch(figures, folder):
    case = next(case for case in cases.CASES if case.group == "list")
    rows = [(who, [figures.median("list", 1, who)]) for who in case.contestants if figures.median("list", 1, who)]
    return rows and bars(f"{folder}/list.svg", "list of 5,000,000 nodes, first touch included", "ns per node (log)",
                         ["time"], rows, "set logscale y\nset yrange [5:*]\nunset key\n")


def fragmentation(figures, folder, taken):
    case = next(case for case in cases.CASES if case.group == "fragment")
    rows = [(who, [taken(figures, "fragment", who)]) for who in case.contestants if taken(figures, "fragment", who)]
    return rows and bars(f"{folder}/fragmentation.svg", "bytes taken per live byte after the fragmentation load",
                         "bytes per live byte", ["taken"], rows, "unset key\n")


def draw(figures, folder, taken):
    """Draw what there are figures for; returns the files' names."""
    if not shutil.which("gnuplot"):
        print("  plots: gnuplot is missing")
        return []
    os.makedirs(folder, exist_ok=True)
    drawn = [ratios(figures, folder, threads) for threads in (1, 2)]
    drawn += [scaling(figures, folder), first_touch(figures, folder), fragmentation(figures, folder, taken)]
    return [name for name in drawn if name]
