"""What a GPU or this machine has: memory, dense bfloat16 arithmetic, memory bandwidth."""

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU, by its vendor's data sheet."""

    memory_bytes: int
    flops: float
    """Dense bfloat16 operations per second."""
    bandwidth_bytes: float
    """Of its memory, per second."""


GPUS = {
    "L4": Gpu(24 * 10**9, 121e12, 300e9),
    "L40S": Gpu(48 * 10**9, 362e12, 864e9),
    "A10G": Gpu(24 * 10**9, 70e12, 600e9),
    "A100-40G": Gpu(40 * 10**9, 312e12, 1555e9),
    "A100-80G": Gpu(80 * 10**9, 312e12, 2039e9),
    "A100": Gpu(80 * 10**9, 312e12, 2039e9),
    "H100": Gpu(80 * 10**9, 989e12, 3350e9),
    "H200": Gpu(141 * 10**9, 989e12, 4800e9),
}
"""By Ray's accelerator type."""

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


def host_memory_bytes() -> int:
    """Memory of this machine, or what its container may use of it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in map(Path, _CGROUP_LIMITS):
        if path.exists() and (text := path.read_text().strip()).isdigit():
            total = min(total, int(text))
    return total


def local_gpu_bytes() -> int | None:
    """Memory of this machine's first CUDA device; None without one. Imports torch only where there is a driver."""
    if not Path("/proc/driver/nvidia").exists():
        return None
    import torch

    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


@lru_cache(maxsize=1)
def host_has_bfloat16() -> bool:
    """Whether this machine multiplies bfloat16 natively; says the same as `ftlib.models.load.pick_dtype`."""
    try:
        return any(flag in Path("/proc/cpuinfo").read_text() for flag in _BFLOAT16_FLAGS)
    except OSError:
        return False
