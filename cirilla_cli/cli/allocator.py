"""How the process asks the system for memory while it trains.

What stays to the end lies in blocks of its own; what comes and goes with each step lies on the heap, which keeps it. A
cache that glibc has for each thread holds small pieces between large freed ones, which then never become one hole;
only the environment can turn it off, before the process begins.
"""

import ctypes
import os
import platform
import sys
from collections.abc import Mapping, Sequence

UNCACHED = "glibc.malloc.tcache_count=0"
"""Setting of glibc's that turns the cache of each thread off."""

LARGE = 1 << 20
"""Bytes from which on a block is a mapping of its own, until the first step is done."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
"""Parameters of glibc's mallopt(3)."""

_TRAINING = {"pretrain", "sft", "dpo"}


def without_cache(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that trains; what it says of the cache already stays."""
    said = environment.get("GLIBC_TUNABLES", "")
    wanted = said if "tcache_count" in said else ":".join(part for part in (said, UNCACHED) if part)
    return {**environment, "GLIBC_TUNABLES": wanted}


def begin_again(words: Sequence[str], environment: Mapping[str, str]) -> None:
    """Start this program once more, in this process, where a call trains and its environment leaves the cache on."""
    wanted = without_cache(environment)
    is_glibc = "CS_GNU_LIBC_VERSION" in os.confstr_names if sys.platform == "linux" else False
    trains = bool(words) and words[0] in _TRAINING and not {"--help", "-h"} & set(words)
    if trains and is_glibc and wanted["GLIBC_TUNABLES"] != environment.get("GLIBC_TUNABLES"):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)


def map_large_blocks() -> bool:
    """Have glibc give each large block a mapping of its own, for what stays to the end; whether this is glibc.

    `keep_freed_memory` ends that.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_MMAP_THRESHOLD, LARGE)) and bool(libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1))


def keep_freed_memory() -> bool:
    """Have glibc keep what is freed for the next request, up to the end of the process; whether this is glibc.

    Otherwise it hands large blocks back to the system, which clears their pages again in every step
    (benchmarks/profile_step.py). Other systems' allocators are left alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    # No block of its own for a large request, and no giving back at the end of the heap.
    return bool(libc.mallopt(_MMAP_MAX, 0)) and bool(libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1))
