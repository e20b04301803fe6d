"""The converted copy beside a published file: mapped, checked, never needed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from mirrors import own_settings
from safetensors import safe_open

import zoo
from zoo import cache as files
from zoo import converted
from zoo.config import build_detector
from zoo.pretrained import _empty

ENTRY = "FCOS_syncbn_bs32_c128_MNV2_FPN_1x"
FILE, COPY = f"{ENTRY}.pth", f"{ENTRY}.converted.safetensors"


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache that holds the entry's published file."""
    folder = own_settings(monkeypatch, tmp_path / "home")
    monkeypatch.setenv("FCOS_ZOO_OFFLINE", "1")
    folder.mkdir()
    publish(folder, seed=0)
    return folder


def publish(folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    torch.save({"model": zoo.build(ENTRY).state_dict()}, folder / FILE)


def is_published(detector: torch.nn.Module, folder: Path) -> bool:
    published = torch.load(folder / FILE, weights_only=True)["model"]
    ours = detector.state_dict()
    return ours.keys() == published.keys() and all(
        torch.equal(ours[key], published[key]) for key in published
    )


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Paths of the published files that are read from here on."""
    seen: list[Path] = []
    read = zoo.checkpoint.read
    monkeypatch.setattr(zoo.checkpoint, "read", lambda path: seen.append(path) or read(path))
    return seen


def test_the_second_load_is_of_the_copy_alone(cache: Path, unread: list[Path]) -> None:
    first = zoo.get(ENTRY)
    assert unread == [cache / FILE]
    second = zoo.get(ENTRY)
    assert unread == [cache / FILE]
    assert is_published(first, cache)
    assert is_published(second, cache)
    with safe_open(cache / COPY, "pt") as file:
        facts = file.metadata()
    assert facts["entry"] == ENTRY
    assert facts["source_sha256"] == files.sha256(cache / FILE)


def test_both_loads_give_the_same_network(cache: Path) -> None:
    first, second = zoo.get(ENTRY), zoo.get(ENTRY)
    image = torch.randint(0, 256, (3, 96, 64), dtype=torch.uint8)
    for one, other in zip(first.levels([image]), second.levels([image]), strict=True):
        assert torch.equal(one.logits, other.logits)
        assert torch.equal(one.ltrb, other.ltrb)
    trainable = [[p.requires_grad for p in detector.parameters()] for detector in (first, second)]
    assert trainable[0] == trainable[1] == [p.requires_grad for p in zoo.build(ENTRY).parameters()]


def test_the_second_load_copies_no_tensor(cache: Path) -> None:
    zoo.get(ENTRY)
    detector = _empty(zoo.card(ENTRY), zoo.card(ENTRY).config)
    assert converted.load(detector, cache / FILE)
    mapped = [parameter.data_ptr() for parameter in detector.parameters()]
    detector.to(memory_format=torch.channels_last)
    assert [parameter.data_ptr() for parameter in detector.parameters()] == mapped


def test_the_copy_loads_as_a_file_of_the_user_s_too(cache: Path) -> None:
    zoo.get(ENTRY)
    assert is_published(zoo.get(ENTRY, weights=cache / COPY), cache)


def test_what_happens_to_a_detector_never_reaches_the_file(cache: Path) -> None:
    zoo.get(ENTRY)
    before = files.sha256(cache / COPY)
    detector = zoo.get(ENTRY)
    with torch.no_grad():
        for tensor in detector.state_dict().values():
            tensor.zero_()
    assert files.sha256(cache / COPY) == before
    assert is_published(zoo.get(ENTRY), cache)


def test_a_copy_of_another_file_is_made_anew(cache: Path, unread: list[Path]) -> None:
    zoo.get(ENTRY)
    files.remove(FILE)
    publish(cache, seed=1)
    assert is_published(zoo.get(ENTRY), cache)
    assert is_published(zoo.get(ENTRY), cache)
    assert len(unread) == 2


def test_a_copy_is_not_taken_for_that_of_an_older_file_put_in_its_place(cache: Path) -> None:
    zoo.get(ENTRY)
    publish(cache, seed=1)
    os.utime(cache / FILE, (1e9, 1e9))  # as `mv` leaves it
    with pytest.raises(zoo.WeightsError, match="is not the expected file"):
        zoo.get(ENTRY)


@pytest.mark.parametrize("damage", ["cut", "overwritten", "another file", "of an older version"])
def test_a_damaged_copy_is_made_anew(cache: Path, unread: list[Path], damage: str) -> None:
    zoo.get(ENTRY)
    copy = cache / COPY
    if damage == "cut":
        os.truncate(copy, copy.stat().st_size // 2)
    elif damage == "overwritten":
        with copy.open("r+b") as file:
            file.seek(-1000, 2)
            file.write(bytes(1000))
    elif damage == "another file":
        copy.write_bytes(b"no safetensors")
    else:
        facts = {**converted.metadata(copy), "fcos_zoo": "0"}
        converted.write(zoo.build(ENTRY), copy, facts)
        files.record(copy, files.sha256(copy))
    assert is_published(zoo.get(ENTRY), cache)
    assert is_published(zoo.get(ENTRY), cache)
    assert len(unread) == 2


def test_a_cache_that_cannot_be_written_is_no_error(cache: Path) -> None:
    (cache / f"{COPY}.part").mkdir()  # in the way, even of an administrator
    assert is_published(zoo.get(ENTRY), cache)
    assert not (cache / COPY).exists()


def test_a_copy_that_another_process_writes_is_left_to_it(cache: Path) -> None:
    with files.lock(cache / COPY):
        assert is_published(zoo.get(ENTRY), cache)
        assert not (cache / COPY).exists()
    zoo.get(ENTRY)
    assert all(files.sha256(entry.path) == entry.sha256 for entry in files.entries(cache))
    assert (cache / COPY).exists()


@pytest.mark.parametrize(
    "entry",
    ["FCOS_RT_MS_DLA_34_4x_bn", "FCOS_HRNet_W18_5l_2x", "FCOS_MS_V_39_3x", "FCOS_R_50_noctr_2x"],
)
def test_a_network_without_memory_lacks_nothing_but_its_state(entry: str) -> None:
    detector = build_detector(zoo.card(entry).config, empty=True)
    saved = detector.state_dict()
    assert all(tensor.is_meta for tensor in saved.values())
    assert not detector.normalizer.mean.is_meta
    assert {name for name, buffer in detector.named_buffers() if buffer.is_meta} <= saved.keys()


def test_constants_that_a_backbone_computes_are_computed() -> None:
    card = zoo.card("FCOS_R_50_1x")
    backbone = {"_target_": "backbones.TimmBackbone", "name": "efficientformerv2_s0"}
    with_indices = _empty(card, {**card.config, "backbone": backbone})
    assert not any(buffer.is_meta for buffer in with_indices.buffers())
    assert all(buffer.is_meta for buffer in _empty(card, card.config).backbone.buffers())
