"""Where a measurement was made: machine, software, and the state of both."""

from __future__ import annotations

import csv
import hashlib
import operator
import os
import platform
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, reduce
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("backbones", "fcos", "zoo", "configs", "benchmarks")
GPU_FIELDS = (
    *("name", "driver_version", "memory.total", "power.limit"),
    *("temperature.gpu", "clocks.sm", "clocks.max.sm", "clocks_throttle_reasons.active"),
    *("pstate", "power.draw"),
)
# Bits of the throttle reasons that make a time invalid: hardware, thermal, power brake. The power
# cap (0x4) is none: a GPU at full load is ordinarily at it.
SLOWED = 0x8 | 0x20 | 0x40 | 0x80
WATCHED = 5.0  # seconds between two looks at a GPU at work: each starts a program beside it


def describe(device: str) -> dict[str, Any]:
    """The machine and the software, as they are for the whole of a run."""
    import torch
    import torchvision

    facts: dict[str, Any] = {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(_memory_bytes() / 2**30, 1),
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
        facts["gpu"] = gpu.get("name") or torch.cuda.get_device_name(device)
        facts["driver"] = gpu.get("driver_version")
        facts["power_limit"] = gpu.get("power.limit")
        facts["cuda"] = torch.version.cuda
        facts["cudnn"] = torch.backends.cudnn.version()
        facts["cudnn_benchmark"] = torch.backends.cudnn.benchmark
    return facts


def machine(environment: dict[str, Any]) -> str:
    """The name under which results are kept: the GPU's, if one is measured, the CPU's with its
    cores."""
    host = f"{environment['cpu']}, {environment['cores']} cores"
    return f"{environment['gpu']}, {host}" if "gpu" in environment else host


def state(device: str) -> dict[str, Any]:
    """What may have slowed a measurement: other load, clocks, temperature, throttling."""
    facts: dict[str, Any] = {}
    if hasattr(os, "getloadavg"):
        facts["load"] = round(os.getloadavg()[0], 2)
    facts["cpu_mhz"] = _cpu_mhz()
    facts["cpu_celsius"] = _cpu_celsius()
    facts["cpu_throttles"] = _cpu_throttles()
    if device.startswith("cuda"):
        gpu = gpu_state(device)
        facts["gpu_celsius"] = gpu.get("temperature.gpu")
        facts["gpu_mhz"] = gpu.get("clocks.sm")
        facts["gpu_max_mhz"] = gpu.get("clocks.max.sm")
        facts["gpu_power_state"] = gpu.get("pstate")
        facts["gpu_power"] = gpu.get("power.draw")
        facts["gpu_throttled"] = throttled(gpu)
        facts["gpu_other_processes"] = _gpu_processes(device)
    return {key: value for key, value in facts.items() if value is not None}


@contextmanager
def watch(device: str) -> Iterator[dict[str, Any]]:
    """What a GPU does while it works, which it does not tell when it idles again: its lowest clock
    and every reason to be slowed down, there when the block has ended; empty of a CPU."""
    seen: dict[str, Any] = {}
    if not device.startswith("cuda"):
        yield seen
        return
    samples: list[dict[str, str]] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            samples.append(gpu_state(device))
            ended.wait(WATCHED)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()
    seen.update(summary(samples))


def summary(samples: Iterable[Mapping[str, str]]) -> dict[str, Any]:
    """The lowest clock, all throttle reasons and the verdict of several `gpu_state`s."""
    samples = list(samples)
    clocks = [int(s["clocks.sm"].split()[0]) for s in samples if "clocks.sm" in s]
    reasons = "clocks_throttle_reasons.active"
    masks = [int(s[reasons], 16) for s in samples if reasons in s]
    facts: dict[str, Any] = {"gpu_lowest_mhz": min(clocks)} if clocks else {}
    if masks:
        mask = reduce(operator.or_, masks)
        facts |= {"gpu_reasons": f"{mask:#x}", "gpu_throttled": bool(mask & SLOWED)}
    return facts


def gpu_state(device: str = "cuda") -> dict[str, str]:
    """A GPU's facts by nvidia-smi; empty where that does not answer."""
    fields = ",".join(GPU_FIELDS)
    # Drivers after 535 speak of events and may know the older name no more; they refuse all then.
    for query in (fields, fields.replace("throttle", "event")):
        answer = _run(
            ["nvidia-smi", _own_gpu(device), f"--query-gpu={query}", "--format=csv,noheader"]
        )
        if answer:
            return parse_gpu(answer)
    return {}


def parse_gpu(line: str) -> dict[str, str]:
    """One line of nvidia-smi's CSV by field; unknown values are left out."""
    values = next(csv.reader([line.splitlines()[0]], skipinitialspace=True))
    pairs = zip(GPU_FIELDS, values, strict=False)
    return {key: value for key, value in pairs if not value.startswith("[")}


def throttled(gpu: dict[str, str]) -> bool | None:
    """Whether the GPU said that it runs slower than it could; None where it does not say."""
    mask = gpu.get("clocks_throttle_reasons.active")
    return None if mask is None else bool(int(mask, 16) & SLOWED)


@cache
def fingerprint() -> str:
    """Twelve characters of the code and configs that measure: other code, another measurement."""
    digest = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".yaml"):
                digest.update(path.relative_to(ROOT).as_posix().encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def cpu_model() -> str:
    """The processor's name."""
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _memory_bytes() -> int:
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 0


def _cpu_mhz() -> float | None:
    lines = (_read("/proc/cpuinfo") or "").splitlines()
    clocks = [float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")]
    return round(sum(clocks) / len(clocks)) if clocks else None


def _cpu_celsius() -> float | None:
    zones = [_read(path) for path in Path("/sys/class/thermal").glob("thermal_zone*/temp")]
    return max((int(zone) / 1000 for zone in zones if zone and zone.isdigit()), default=None)


def _cpu_throttles(folder: Path = Path("/sys/devices/system/cpu")) -> int | None:
    """How often any core was slowed down for its heat since the machine started."""
    counts = [_read(path) for path in folder.glob("cpu*/thermal_throttle/core_throttle_count")]
    return sum(map(int, filter(None, counts))) if counts else None


def visible_gpus() -> list[str]:
    """The GPUs that this process may see, by nvidia-smi's numbers or names."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [one for one in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if one]
    listed = _run(["nvidia-smi", "--list-gpus"]) or ""
    return [str(number) for number in range(len(listed.splitlines()))]


def _own_gpu(device: str) -> str:
    """nvidia-smi counts all GPUs of the machine, torch those that it may see."""
    number = int(device.partition(":")[2] or 0)
    visible = visible_gpus()
    return f"--id={visible[number] if number < len(visible) else number}"


def _gpu_processes(device: str) -> int | None:
    answer = _run(
        ["nvidia-smi", _own_gpu(device), "--query-compute-apps=pid", "--format=csv,noheader"]
    )
    if answer is None:
        return None
    return sum(1 for line in answer.splitlines() if line.strip() not in ("", str(os.getpid())))


def _git(*arguments: str) -> str | None:
    if not (ROOT / ".git").exists():
        return None
    return _run(["git", "-C", str(ROOT), *arguments])


def _run(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _read(path: str | Path) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
