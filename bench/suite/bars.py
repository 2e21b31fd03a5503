# SPDX-License-Identifier: Apache-2.0
"""The bars that the project holds itself to, and what was measured against each."""

from . import cases
from .figures import geometric_mean

THREADS = (1, 2)  # what the bars of throughput speak of


def at_most(bar, value, limit, detail="", form="{:.2f}"):
    """(bar, measured, verdict): the verdict is on the figure as shown."""
    if value is None:
        return bar, "not measured", "-"
    shown = form.format(value)
    return bar, shown + detail, "met" if float(shown) <= limit else "**missed**"


def throughput(figures):
    rows, by_mimalloc, by_best = [], [], []
    for threads in THREADS:
        for case in figures.measured("throughput", threads):
            ratio = figures.ratio(case.name, threads, "mimalloc")
            best = figures.to_best(case.name, threads)
            by_mimalloc.append(ratio)
            by_best.append(best)
            who, _ = figures.best(case.name, threads, cases.VOLATILE)
            above = " (above the aim of 1)" if best and round(best, 2) > 1 else ""
            aim = f"; {best:.2f} of the best, {who}{above}" if best else ""
            rows.append(at_most(f"{case.title}, {threads} {'thread' if threads == 1 else 'threads'}: "
                                "at most 1.0 of mimalloc", ratio, 1.0, aim))
    mean = geometric_mean(by_mimalloc)
    rows.append(at_most("geometric mean of these: at most 0.8 of the best of the four (aim)", geometric_mean(by_best),
                        0.8, f"; {mean:.2f} of mimalloc" if mean else ""))
    return rows


def scaling(figures):
    rows = []
    for case in figures.measured("throughput", 2):
        ours, peer = (figures.scaling(case.name, 2, who) for who in ("ours", "mimalloc"))
        if ours is None or peer is None:
            continue
        verdict = "met" if ours >= 1.9 else "mimalloc does not either" if peer < 1.9 else "**missed**"
        rows.append((f"{case.title}: 2 threads reach 1.9 times one thread's throughput where mimalloc does",
                     f"{ours:.2f}; mimalloc {peer:.2f}", verdict))
    return rows


def first_touch(figures):
    place = figures.results["machine"]["heap file on"]
    return [
        at_most(f"list of 5,000,000 nodes on {place}: at most 1.0 of the best file-backed peer",
                figures.to_best("list", 1, cases.FILE_BACKED), 1.0,
                f"; {figures.best('list', 1, cases.FILE_BACKED)[0]} is the best"),
        at_most(f"the same on {place}: at most 1.5 of mimalloc without a file",
                figures.ratio("list", 1, "mimalloc"), 1.5),
    ]


def opening(figures):
    promises = figures.results["promises"]
    rows = []
    for name, what in (("open_empty_us", "without objects"), ("open_full_us", "with 5,000,000 objects")):
        beside = promises[name] - promises["write_us"] if promises else None
        detail = f" us ({promises[name]:.0f} to open, {promises['write_us']:.0f} to write)" if promises else ""
        rows.append(at_most(f"opening {what}: at most 100 us beside one small synchronous write", beside, 100, detail,
                            "{:.0f}"))
    rows.append(at_most("closing after a sync, 5,000,000 objects: at most 10 ms",
                        promises["close_us"] / 1000 if promises else None, 10, " ms", "{:.1f}"))
    return rows


def peak(figures):
    """(case, ratio) with the largest share of mimalloc's peak."""
    found = []
    for case in figures.measured("throughput", 1) + figures.measured("list", 1) + figures.measured("fragment", 1):
        ratio = figures.ratio(case.name, 1, "mimalloc", "peak_kib")
        if ratio:
            found.append((ratio, case.title))
    return max(found) if found else (None, "")


def space(figures):
    ratio, title = peak(figures)
    live = figures.median("fragment", 1, "ours", "live_bytes")
    file = figures.median("fragment", 1, "ours", "file_bytes")
    density = figures.results["promises"].get("list_density")
    counts = figures.results["instructions"]
    ours, target = counts.get("ours", {}), counts.get("fmalloc", {})
    batch = f"; in a batch {ours['malloc'] + ours['free']:.0f}" if ours else ""
    if target:
        batch += f"; by fmalloc and ffree {target['pair']:.0f}, in a batch {target['malloc'] + target['free']:.0f}"
    return [
        at_most("peak resident memory in one thread: at most 1.1 of mimalloc's", ratio, 1.1, f", worst case: {title}"),
        at_most("instructions of a malloc-free pair of one class, each freed before the next: at most 75 (aim 60)",
                ours.get("pair"), 75, batch, "{:.0f}"),
        at_most("fragmentation: at most 1.35 file bytes per live byte (aim 1.25)", file / live if live else None, 1.35),
        at_most("list of 24-byte nodes: at most 1.02 file bytes per live byte", density, 1.02, "", "{:.4f}"),
    ]


def check(figures):
    return throughput(figures) + scaling(figures) + first_touch(figures) + opening(figures) + space(figures)
