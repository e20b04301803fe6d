"""Published files that `zoo.get` refuses, and which of them it takes out of the cache."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import zoo
from zoo.files import UnreadableError

ENTRY = "FCOS_syncbn_bs32_c128_MNV2_FPN_1x"  # of the original FCOS
BUNDLED = "FCOS_shapes_tiny"  # its card states the hash of its file


def as_adelaidet(key: str) -> str:
    """The key that AdelaiDet has for one of the original FCOS."""
    prefixes = {
        "backbone.body.": "backbone.bottom_up.",
        "backbone.fpn.fpn_inner": "backbone.fpn_lateral",
        "backbone.fpn.fpn_layer": "backbone.fpn_output",
        "backbone.fpn.top_blocks.": "backbone.top_block.",
        "rpn.head.centerness.": "proposal_generator.fcos_head.ctrness.",
        "rpn.head.": "proposal_generator.fcos_head.",
    }
    theirs, ours = next(pair for pair in prefixes.items() if key.startswith(pair[0]))
    rest = key.removeprefix(theirs)
    if "fpn_" in theirs:  # counted by stage there, by level here
        rest = f"{int(rest[0]) + 1}{rest[1:]}"
    return ours + rest


def test_a_file_of_another_system_is_refused_though_its_tensors_fit(
    cache: Path, tmp_path: Path, published: dict[str, Tensor]
) -> None:
    path = tmp_path / "w.pth"
    torch.save(published, path)
    assert zoo.get(ENTRY, weights=path).card.name == ENTRY
    other = {as_adelaidet(key): value for key, value in published.items()}
    zoo.load_checkpoint(zoo.build(ENTRY), other)  # who loads a mapping knows what it is
    torch.save(other, path)
    with pytest.raises(zoo.CheckpointError, match=f"is not {ENTRY}: it looks like a AdelaiDet"):
        zoo.get(ENTRY, weights=path)


def test_a_temporary_failure_removes_nothing_from_the_cache(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", fail)
        with pytest.raises(UnreadableError, match="cannot be read at present: MemoryError"):
            zoo.get(BUNDLED)
    assert (cache / f"{BUNDLED}.pth").is_file()
    assert zoo.get(BUNDLED).card.name == BUNDLED


def test_a_file_with_the_stated_hash_stays_though_it_cannot_be_loaded(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("a kind of file that is not known yet")

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(zoo.WeightsError, match=r"not known yet[^$]*is the published file, by its"):
        zoo.get(BUNDLED)
    assert (cache / f"{BUNDLED}.pth").is_file()
