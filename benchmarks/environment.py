"""The environment of a measurement: the machine, the software, and the state of both.

Facts about a GPU come from the NVIDIA Management Library (NVML), called in this process: no program
is started during a timed run. What is not available is left out.
"""

from __future__ import annotations

import hashlib
import operator
import os
import platform
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, reduce
from pathlib import Path
from typing import Any

import psutil

from zoo.registry import folders

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("backbones", "fcos", "zoo", "configs", "benchmarks")
# Bits of the clock event reasons that make a time invalid: hardware slowdown, software and hardware
# thermal slowdown, power brake. The power cap (0x4) is normal at full load.
SLOWED = 0x8 | 0x20 | 0x40 | 0x80
SAMPLE_SECONDS = 0.5  # between samples of a GPU's state; one takes well under a millisecond


def describe(device: str) -> dict[str, Any]:
    """Describe the machine and the software, which stay the same throughout a run."""
    import torch
    import torchvision

    facts: dict[str, Any] = {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "os": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "mkldnn": torch.backends.mkldnn.is_available(),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": _git("status", "--porcelain", "--untracked-files=no") not in ("", None),
        "code": fingerprint(),
    }
    if device.startswith("cuda") and torch.cuda.is_available():
        gpu = _query(_handle(device), "driver", "power_limit")
        facts |= {
            "gpu": torch.cuda.get_device_name(device),
            "driver": gpu.get("driver"),
            "power_limit": gpu.get("power_limit"),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
        }
    return facts


def machine(environment: dict[str, Any]) -> str:
    """Return the name of the machine in results: its GPU, if one is measured, or CPU and cores."""
    host = f"{environment['cpu']}, {environment['cores']} cores"
    return f"{environment['gpu']}, {host}" if "gpu" in environment else host


def state(device: str) -> dict[str, Any]:
    """Return what may slow a measurement down: load, clocks, temperature, throttling, processes.

    Units are MHz, watts and degrees Celsius; `cpu_throttles` is the number of times that heat has
    slowed down a core since the machine was started.
    """
    clocks = getattr(psutil, "cpu_freq", lambda: None)()  # not on every system
    sensors: dict[str, Any] = getattr(psutil, "sensors_temperatures", dict)()
    cores = Path("/sys/devices/system/cpu").glob("cpu*")
    throttles = [_read(core / "thermal_throttle/core_throttle_count") for core in cores]
    facts: dict[str, Any] = {
        "load": round(psutil.getloadavg()[0], 2),
        "cpu_mhz": round(clocks.current) if clocks else None,
        "cpu_celsius": max(
            (one.current for each in sensors.values() for one in each), default=None
        ),
        "cpu_throttles": sum(map(int, filter(None, throttles))) if any(throttles) else None,
    }
    if device.startswith("cuda"):
        names = ("celsius", "mhz", "max_mhz", "power_state", "power", "reasons", "processes")
        gpu = _query(_handle(device), *names)
        if "reasons" in gpu:
            gpu["throttled"] = bool(gpu.pop("reasons") & SLOWED)
        if "processes" in gpu:
            gpu["other_processes"] = max(0, len(gpu.pop("processes")) - _has_context(device))
        facts |= {f"gpu_{name}": value for name, value in gpu.items()}
    return {key: value for key, value in facts.items() if value is not None}


@contextmanager
def sample_gpu(device: str) -> Iterator[dict[str, Any]]:
    """Sample the clock and the throttle reasons of a GPU while the block runs.

    The dictionary is filled when the block ends: the lowest clock, all throttle reasons, and
    whether any of them invalidates a time. It stays empty for a CPU. A GPU that is idle again no
    longer reports throttling.
    """
    result: dict[str, Any] = {}
    handle = _handle(device)
    if handle is None:
        yield result
        return
    samples: list[dict[str, Any]] = []
    stop = threading.Event()

    def sample() -> None:
        while not stop.is_set():
            samples.append(_query(handle, "mhz", "reasons"))
            stop.wait(SAMPLE_SECONDS)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield result
    finally:
        stop.set()
        thread.join()
    if clocks := [sample["mhz"] for sample in samples if "mhz" in sample]:
        result["gpu_lowest_mhz"] = min(clocks)
    if reasons := [sample["reasons"] for sample in samples if "reasons" in sample]:
        mask = reduce(operator.or_, reasons)
        result |= {"gpu_reasons": f"{mask:#x}", "gpu_throttled": bool(mask & SLOWED)}


# Queries of NVML by name; clocks in MHz, power in watts.
QUERIES: dict[str, Callable[[Any, Any], Any]] = {
    "driver": lambda nvml, gpu: nvml.nvmlSystemGetDriverVersion(),
    "celsius": lambda nvml, gpu: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
    "mhz": lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM),
    "max_mhz": lambda nvml, gpu: nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_SM),
    "power_state": lambda nvml, gpu: f"P{nvml.nvmlDeviceGetPerformanceState(gpu)}",
    "power": lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
    "power_limit": lambda nvml, gpu: nvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1000,
    "reasons": lambda nvml, gpu: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu),
    "processes": lambda nvml, gpu: nvml.nvmlDeviceGetComputeRunningProcesses(gpu),
}


def _query(handle: Any, *names: str) -> dict[str, Any]:
    """Return answers to `QUERIES`, without those that NVML or this GPU does not support."""
    facts: dict[str, Any] = {}
    nvml = _nvml()
    for name in names if handle is not None else ():
        with suppress(nvml.NVMLError):
            facts[name] = QUERIES[name](nvml, handle)
    return facts


def _handle(device: str) -> Any:
    """Return NVML's handle of the GPU that torch calls `device`; None without a GPU or NVML.

    It is found by UUID, since NVML numbers all GPUs of the machine, but torch only those it may
    use. For a MIG slice, it is the handle of the slice, which supports fewer queries.
    """
    nvml = _nvml() if device.startswith("cuda") else None
    if nvml is None:
        return None
    import torch

    uuid = torch.cuda.get_device_properties(device).uuid
    for prefix in ("GPU", "MIG"):
        with suppress(nvml.NVMLError):
            return nvml.nvmlDeviceGetHandleByUUID(f"{prefix}-{uuid}")
    return None


@cache
def _nvml() -> Any:
    """Return the initialised NVML module; None without an NVIDIA driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def _has_context(device: str) -> bool:
    """Whether this process has a context on a GPU, and so is one of the processes on it.

    Its PID does not show that, since NVML may report the host's PIDs, which differ from a
    container's.
    """
    import torch

    has_context: Callable[[int], bool] = getattr(torch._C, "_cuda_hasPrimaryContext")  # noqa: B009
    return has_context(torch.device(device).index or 0)


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [one for one in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if one]
    pynvml = _nvml()
    return [str(number) for number in range(pynvml.nvmlDeviceGetCount())] if pynvml else []


def fingerprint() -> str:
    """Return twelve characters of the SHA-256 of code and configs, which identify the code.

    Configs include those of the user's registered folders. Files are read once per process, which
    continues to run the code that it has loaded.
    """
    return _fingerprint(tuple(folders()))


@cache
def _fingerprint(registered: tuple[Path, ...]) -> str:
    digest = hashlib.sha256()
    roots = {ROOT / name: ROOT for name in SOURCES} | {folder: folder for folder in registered}
    for folder, root in roots.items():
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".py", ".yaml"):
                digest.update(path.relative_to(root).as_posix().encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


@cache
def cpu_model() -> str:
    """Return the name of the processor."""
    import cpuinfo

    return str(cpuinfo.get_cpu_info().get("brand_raw") or platform.machine())


def _git(*arguments: str) -> str | None:
    if not (ROOT / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _read(path: str | Path) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
