# SPDX-License-Identifier: Apache-2.0
"""What is measured: cases (a program with options), and contestants (whom it is measured with)."""

from dataclasses import dataclass

VOLATILE = ["glibc", "mimalloc", "jemalloc", "tcmalloc"]
FILE_BACKED = ["pmemobj", "boost", "memkind"]

# The variant of the program (bench/support/heap.h), and the library that is preloaded to it.
VARIANTS = {
    "ours": ("ours", None),
    "fmalloc": ("target", None),
    "glibc": ("malloc", None),
    "mimalloc": ("malloc", "libmimalloc.so.2"),
    "jemalloc": ("malloc", "libjemalloc.so.2"),
    "tcmalloc": ("malloc", "libtcmalloc_minimal.so.4"),
    "pmemobj": ("pmemobj", None),
    "boost": ("boost", None),
    "memkind": ("memkind", None),
}

PACKAGES = {
    "glibc": "libc6", "mimalloc": "libmimalloc2.0", "jemalloc": "libjemalloc2", "tcmalloc": "libtcmalloc-minimal4",
    "pmemobj": "libpmemobj1", "boost": "libboost-dev", "memkind": "libmemkind0",
}

LINKS = {"raw": 0, "C offset": 1, "self-relative": 2, "fm_ptr(T)": 3, "fm_ptr<T>": 4}


@dataclass(frozen=True)
class Case:
    name: str
    title: str
    program: str
    options: tuple = ()
    threads: tuple = (1,)
    contestants: tuple = ("ours", *VOLATILE)
    group: str = "throughput"
    quick: tuple = ()  # options of a trial run, taken before the others


def on_both(names):
    """On the disk's file system and, as NAME@tmpfs, on tmpfs."""
    return tuple(name + place for name in names for place in ("", "@tmpfs"))


# fmalloc and ffree beside fm_malloc and fm_free, where the difference between the two shows
WITH_TARGET = ("ours", "fmalloc", *VOLATILE)

CASES = [
    Case("batch-16", "batch of 16 bytes", "batch", ("size=16",), (1, 2, 4)),
    Case("batch-64", "batch of 64 bytes", "batch", ("size=64",), (1, 2, 4), WITH_TARGET),
    Case("batch-256", "batch of 256 bytes", "batch", ("size=256",), (1, 2, 4)),
    Case("batch-1024", "batch of 1024 bytes", "batch", ("size=1024",), (1, 2, 4)),
    Case("batch-64-long", "batch of 64 bytes, 100,000", "batch", ("size=64", "count=100000"), (1, 2, 4),
         quick=("count=2000",)),
    Case("mixed-1000", "mixed sizes, 1,000 live", "mixed", ("live=1000",), (1, 2, 4), WITH_TARGET),
    Case("mixed-100000", "mixed sizes, 100,000 live", "mixed", ("live=100000",), (1, 2, 4),
         quick=("live=5000",)),
    Case("larson", "larson", "larson", (), (1, 2, 4), quick=("replace=1000",)),
    Case("prodcon", "producer-consumer", "prodcon", (), (2, 4)),
    Case("exchange", "exchange", "exchange", (), (1, 2, 4)),
    Case("large", "64 KiB..4 MiB, pages written", "large", (), (1, 2, 4), quick=("live=2",)),
    Case("large-untouched", "64 KiB..4 MiB, 8 bytes written", "large", ("stride=0",), (1, 2, 4),
         quick=("live=2",)),
    Case("realloc", "realloc to 64 KiB", "growth", (), (1, 2, 4)),
    Case("realloc-large", "realloc from 64 KiB to 16 MiB", "growth", ("from=65536", "to=16777216"), (1, 2, 4),
         quick=("to=262144",)),
    Case("churn", "thread churn", "churn", (), (1, 2, 4)),
    Case("mixed-file", "mixed sizes, 1,000 live", "mixed", ("live=1000",), (1, 2),
         ("ours", *FILE_BACKED), "file"),
    Case("list", "list of 5,000,000 x 24 bytes", "list", (), (1,),
         on_both(["ours", *FILE_BACKED]) + tuple(VOLATILE), "list", quick=("count=20000",)),
    Case("fragment", "fragmentation", "fragment", (), (1,),
         ("ours", *FILE_BACKED, *VOLATILE), "fragment", quick=("count=20000",)),
    Case("opening", "opening with 5,000,000 objects", "opening", (), (1,),
         ("ours", "pmemobj", "boost"), "opening", quick=("count=1000", "times=3")),
    Case("opening-empty", "opening without objects", "opening", ("count=0",), (1,),
         ("ours", "pmemobj", "boost"), "opening", quick=("times=3",)),
    Case("links", "1,000 nodes, in order", "traverse", ("count=1000",), (1,), tuple(LINKS), "links"),
    Case("links-shuffled", "1,000,000 nodes, shuffled", "traverse", ("count=1000000", "shuffle=1"), (1,),
         tuple(LINKS), "links", quick=("count=1000",)),
]

# Names that select something else than a case.
OTHERS = ["instructions", "promises"]


def select(words):
    """The cases, and the others, that the words name: a name or its beginning. No words: all."""
    known = [case.name for case in CASES] + OTHERS
    for word in words:
        if not any(name.startswith(word) for name in known):
            raise SystemExit(f"bench: nothing is called {word}; there are {' '.join(known)}")
    chosen = {name for name in known if not words or any(name.startswith(word) for word in words)}
    return [case for case in CASES if case.name in chosen], [name for name in OTHERS if name in chosen]


def variant_of(contestant):
    """(variant, library to preload, options, place) of a contestant."""
    if contestant in LINKS:
        return "ours", None, (f"kind={LINKS[contestant]}",), "disk"
    name, _, place = contestant.partition("@")
    variant, library = VARIANTS[name]
    return variant, library, (), place or "disk"
