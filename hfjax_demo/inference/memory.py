"""How much memory there is and how much this process has used. Knows nothing of models."""

import resource
import sys
from pathlib import Path

import jax
import psutil

CGROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """Bytes that can still be allocated for weights: host memory (container limit respected), or the accelerator's."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        if "bytes_limit" in stats:
            return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))
    return min(psutil.virtual_memory().available, _cgroup_available_bytes())


def rss_bytes() -> int:
    """Resident memory of this process now."""
    return int(psutil.Process().memory_info().rss)


def peak_rss_bytes() -> int:
    """The most resident memory this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak_bytes = peak if sys.platform == "darwin" else peak * 1024  # kilobytes everywhere but on macOS
    return max(peak_bytes, rss_bytes())  # the kernel updates its peak now and then only


def _cgroup_available_bytes(folder: Path = CGROUP) -> int:
    """What a container's limit leaves (cgroup v2); no limit is the largest int. psutil does not see it."""
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
    except (OSError, ValueError):
        return sys.maxsize
    return sys.maxsize if limit == "max" else max(0, int(limit) - used)
