"""Where a measurement was made: the machine, the software, and the state of both.

Facts about a GPU come from the NVIDIA Management Library (NVML), called in this process: no program
is started beside a timed run. What is not available is left out.
"""

from __future__ import annotations

import hashlib
import operator
import os
import platform
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
SAMPLE_SECONDS = 0.5  # between two samples of a GPU at work; one takes well under a millisecond


def describe(device: str) -> dict[str, Any]:
    """The machine and the software, which stay the same throughout a run."""
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
        gpu = gpu_state(device)
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
    """The name under which results are kept: the GPU if one is measured, the CPU and its cores."""
    host = f"{environment['cpu']}, {environment['cores']} cores"
    return f"{environment['gpu']}, {host}" if "gpu" in environment else host


def state(device: str) -> dict[str, Any]:
    """What may slow a measurement down: load, clocks, temperature, throttling, other processes."""
    facts: dict[str, Any] = {
        "load": round(psutil.getloadavg()[0], 2),
        "cpu_mhz": _cpu_mhz(),
        "cpu_celsius": _cpu_celsius(),
        "cpu_throttles": _cpu_throttles(),
    }
    if device.startswith("cuda"):
        gpu = gpu_state(device)
        names = ("celsius", "mhz", "max_mhz", "power_state", "power", "throttled")
        facts |= {f"gpu_{name}": gpu.get(name) for name in names}
        facts["gpu_other_processes"] = _other_processes(device)
    return {key: value for key, value in facts.items() if value is not None}


@contextmanager
def sample_gpu(device: str) -> Iterator[dict[str, Any]]:
    """Sample the clock and the throttle reasons of a GPU while the block runs.

    The dictionary is filled when the block ends; it stays empty for a CPU. A GPU that is idle again
    no longer reports what slowed it down.
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
            samples.append(_clocks(handle))
            stop.wait(SAMPLE_SECONDS)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield result
    finally:
        stop.set()
        thread.join()
    result.update(summarize_samples(samples))


def summarize_samples(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The lowest clock, all throttle reasons, and whether any of them invalidates a time."""
    clocks = [sample["mhz"] for sample in samples if "mhz" in sample]
    masks = [sample["reasons"] for sample in samples if "reasons" in sample]
    facts: dict[str, Any] = {"gpu_lowest_mhz": min(clocks)} if clocks else {}
    if masks:
        mask = reduce(operator.or_, masks)
        facts |= {"gpu_reasons": f"{mask:#x}", "gpu_throttled": bool(mask & SLOWED)}
    return facts


def gpu_state(device: str) -> dict[str, Any]:
    """Facts about a GPU: MHz, watts, degrees Celsius; without those that NVML does not know."""
    handle = _handle(device)
    if handle is None:
        return {}
    pynvml, facts = _nvml(), _clocks(handle)
    if "reasons" in facts:
        facts["throttled"] = bool(facts["reasons"] & SLOWED)
    queries: dict[str, Callable[[], Any]] = {
        "driver": pynvml.nvmlSystemGetDriverVersion,
        "celsius": lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
        "max_mhz": lambda: pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM),
        "power_state": lambda: f"P{pynvml.nvmlDeviceGetPerformanceState(handle)}",
        "power": lambda: pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,
        "power_limit": lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
    }
    return facts | _answers(queries)


def _clocks(handle: Any) -> dict[str, Any]:
    pynvml = _nvml()
    return _answers(
        {
            "mhz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
            "reasons": lambda: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
        }
    )


def _answers(queries: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """The results of NVML queries, without those that this GPU does not support."""
    facts = {}
    for name, query in queries.items():
        try:
            facts[name] = query()
        except _nvml().NVMLError:
            continue
    return facts


def _handle(device: str) -> Any:
    """NVML's handle of the GPU that torch calls `device`; None without a GPU or NVML.

    Found by UUID, since NVML counts all GPUs of the machine and torch those it may use. A MIG slice
    is found as itself, and answers only what NVML knows of a slice.
    """
    pynvml = _nvml() if device.startswith("cuda") else None
    if pynvml is None:
        return None
    import torch

    uuid = torch.cuda.get_device_properties(device).uuid
    for prefix in ("GPU", "MIG"):
        try:
            return pynvml.nvmlDeviceGetHandleByUUID(f"{prefix}-{uuid}")
        except pynvml.NVMLError:
            continue
    return None


@cache
def _nvml() -> Any:
    """The initialised NVML module; None without an NVIDIA driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def _other_processes(device: str) -> int | None:
    """How many other processes compute on the GPU; None if unknown.

    NVML may number processes by the host's PIDs, which differ from a container's. So this process
    is not searched by its number: it is one of them if it has a CUDA context.
    """
    handle = _handle(device)
    if handle is None:
        return None
    import torch

    pynvml = _nvml()
    answers = _answers({"running": lambda: pynvml.nvmlDeviceGetComputeRunningProcesses(handle)})
    if "running" not in answers:
        return None
    index = torch.device(device).index or 0
    return max(0, len(answers["running"]) - int(_has_context(index)))


def _has_context(index: int) -> bool:
    """Whether this process has a context on a GPU, which makes it one of the GPU's processes."""
    import torch

    has_context: Callable[[int], bool] = getattr(torch._C, "_cuda_hasPrimaryContext")  # noqa: B009
    return has_context(index)


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [one for one in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if one]
    pynvml = _nvml()
    return [str(number) for number in range(pynvml.nvmlDeviceGetCount())] if pynvml else []


def fingerprint() -> str:
    """Twelve characters of the SHA-256 of code and configs; other code is another measurement.

    The configs are also those of the user's registered folders. Files are read once in a process,
    which goes on running the code that it began with.
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
    """The name of the processor."""
    import cpuinfo

    return str(cpuinfo.get_cpu_info().get("brand_raw") or platform.machine())


def _cpu_mhz() -> int | None:
    clocks = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
    return round(clocks.current) if clocks else None


def _cpu_celsius() -> float | None:
    sensors = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
    values = [reading.current for readings in sensors.values() for reading in readings]
    return max(values, default=None)


def _cpu_throttles() -> int | None:
    """How often any core was slowed down by heat since the machine started."""
    cores = Path("/sys/devices/system/cpu").glob("cpu*")
    counts = [_read(core / "thermal_throttle/core_throttle_count") for core in cores]
    return sum(map(int, filter(None, counts))) if any(counts) else None


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
