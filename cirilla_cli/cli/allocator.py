"""How the process asks the system for memory while it trains.

What stays to the end lies in blocks of its own; what comes and goes with each step lies on the heap, which keeps it.
Torch asks for places that are multiples of 64, for which glibc takes up to 112 bytes more, and gives what is left on
either side back as pieces of 32 to 112 bytes. Whatever holds on to such a piece keeps freed blocks beside it from
becoming one hole: a cache that glibc has for each thread, which only the environment can turn off, before the process
begins; its lists of small pieces; and small objects, which are given others to lie in.
"""

import ctypes
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from functools import cache

UNCACHED = "glibc.malloc.tcache_count=0"
"""Setting of glibc's that turns the cache of each thread off."""

LARGE = 1 << 20
"""Bytes from which on a block is a mapping of its own, until the first step is done."""

SPARE_SIZES = range(24, 105, 16)
"""Bytes of spare pieces for small objects: with glibc's header, those that lie beside a tensor."""

SPARE_PIECES = 10_000
"""Of each of these sizes."""

_SMALLEST = 24
"""Bytes of the smallest piece of glibc's."""

_MOST_LISTED, _TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = 1, -1, -3, -4
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

    `keep_freed_memory` ends that. From now on what is freed joins its neighbours at once, and small objects have pieces
    of their own to lie in.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    _spare_small_pieces()
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_MMAP_THRESHOLD, LARGE)) and bool(libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1))


@cache
def _spare_small_pieces() -> None:
    """Leave free pieces for small objects on the heap, each between two that are kept, so that they never join.

    Once a process: the next stage of a pipeline finds them there.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(_MOST_LISTED, 0)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    spare = []
    for nbytes in SPARE_SIZES:
        for _ in range(SPARE_PIECES):
            spare.append(libc.malloc(nbytes))
            libc.malloc(_SMALLEST)
    for piece in spare:
        libc.free(piece)


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
