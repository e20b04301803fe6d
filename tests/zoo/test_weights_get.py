"""`zoo.get` from a mirror to a detector, and its errors where there are no weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import torch
import torchvision
from mirrors import FaultyServer, saved

import zoo
from zoo.checkpoint import describe
from zoo.config import build_detector
from zoo.pretrained import _empty

ENTRY = "FCOS_syncbn_bs32_c128_MNV2_FPN_1x"
FILE = f"{ENTRY}.pth"
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def published() -> State:
    """A network of the entry with statistics unlike a fresh one's."""
    torch.manual_seed(0)
    state = zoo.build(ENTRY).state_dict()
    for key, value in state.items():
        if key.endswith("running_mean"):
            value.normal_(std=0.1)
    return state


def differing(detector: torch.nn.Module, state: State) -> list[str]:
    """Keys of the tensors that are not the same."""
    ours = detector.state_dict()
    assert ours.keys() == state.keys()
    return [key for key in state if not torch.equal(ours[key], state[key])]


def test_the_weights_of_the_package_need_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FCOS_ZOO_HOME", str(tmp_path / "file"))  # no folder can be made there
    assert zoo.get("FCOS_shapes_tiny").card.name == "FCOS_shapes_tiny"


def test_a_mirror_s_file_becomes_a_detector(
    mirror: FaultyServer, cache: Path, published: State
) -> None:
    mirror.add(FILE, saved({"model": published}))
    detector = zoo.get(ENTRY)
    assert differing(detector, published) == []
    assert not detector.training
    assert detector.card.name == ENTRY
    assert (cache / FILE).read_bytes() == mirror.resources[FILE].body
    (detections,) = detector([torch.zeros(3, 64, 64)])
    assert detections["boxes"].shape[1] == 4


def test_a_restrictive_license_is_printed_when_the_file_arrives(
    mirror: FaultyServer, published: State, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror.add(FILE, saved({"model": published}))
    zoo.get(ENTRY)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"{ENTRY}: license of these weights: {zoo.card(ENTRY).license}"
    zoo.get(ENTRY)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (saved({"roi_heads.box.predictor.weight": torch.zeros(2)}), "two-stage"),
        (saved({"weight": torch.zeros(100)})[:600], "damaged or not safe to read"),
    ],
    ids=["another model", "damaged"],
)
def test_a_file_that_cannot_be_loaded_does_not_stay_in_the_cache(
    mirror: FaultyServer, cache: Path, published: State, content: bytes, reason: str
) -> None:
    mirror.add(FILE, content)
    with pytest.raises((zoo.CheckpointError, zoo.WeightsError), match=reason) as refusal:
        zoo.get(ENTRY)
    assert f"moved to {cache / FILE}.bad" in str(refusal.value)
    assert sorted(path.name for path in cache.glob("[!.]*")) == [f"{FILE}.bad"]
    mirror.add(FILE, saved({"model": published}))  # the host has repaired it
    assert differing(zoo.get(ENTRY), published) == []


def test_the_entry_of_a_checkpoint_is_named() -> None:
    with torch.device("meta"):
        state = torchvision.models.detection.fcos_resnet50_fpn(
            weights=None, weights_backbone=None
        ).state_dict()
    assert describe(state) == "its tensors are those of FCOS_TV_R_50"
    del state["head.classification_head.conv.0.weight"]
    fits_nothing = "it looks like a checkpoint of torchvision that fits no entry of the zoo"
    assert describe(state) == fits_nothing


def test_without_weights_the_error_names_the_nearest_entry_that_has_some(cache: Path) -> None:
    with pytest.raises(zoo.NoWeightsError) as dead:
        zoo.get("FCOS_HRNet_W18_5l_2x")
    assert str(dead.value) == (
        "no host serves the weights of FCOS_HRNet_W18_5l_2x any more (reported unreachable since "
        "2019): the nearest entry with weights is FCOS_MM_HRNet_W18_2x; "
        "`fcos-zoo train FCOS_HRNet_W18_5l_2x` trains this one"
    )
    with pytest.raises(zoo.WeightsError, match=r"no weights were ever published for FCOS_R_50_6l"):
        zoo.get("FCOS_R_50_6l_2x")
    same_backbone, none_has_it = r"\w+_R_50_\w+", "FCOS_V_57_FPN_2x"
    for entry, nearest in ("FCOS_R_50_5l_2x", same_backbone), ("FCOS_V_75_FPN_2x", none_has_it):
        with pytest.raises(zoo.NoWeightsError, match=f"entry with weights is {nearest};"):
            zoo.get(entry)


def test_weights_may_be_an_address(mirror: FaultyServer, cache: Path, published: State) -> None:
    resource = mirror.add("mine/w.pth", saved({"model": published}))
    for _ in range(2):
        detector = zoo.get(ENTRY, weights=mirror.url("mine/w.pth"))
        assert differing(detector, published) == []
    assert len(resource.asked) == 1
    mirror.add("other/w.pth", resource.body[:3000])
    with pytest.raises(zoo.WeightsError, match=r"other/w.pth: .* damaged"):
        zoo.get(ENTRY, weights=mirror.url("other/w.pth"))
    assert len(list(cache.glob("w-*.pth"))) == 1


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (f"w.pth?signature={'s' * 500}", r"w-[0-9a-f]{12}\.pth"),
        (quote("重" * 99 + ".pth"), r".{1,120}\.pth"),
    ],
    ids=["long query", "long name in another script"],
)
def test_a_long_address_becomes_a_short_file_name(
    mirror: FaultyServer, cache: Path, published: State, address: str, name: str
) -> None:
    mirror.add(address, saved({"model": published}))
    assert differing(zoo.get(ENTRY, weights=mirror.url(address)), published) == []
    (path,) = cache.glob("*.pth")
    assert re.fullmatch(name, path.name)


def test_addresses_that_differ_in_their_query_have_files_of_their_own(
    mirror: FaultyServer, cache: Path, published: State
) -> None:
    for name in ("w.pth?of=a", "w.pth?of=b"):
        mirror.add(name, saved({"model": published}))
        zoo.get(ENTRY, weights=mirror.url(name))
    assert len(list(cache.glob("*.pth"))) == 2


def test_a_hash_in_the_name_of_a_user_s_own_file_counts(mirror: FaultyServer, cache: Path) -> None:
    mirror.add("w-0123abcd.pth", b"\x80\x02 another file")
    with pytest.raises(zoo.WeightsError, match="not that of the expected file"):
        zoo.get(ENTRY, weights=mirror.url("w-0123abcd.pth"))


@pytest.mark.parametrize(
    "entry",
    ["FCOS_RT_MS_DLA_34_4x_bn", "FCOS_HRNet_W18_5l_2x", "FCOS_MS_V_39_3x", "FCOS_R_50_noctr_2x"],
)
def test_an_empty_network_lacks_only_its_state(entry: str) -> None:
    detector = build_detector(zoo.card(entry).config, empty=True)
    saved = detector.state_dict()
    assert all(tensor.is_meta for tensor in saved.values())
    assert not detector.normalizer.mean.is_meta
    assert {name for name, buffer in detector.named_buffers() if buffer.is_meta} <= saved.keys()


def test_constants_that_a_backbone_computes_are_computed() -> None:
    card = zoo.card("FCOS_R_50_1x")
    config = {"_target_": "backbones.TimmBackbone", "name": "efficientformerv2_s0"}
    expected = build_detector({**card.config, "backbone": config}).backbone
    ours = dict(_empty(card, {**card.config, "backbone": config}).backbone.named_buffers())
    constants = dict(expected.named_buffers()).keys() - expected.state_dict().keys()
    assert constants
    assert all(torch.equal(ours[name], expected.get_buffer(name)) for name in constants)


def test_names_can_be_restricted_by_license_and_availability() -> None:
    permissive, bound = zoo.names(license="permissive"), zoo.names(license="non-commercial")
    assert sorted([*permissive, *bound]) == zoo.names()
    assert "FCOS_TV_R_50" in permissive
    assert "FCOS_R_50_1x" in bound
    served, gone = zoo.names("*_5l_*", weights=True), zoo.names("*_5l_*", weights=False)
    assert sorted([*served, *gone]) == zoo.names("*_5l_*")
    assert served == ["FCOS_R_101_5l_2x"]
    with pytest.raises(ValueError, match=r"'MIT' is neither 'permissive' nor"):
        zoo.names(license="MIT")  # type: ignore[arg-type]


def test_the_default_type_of_torch_does_not_round_the_weights() -> None:
    expected = zoo.get("FCOS_shapes_tiny")
    torch.set_default_dtype(torch.bfloat16)
    try:
        detector = zoo.get("FCOS_shapes_tiny")
    finally:
        torch.set_default_dtype(torch.float32)
    for tensor, same in zip(detector.parameters(), expected.parameters(), strict=True):
        assert torch.equal(tensor, same)
    assert torch.equal(detector.normalizer.mean, expected.normalizer.mean)


def test_files_of_one_name_are_one_file() -> None:
    locations: dict[str, set[str]] = {}
    for name in zoo.names(weights=True):
        card = zoo.card(name)
        assert card.filename is not None
        locations.setdefault(card.filename, set()).add(card.weights[0].url)
    assert {name: urls for name, urls in locations.items() if len(urls) > 1} == {}
    assert zoo.card("FCOS_HRNet_W18_5l_2x").filename == "FCOS_HRNet_W18_5l_2x.pth"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("hf://me/mine/best.pth", {}, "no entry 'hf://me/mine/best.pth' in the zoo: give an addr"),
        ("out/model.onnx", {}, r"out/model\.onnx is an exported file: zoo\.load\('out/model"),
        (ENTRY, {"device": "gpu"}, "device 'gpu' is not one of cpu, cuda and cuda:N"),
    ],
)
def test_other_arguments_are_refused_in_a_line(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises((LookupError, ValueError), match=f"^{message}"):
        zoo.get(name, **options)
