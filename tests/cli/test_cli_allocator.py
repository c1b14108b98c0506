"""What is freed stays with the process, told by the system's own count of pages that it had to hand out."""

import os
import platform
import subprocess
import sys

import pytest

from cirilla_cli.cli.allocator import UNCACHED, without_cache

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


MAPPED = """
import ctypes
from pathlib import Path
from cirilla_cli.cli.allocator import LARGE, keep_freed_memory, map_large_blocks

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]


def on_heap(address):
    heap = next(line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("[heap]"))
    start, stop = (int(side, 16) for side in heap.split()[0].split("-"))
    return start <= address < stop


map_large_blocks()
first, small = libc.malloc(64 * LARGE), libc.malloc(LARGE // 2)
keep_freed_memory()
print(on_heap(first), on_heap(small), on_heap(libc.malloc(64 * LARGE)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators are left alone")
def test_large_blocks_of_the_first_step_lie_beside_the_heap_and_later_ones_on_it() -> None:
    done = subprocess.run([sys.executable, "-c", MAPPED], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "True"]


JOINED = """
import ctypes, sys
from cirilla_cli.cli.allocator import SPARE_SIZES, keep_freed_memory, map_large_blocks

libc = ctypes.CDLL(None)
if sys.argv[1] == "spare":
    map_large_blocks()
keep_freed_memory()
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
libc.aligned_alloc.restype, libc.aligned_alloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t] * 2


def tensor(nbytes):
    place = libc.aligned_alloc(64, nbytes)
    kept.extend(libc.malloc(size) for size in SPARE_SIZES for _ in range(4))
    return place


kept = []
tensors = [tensor(600_000) for _ in range(8)]
for place in tensors[:-1]:
    libc.free(place)
print(tensors[0] <= libc.aligned_alloc(64, 7 * 600_000) < tensors[-1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators are left alone")
def test_tensors_that_are_freed_become_one_hole_though_small_objects_came_after_each() -> None:
    """Seven neighbours are freed: what is as large as all of them lies there, where small objects lie elsewhere."""
    found = {}
    for way in ("leave", "spare"):
        words = [sys.executable, "-c", JOINED, way]
        done = subprocess.run(words, capture_output=True, text=True, check=True, env=without_cache(os.environ))
        found[way] = done.stdout.strip()
    assert found == {"leave": "False", "spare": "True"}


def test_the_environment_of_training_keeps_what_it_says_already() -> None:
    other = "glibc.malloc.arena_max=1"
    assert without_cache({}) == {"GLIBC_TUNABLES": UNCACHED}
    assert without_cache({"GLIBC_TUNABLES": other, "A": "b"}) == {"GLIBC_TUNABLES": f"{other}:{UNCACHED}", "A": "b"}
    chosen = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=3"}
    assert without_cache(chosen) == chosen


AGAIN = """
import os, sys
sys.argv = ["cirilla", *sys.argv[1:]]
print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), flush=True)
from cirilla_cli.cli.start import main
main()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators are left alone")
@pytest.mark.parametrize(("verb", "times"), [("pretrain", 2), ("recipe", 1)])
def test_a_call_that_trains_begins_once_more_without_the_cache(verb: str, times: int) -> None:
    """In the same process, once, with the same words."""
    plain = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    words = [sys.executable, "-c", AGAIN, verb, "--nope"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=plain)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert done.returncode == 2
    assert "--nope" in done.stderr
    assert [told for _, told in lines] == ["None", UNCACHED][:times]
    assert len({process for process, _ in lines}) == 1
