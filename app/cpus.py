"""How many CPUs this process may use: its affinity and the quotas of its control groups.

A container that is limited to one and a half CPUs sees all CPUs of its host. Threads for each of those would
only take turns, and be stopped together whenever the quota is used up.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextvars import ContextVar
from pathlib import Path, PurePosixPath
from typing import ParamSpec, TypeVar

# Where the control groups of version 1 and 2 are mounted, on every usual system.
_CGROUPS = "sys/fs/cgroup"

P = ParamSpec("P")
T = TypeVar("T")

_elsewhere: ContextVar[float] = ContextVar(
    "CPU seconds that other threads computed for this one", default=0.0
)


def usable_cpus(root: Path = Path("/")) -> int:
    """The CPUs that the process may run on or, if less, what its quota allows, rounded up; at least 1.

    Args:
        root: the directory that holds `proc` and `sys`.
    """
    quota = cpu_quota(root)
    schedulable = len(os.sched_getaffinity(0))
    return schedulable if quota is None else max(1, min(schedulable, math.ceil(quota)))


def thread_seconds() -> float:
    """The CPU time of the calling thread and of what others have computed for it, as a clock."""
    return time.thread_time() + _elsewhere.get()


def computed_elsewhere(seconds: float) -> None:
    """Another thread has computed so long for the calling one, which waited for it."""
    _elsewhere.set(_elsewhere.get() + seconds)


def compute_in(executor: Executor, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """What `work` returns or raises, in a thread of `executor`; its CPU time counts as the caller's."""
    seconds = 0.0

    def timed() -> T:
        nonlocal seconds
        start = time.thread_time()
        try:
            return work(*arguments, **named)
        finally:
            seconds = time.thread_time() - start

    try:
        return executor.submit(timed).result()
    finally:
        computed_elsewhere(seconds)  # who measures what a request or a load costs has to know


def cpu_quota(root: Path) -> float | None:
    """The tightest quota, in CPUs, of the process's control groups and the groups around them.

    Returns:
        None without a quota. A file that is missing, cannot be read or does not parse says nothing.
    """
    quotas = [quota for group in _groups(root) if (quota := _quota(group)) is not None]
    return min(quotas, default=None)


def _groups(root: Path) -> Iterator[Path]:
    """The directories of the process's control groups for CPU time, up to the top.

    A container often sees its own group as the top while /proc names the group as the host does: its
    path then does not exist here, and only the top is left of it.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        group = PurePosixPath(path.lstrip("/"))
        for mount in {controllers, "cpu"} if controllers else {"", "unified"}:
            for part in (group, *group.parents):
                yield root / _CGROUPS / mount / part


def _quota(group: Path) -> float | None:
    """The quota that one group sets, in CPUs; version 2's file, else version 1's."""
    words = _read(group / "cpu.max").split()
    if not words:
        words = [_read(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    try:
        quota, period = (int(word) for word in words)
    except ValueError:  # `max`, for one
        return None
    return quota / period if quota > 0 and period > 0 else None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):  # ValueError: no path
        return ""
