"""Targets: the device a model is compiled for, and the fingerprint of this machine."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import psutil

from kopt.errors import TargetError

ISA_LEVELS: dict[str, frozenset[str]] = {
    # Source: x86-64 psABI, microarchitecture levels (the part XLA generates code for).
    "x86-64-v3": frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma"}),
    "x86-64-v4": frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
}
_RELEVANT = re.compile(r"^(sse4_[12]|avx.*|amx.*|bmi[12]|f16c|fma|vaes|gfni|neon|asimd.*|sve.*|bf16|i8mm)$")


@dataclass(frozen=True, slots=True)
class Target:
    """Hardware to compile for.

    Attributes:
        device: "cpu" or "cuda".
        arch: "x86_64", "aarch64", or "sm_90"; "" for a CUDA device not at hand.
        num_cores: CPU cores this process may use, or CUDA multiprocessors (0 unknown).
        memory_bytes: RAM or device memory (0 unknown).
        features: instruction set extensions, such as "avx512f".
        isa: "native", or an entry of ISA_LEVELS the code must not exceed.
        present: whether this machine can run code for the target.
        name: the processor's name, for people.
    """

    device: str
    arch: str
    num_cores: int
    memory_bytes: int
    features: frozenset[str] = frozenset()
    isa: str = "native"
    present: bool = True
    name: str = ""

    @classmethod
    def parse(cls, text: str, *, isa: str = "native") -> Target:
        """The target spelled "cpu", "cuda" or "cuda:sm_90".

        Raises:
            TargetError: any other spelling, an unknown ISA level, or one this CPU lacks.
        """
        if isa != "native" and isa not in ISA_LEVELS:
            raise TargetError(f"unknown instruction set '{isa}'", next_step=f"choose one of: native, {', '.join(ISA_LEVELS)}")
        device, _, arch = text.partition(":")
        if device == "cuda" and (not arch or re.fullmatch(r"sm_\d+[a-z]?", arch)):
            return cls("cuda", arch, 0, 0, present=cuda_device_present())
        if text != "cpu":
            raise TargetError(f"unknown target '{text}'", next_step="choose one of: cpu, cuda, cuda:sm_<number>")
        features = cpu_features()
        if isa != "native" and not ISA_LEVELS[isa] <= features:
            missing = ", ".join(sorted(ISA_LEVELS[isa] - features))
            raise TargetError(f"this CPU lacks {missing}, part of {isa}", next_step="compile on a machine that can run the result")
        return cls("cpu", platform.machine(), available_cores(), psutil.virtual_memory().total, features, isa, name=cpu_name())

    @property
    def required_features(self) -> frozenset[str]:
        """Instruction set extensions a machine needs to run code compiled for this target."""
        return self.features if self.isa == "native" else ISA_LEVELS[self.isa]

    @property
    def fingerprint(self) -> str:
        """Short digest of what code and timings depend on; equal on equal machines."""
        parts = (self.device, self.arch, self.name, self.isa, str(self.num_cores), *sorted(self.features))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return f"{self.device}:{self.arch}" if self.device == "cuda" and self.arch else self.device


@lru_cache(maxsize=1)
def cpu_features() -> frozenset[str]:
    """The vector and matrix extensions of this CPU, in the kernel's spelling."""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", _cpuinfo(), re.MULTILINE)
    return frozenset(flag for flag in (found.group(1).split() if found else ()) if _RELEVANT.match(flag))


@lru_cache(maxsize=1)
def cpu_name() -> str:
    """The processor's model name."""
    found = re.search(r"^model name\s*:\s*(.*)$", _cpuinfo(), re.MULTILINE)
    return found.group(1).strip() if found else platform.processor() or platform.machine()


@lru_cache(maxsize=1)
def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:  # not Linux: no features are claimed, so artifacts load by recompiling
        return ""


def available_cores() -> int:
    """Cores this process may use: its affinity, cut to the cgroup's quota, at least one."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_quota()
    return max(1, min(affinity, int(quota)) if quota else affinity)


def cgroup_quota() -> float | None:
    """CPUs granted by the cgroup (v2, then v1), None when unlimited or unknown."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass
    try:
        base = Path("/sys/fs/cgroup/cpu")
        limit_us = int((base / "cpu.cfs_quota_us").read_text())
        return None if limit_us <= 0 else limit_us / int((base / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None


def cuda_device_present() -> bool:
    """Whether the NVIDIA driver shows a device, asked without loading any CUDA library."""
    return any(Path("/proc/driver/nvidia/gpus").glob("*")) or Path("/dev/nvidia0").exists()
