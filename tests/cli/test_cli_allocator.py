"""What is freed stays with the process, told by the system's own count of pages that it had to hand out."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import ctypes, resource, sys
from cirilla_cli.cli.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
before = 0
for turn in range(4):
    if turn == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(64 << 20)
    ctypes.memset(block, 1, 64 << 20)
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators are left alone")
def test_a_block_that_was_freed_costs_no_new_pages() -> None:
    """Three blocks of 64 MiB after a first one of the same size: new pages for each, or for none."""
    found = {
        way: int(subprocess.run([sys.executable, "-c", FAULTS, way], capture_output=True, text=True, check=True).stdout)
        for way in ("leave", "keep")
    }
    assert found["leave"] > 500, "glibc gave nothing back, so there was nothing to keep"
    assert found["keep"] < 100
