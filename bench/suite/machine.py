# SPDX-License-Identifier: Apache-2.0
"""What the figures were measured on."""

import os
import platform
import re
import subprocess

from . import cases


def output(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def field(text, name, default="unknown"):
    found = re.search(rf"^{name}\s*:\s*(.*)$", text, re.M)
    return found.group(1).strip() if found else default


def file_system(folder):
    return output("findmnt", "-no", "FSTYPE", "-T", folder) or output("stat", "-f", "-c", "%T", folder) or "unknown"


def describe(folder):
    """Processor, memory, kernel, compiler and file system, in words."""
    lscpu = output("lscpu")
    model = f"family {field(lscpu, 'CPU family')}, model {field(lscpu, 'Model')}"
    memory = int(field(open("/proc/meminfo", encoding="ascii").read(), "MemTotal", "0 kB").split()[0])
    system = platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")
    virtual = field(lscpu, "Hypervisor vendor", "")
    return {
        "processor": f"{field(lscpu, 'Model name')} ({model})",
        "cores": f"{os.cpu_count()}" + (f", virtual ({virtual})" if virtual else ""),
        "memory": f"{memory / 2**20:.0f} GiB",
        "kernel": platform.release(),
        "system": system,
        "compiler": output(*(os.environ.get("CC") or "cc").split(), "--version").partition("\n")[0],
        "heap file on": file_system(folder),
    }


def packages():
    """{peer: version} of the Debian packages."""
    versions = {}
    for peer, package in cases.PACKAGES.items():
        versions[peer] = output("dpkg-query", "-W", "-f", "${Version}", package) or "unknown"
    return versions


def commit():
    """The commit, and whether the files are another state than it."""
    name = output("git", "rev-parse", "--short=12", "HEAD") or "unknown"
    sources = ["src", "include", "bench", "Makefile"]
    changed = output("git", "status", "--porcelain", "--untracked-files=no", "--", *sources)
    return name + (" with uncommitted changes" if changed else "")
