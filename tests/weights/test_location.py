"""What a location says of its file, and which places are asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo.weights import Location, WeightsError
from zoo.weights.location import mirrors, promises, sources


@pytest.mark.parametrize(
    ("url", "digest"),
    [
        ("https://host/fcos_resnet50_fpn_coco-99b0c9b7.pth", "99b0c9b7"),
        ("https://host/fcos_hrnetv2p_w18_1x_coco_20201212_100710-4ad151de.pth", "4ad151de"),
        ("https://host/hrnetv2_w18-00eb2006.pth?download=true", "00eb2006"),
        ("/mnt/weights/x-0123456789.pth.tar", "0123456789"),
        ("https://host/FCOS-V-39-FPN-1x.pth?dl=1", None),
        ("https://host/run-20240131.pth", None),
        ("https://host/a-deadbeef/w.pth", None),
        ("hf://owner/name/FCOS_R_50_1x.pth", None),
    ],
)
def test_a_hash_in_the_name_counts(url: str, digest: str | None) -> None:
    assert Location(url).digest == digest


def test_a_stated_hash_comes_before_the_one_in_the_name() -> None:
    assert Location("https://host/w-deadbeef.pth", sha256="ABCDEF").digest == "abcdef"
    assert Location("https://host/w-deadbeef.pth", sha256="").digest == ""


def test_the_hubs_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    file = Location("hf://tianzhi/AdelaiDet-FCOS/FCOS_R_50_1x.pth").http
    assert file == "https://huggingface.co/tianzhi/AdelaiDet-FCOS/resolve/main/FCOS_R_50_1x.pth"
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example/")
    file = Location("hf://owner/name@v1.0/sub/a b.pth").http
    assert file == "https://hub.example/owner/name/resolve/v1.0/sub/a%20b.pth"
    with pytest.raises(WeightsError, match="write hf://owner/repo/file"):
        _ = Location("hf://owner").http


def test_mirrors_of_the_environment_then_of_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FCOS_ZOO_MIRRORS", "https://a.example/w, /mnt/w\nhttps://b.example")
    (tmp_path / "config" / "fcos-zoo").mkdir(parents=True)
    (tmp_path / "config" / "fcos-zoo" / "zoo.toml").write_text('mirrors = ["hf://o/n"]')
    Path("zoo.toml").write_text('mirrors = ["https://c.example", "/mnt/w"]')
    assert mirrors() == [
        "https://a.example/w",
        "/mnt/w",
        "https://b.example",
        "https://c.example",
        "hf://o/n",
    ]
    urls = [source.url for source in sources("x y.pth", [Location("https://d.example/z.pth")])]
    assert urls == [
        "https://a.example/w/x%20y.pth",
        "/mnt/w/x y.pth",
        "https://b.example/x%20y.pth",
        "https://c.example/x%20y.pth",
        "hf://o/n/x%20y.pth",
        "https://d.example/z.pth",
    ]


def test_a_mirror_may_be_a_folder_with_spaces_or_a_file_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = tmp_path / "our lab, new"
    lab.mkdir()
    for given in (str(lab), lab.as_uri()):
        monkeypatch.setenv("FCOS_ZOO_MIRRORS", given)
        assert mirrors() == [str(lab)]
    monkeypatch.setenv("FCOS_ZOO_MIRRORS", f"{lab.as_uri()} https://a.example/{'w' * 300}")
    assert mirrors() == [str(lab), f"https://a.example/{'w' * 300}"]


@pytest.mark.parametrize(
    "url",
    ["ftp://host/w.pth", "S3://bucket/w.pth", "file:///w.pth", "http://[::1/w.pth"],
)
def test_what_is_no_address_to_fetch_from_is_named(url: str) -> None:
    with pytest.raises(WeightsError, match=r"is not an address that can be fetched|is no address"):
        _ = Location(url).remote


def test_the_scheme_may_be_in_capitals() -> None:
    assert Location("HTTPS://host/w.pth").remote
    assert Location("HF://o/n/w.pth").hub == ("o/n", "main", "w.pth")
    assert not Location("C:\\w.pth").remote


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:se@cret@host/f.pth", "https://host/f.pth"),
        ("https://host/f.pth?X-Sig=abc&e=1#x", "https://host/f.pth"),
        ("hf://owner/name@main/f.pth", "hf://owner/name@main/f.pth"),
        ("/mnt/what?/f@2.pth", "/mnt/what?/f@2.pth"),
    ],
)
def test_an_address_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert Location(url).shown == shown


@pytest.mark.parametrize(
    "text",
    ["mirrors = [", 'mirrors = "https://a.example"', "mirrors = [1]", 'mirors = ["/mnt/w"]'],
)
def test_a_broken_configuration_is_named(text: str) -> None:
    Path("fcos-zoo.toml").write_text(text)
    with pytest.raises(WeightsError, match=r"fcos-zoo\.toml"):
        mirrors()


def test_what_is_promised() -> None:
    dead = Location("https://a.example/w.pth", sha256="aa", dead=True)
    sized = Location("https://b.example/w.pth", size=3)
    hashed = Location("https://c.example/w.pth", sha256="cc")
    assert promises("w.pth", [dead, sized, hashed]) == [hashed]
    assert promises("w.pth", [dead, sized]) == [sized]
    assert promises("w-deadbeef.pth", [dead])[0].digest == "deadbeef"
