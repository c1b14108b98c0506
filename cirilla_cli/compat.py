"""What differs between machines and versions of torch, probed in one place."""

import contextlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from cirilla_cli.errors import CirillaError


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 itself: AVX512-BF16 or AMX on a CPU, no emulation on a GPU."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    # The capability follows ATEN_CPU_CAPABILITY, so that a machine can be told to behave as a smaller one.
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(probe is not None and probe())


def peak_memory(device: torch.device) -> int | None:
    """Most memory this process has held, in bytes: on the GPU where there is one, else in RAM; None where unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident()


def free_memory(device: torch.device) -> int | None:
    """Bytes that a process can still take on a device: free on the card, or available in RAM; None where unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = [bytes_ for bytes_ in (_available(), _group_room()) if bytes_ is not None]
    return min(found) if found and device.type == "cpu" else None


def _available() -> int | None:
    """RAM that Linux can hand out without swapping; None elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    sizes = {name: rest.split()[0] for name, _, rest in (line.partition(":") for line in lines) if rest}
    return int(sizes["MemAvailable"]) * 1024 if "MemAvailable" in sizes else None


def _group_room() -> int | None:
    """RAM that a container's own limit leaves; None without one."""
    try:
        most, now = (Path(f"/sys/fs/cgroup/memory.{name}").read_text(encoding="ascii").strip() for name in _GROUP)
    except OSError:
        return None
    return None if most == "max" else max(0, int(most) - int(now))


_GROUP = ("max", "current")


def peak_resident() -> int | None:
    """Most RAM this process has held, in bytes; None on systems that do not say (Windows)."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def pick_device(wanted: str) -> torch.device:
    """``auto`` is the GPU where there is one, else the CPU."""
    if wanted != "auto":
        return torch.device(wanted)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def processes_problem(device: str, count: int) -> str | None:
    """Why ``count`` processes of this machine cannot each have their own device, or None."""
    kind = pick_device(device).type
    if kind == "mps":
        return "there is one Apple GPU, and processes cannot share it"
    if kind == "cuda" and count > torch.cuda.device_count():
        return f"there are {torch.cuda.device_count()} GPUs here, and each process wants its own"
    return None


def is_lost_peer(error: RuntimeError) -> bool:
    """Whether an exchange between processes failed because another of them is gone."""
    # Gloo has no class of its own for it.
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error).lower()


@contextlib.contextmanager
def reproducible(wanted: bool) -> Iterator[None]:
    """Within the block torch takes only algorithms that give the same bits every time, if ``wanted``.

    cuBLAS also needs CUBLAS_WORKSPACE_CONFIG in the environment, which the command line sets.

    Raises:
        CirillaError: an operation has no such algorithm here.
    """
    before, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if wanted:
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        if not wanted or "determinis" not in str(error).lower():
            raise
        raise CirillaError(
            f"`deterministic` is true, but {str(error).splitlines()[0]}",
            hint="deterministic=false, or a model without this part",
        ) from None
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = benchmark


_MOST_GRAPHS = 32
"""Graphs of one piece of code: one for each kind of block, its shapes and its formats."""


@contextlib.contextmanager
def compiling(wanted: bool) -> Iterator[None]:
    """Within the block what cannot be compiled is an error, and not quietly run as it is, if ``wanted``.

    Raises:
        CirillaError: the compiler cannot make something of a block, or has to make it again and again.
    """
    if not wanted:
        yield
        return
    import torch._dynamo
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    strict = {"fail_on_recompile_limit_hit": True, "recompile_limit": _MOST_GRAPHS, "suppress_errors": False}
    with torch._dynamo.config.patch(strict), warnings.catch_warnings():
        # The tracer looks at the gradient of weights that were cast, and torch at parts of itself that it gives up.
        warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")
        try:
            yield
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            what = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise CirillaError(
                f"`compile` is true, but a block of this model cannot be compiled here: {what}", hint="compile=false"
            ) from None


def compiled_so_far() -> tuple[int, float]:
    """Graphs that `torch.compile` has made in this process, and the seconds that took."""
    from torch._dynamo.utils import calculate_time_spent, counters

    spent = calculate_time_spent()
    return counters["stats"]["unique_graphs"], float(spent.get("total_wall_time", 0.0))


def graph_breaks() -> list[str]:
    """Why graphs of this process end where they do, each reason in one line."""
    from torch._dynamo.utils import counters

    return [" ".join(reason.split()) for reason in counters["graph_break"]]


def compile_problem(device: torch.device) -> str | None:
    """Why nothing can be compiled for a device here, or None; with the remedy."""
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        return None if has_triton() else "Triton is not installed, or does not know this GPU: pip install triton"
    if device.type != "cpu":
        return f"blocks are compiled for CPUs and CUDA, not for {device.type}"
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, RuntimeError):
        return "there is no C++ compiler: apt-get install g++, or name one in the variable CXX"
    return None


def device_problem(wanted: str) -> str | None:
    """Why ``wanted`` cannot be used here, or None."""
    if wanted == "cuda" and not torch.cuda.is_available():
        return "no CUDA device here, or this torch was built without CUDA"
    if wanted == "mps" and not torch.backends.mps.is_available():
        return "no Apple GPU here"
    return None
