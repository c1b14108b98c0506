"""How the process asks the system for memory while it trains."""

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt(3)."""


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
