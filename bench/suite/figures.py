# SPDX-License-Identifier: Apache-2.0
"""Medians, ratios and means of a results file."""

import math
import statistics

from . import cases


class Figures:
    def __init__(self, results):
        self.results = results
        self.runs = {}
        for run in results["runs"]:
            self.runs.setdefault((run["case"], run["threads"], run["who"]), []).append(run)

    def values(self, case, threads, who, key="ns"):
        return [run[key] for run in self.runs.get((case, threads, who), []) if key in run]

    def median(self, case, threads, who, key="ns"):
        values = self.values(case, threads, who, key)
        return statistics.median(values) if values else None

    def has_failed(self, case, threads, who):
        return any("error" in run for run in self.runs.get((case, threads, who), []))

    def ratio(self, case, threads, peer, key="ns", ours="ours"):
        """Ours by the peer's: below 1 is faster, or smaller."""
        mine, other = self.median(case, threads, ours, key), self.median(case, threads, peer, key)
        return mine / other if mine is not None and other else None

    def best(self, case, threads, peers, key="ns"):
        """(the peer with the least median, its median)"""
        medians = [(self.median(case, threads, peer, key), peer) for peer in peers]
        medians = [(value, peer) for value, peer in medians if value]
        return min(medians)[::-1] if medians else (None, None)

    def to_best(self, case, threads, peers=None, key="ns"):
        mine = self.median(case, threads, "ours", key)
        _, least = self.best(case, threads, peers or cases.VOLATILE, key)
        return mine / least if mine is not None and least else None

    def scaling(self, case, threads, who):
        """Throughput of `threads` by that of one."""
        one, many = self.median(case, 1, who), self.median(case, threads, who)
        return one / many if one and many else None

    def measured(self, group, threads):
        """The cases of the group with runs of ours, or of anybody, at so many threads."""
        return [case for case in cases.CASES if case.group == group and threads in case.threads
                and any((case.name, threads, who) in self.runs for who in case.contestants)]


def geometric_mean(values):
    values = [value for value in values if value]
    return math.exp(statistics.fmean(map(math.log, values))) if values else None
