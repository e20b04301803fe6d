"""The facts about the machine that a row records."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import environment

UUID = "5a1b0c2d-0000-0000-0000-000000000001"
UseNvml = Callable[..., None]


class NVMLError(Exception):
    """What pynvml raises."""


def unsupported(*_: Any) -> Any:
    raise NVMLError("Not Supported")


@pytest.fixture
def use_nvml(monkeypatch: pytest.MonkeyPatch) -> UseNvml:
    """Pretend that there is a GPU, or a MIG slice, and that NVML answers as a given fake does."""
    properties = SimpleNamespace(uuid=UUID)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(environment, "_has_context", lambda device: True)

    def use(name: str = f"GPU-{UUID}", **answers: Any) -> None:
        functions = {
            "nvmlDeviceGetHandleByUUID": lambda uuid: uuid if uuid == name else unsupported(),
            "nvmlSystemGetDriverVersion": lambda: "580.65.06",
            "nvmlDeviceGetTemperature": lambda handle, sensor: 41,
            "nvmlDeviceGetClockInfo": lambda handle, clock: 1980,
            "nvmlDeviceGetMaxClockInfo": lambda handle, clock: 1980,
            "nvmlDeviceGetPerformanceState": lambda handle: 0,
            "nvmlDeviceGetPowerUsage": lambda handle: 310_210,
            "nvmlDeviceGetEnforcedPowerLimit": lambda handle: 700_000,
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda handle: 0x4,
            "nvmlDeviceGetComputeRunningProcesses": lambda handle: ["host's pid 4711"],
        }
        constants = {"NVML_TEMPERATURE_GPU": 0, "NVML_CLOCK_SM": 1, "NVMLError": NVMLError}
        fake = SimpleNamespace(**(functions | constants | answers))
        monkeypatch.setattr(environment, "_nvml", lambda: fake)

    return use


def gpu_facts() -> dict[str, Any]:
    state = environment.state("cuda")
    return {name: value for name, value in state.items() if name.startswith("gpu")}


def test_the_environment_names_machine_and_software() -> None:
    facts = environment.describe("cpu")
    for key in ("cpu", "cores", "memory_gb", "torch", "torchvision", "python", "code"):
        assert facts[key]
    host = environment.machine(facts)
    assert host == f"{facts['cpu']}, {facts['cores']} cores"
    assert environment.machine({**facts, "gpu": "NVIDIA H100"}) == f"NVIDIA H100, {host}"


def test_without_a_gpu_there_are_no_facts_about_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(environment, "_nvml", lambda: None)
    assert "gpu" not in environment.describe("cuda")
    assert gpu_facts() == {}
    for device in ("cpu", "cuda"):
        with environment.sample_gpu(device) as sampled:
            pass
        assert sampled == {}


def test_the_state_of_a_gpu_comes_from_nvml(use_nvml: UseNvml) -> None:
    use_nvml()
    assert gpu_facts() == {
        "gpu_celsius": 41,
        "gpu_mhz": 1980,
        "gpu_max_mhz": 1980,
        "gpu_power_state": "P0",
        "gpu_power": 310.21,
        "gpu_throttled": False,
        "gpu_other_processes": 0,
    }


def test_facts_that_a_mig_slice_cannot_give_are_left_out(use_nvml: UseNvml) -> None:
    use_nvml(
        f"MIG-{UUID}",
        nvmlDeviceGetTemperature=unsupported,
        nvmlDeviceGetCurrentClocksThrottleReasons=unsupported,
        nvmlDeviceGetComputeRunningProcesses=unsupported,
    )
    assert gpu_facts().keys() == {"gpu_mhz", "gpu_max_mhz", "gpu_power_state", "gpu_power"}


@pytest.mark.parametrize(("has_context", "others"), [(True, 1), (False, 2)])
def test_this_process_is_not_counted_inside_a_container(
    has_context: bool, others: int, use_nvml: UseNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_nvml(nvmlDeviceGetComputeRunningProcesses=lambda handle: ["pid 1", "pid 2"])
    monkeypatch.setattr(environment, "_has_context", lambda device: has_context)
    assert gpu_facts()["gpu_other_processes"] == others


@pytest.mark.parametrize(("reasons", "throttled"), [(0x1, False), (0x4, False), (0x40, True)])
def test_heat_throttles_but_idling_and_the_power_cap_do_not(
    reasons: int, throttled: bool, use_nvml: UseNvml
) -> None:
    use_nvml(nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: reasons)
    assert gpu_facts()["gpu_throttled"] is throttled


def test_a_gpu_is_sampled_while_it_works(
    use_nvml: UseNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks, reasons = iter([1980, 1200]), iter([0x4, 0x20])
    sampled_twice = threading.Event()

    def next_clock(*_: Any) -> int:
        clock = next(clocks, None)
        if clock is None:
            sampled_twice.set()
        return clock or 1500

    use_nvml(
        nvmlDeviceGetClockInfo=next_clock,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: next(reasons, 0),
    )
    monkeypatch.setattr(environment, "SAMPLE_SECONDS", 0.001)
    with environment.sample_gpu("cuda:1") as sampled:
        assert sampled_twice.wait(60)
    assert sampled == {"gpu_lowest_mhz": 1200, "gpu_reasons": "0x24", "gpu_throttled": True}


def test_the_fingerprint_is_that_of_the_code_that_measures_and_of_registered_entries(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fingerprints = set()

    def add() -> None:
        environment._fingerprint.cache_clear()
        fingerprints.add(environment.fingerprint())

    add()
    monkeypatch.setenv("FCOS_ZOO_CONFIGS", str(tmp_path))
    for text in ("head: {tower_depth: 1}", "head: {tower_depth: 2}"):
        (tmp_path / "FCOS_mine.yaml").write_text(text)
        add()
    monkeypatch.setattr(environment, "SOURCES", ("zoo",))
    add()
    environment._fingerprint.cache_clear()
    assert [len(each) for each in fingerprints] == [12] * 4
