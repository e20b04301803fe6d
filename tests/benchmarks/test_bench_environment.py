"""What a row says of the machine."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from benchmarks import environment

SMI = "NVIDIA H100 80GB HBM3, 550.54.15, 81559 MiB, 700.00 W, 41, 1980, 1980, {}, P0, 310.21 W"


def test_the_environment_names_machine_and_software() -> None:
    facts = environment.describe("cpu")
    for key in ("cpu", "cores", "torch", "torchvision", "python", "code"):
        assert facts[key]
    assert environment.machine(facts) == f"{facts['cpu']}, {facts['cores']} cores"
    host = environment.machine(facts)
    assert environment.machine({**facts, "gpu": "NVIDIA H100"}) == f"NVIDIA H100, {host}"


def test_a_gpu_that_is_not_there_is_no_reason_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "gpu" not in environment.describe("cuda")


def test_nvidia_smi_is_read_and_what_it_does_not_know_left_out() -> None:
    facts = environment.parse_gpu(SMI.format("[N/A]"))
    assert facts["name"] == "NVIDIA H100 80GB HBM3"
    assert facts["clocks.sm"] == "1980"
    assert facts["pstate"] == "P0"
    assert "clocks_throttle_reasons.active" not in facts
    assert environment.throttled(facts) is None


def test_cores_slowed_by_heat_are_counted_where_the_system_does(tmp_path: Path) -> None:
    assert environment._cpu_throttles(tmp_path) is None
    for core, count in enumerate("52"):
        folder = tmp_path / f"cpu{core}" / "thermal_throttle"
        folder.mkdir(parents=True)
        (folder / "core_throttle_count").write_text(f"{count}\n")
    assert environment._cpu_throttles(tmp_path) == 7


@pytest.mark.parametrize(
    ("mask", "slowed"),
    [("0x0000000000000001", False), ("0x0000000000000004", False), ("0x0000000000000040", True)],
)
def test_idling_and_the_power_cap_are_no_throttling_but_heat_is(mask: str, slowed: bool) -> None:
    assert environment.throttled(environment.parse_gpu(SMI.format(mask))) is slowed


def test_a_driver_that_renamed_a_field_is_asked_by_the_new_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nvidia_smi(command: list[str]) -> str | None:
        return None if "throttle" in " ".join(command) else SMI.format("0x40")

    monkeypatch.setattr(environment, "_run", nvidia_smi)
    assert environment.throttled(environment.gpu_state()) is True


def test_a_gpu_is_watched_while_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    said = iter([SMI.format("0x4"), SMI.replace("1980, 1980", "1200 MHz, 1980").format("0x20")])
    both, devices = threading.Event(), []

    def nvidia_smi(device: str) -> dict[str, str]:
        devices.append(device)
        line = next(said, None)
        if line is None:
            both.set()
        return environment.parse_gpu(line) if line else {}

    monkeypatch.setattr(environment, "gpu_state", nvidia_smi)
    monkeypatch.setattr(environment, "WATCHED", 0.001)
    with environment.watch("cuda:1") as seen:
        assert both.wait(60)
    assert seen == {"gpu_lowest_mhz": 1200, "gpu_reasons": "0x24", "gpu_throttled": True}
    assert set(devices) == {"cuda:1"}
    with environment.watch("cpu") as seen:
        assert seen == {}


@pytest.mark.parametrize(
    ("visible", "device", "own"),
    [("", "cuda", "0"), ("", "cuda:1", "1"), ("4,6", "cuda", "4"), ("4,6", "cuda:1", "6")],
)
def test_the_gpu_that_is_asked_is_the_one_that_is_measured(
    visible: str, device: str, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(environment, "_run", asked.append)
    environment.state(device)
    assert [command[1] for command in asked] == [f"--id={own}"] * 3


def test_the_fingerprint_is_of_the_code_that_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    environment.fingerprint.cache_clear()
    before = environment.fingerprint()
    assert len(before) == 12
    environment.fingerprint.cache_clear()
    monkeypatch.setattr(environment, "SOURCES", ("zoo",))
    assert environment.fingerprint() != before
    environment.fingerprint.cache_clear()
