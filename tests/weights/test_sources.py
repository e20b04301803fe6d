"""What a source states about its file, and in which order sources are tried."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo.sources import FileSource, WeightsError, expected, mirrors, with_mirrors


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
    assert FileSource(url).digest == digest


def test_a_stated_hash_comes_before_the_one_in_the_name() -> None:
    assert FileSource("https://host/w-deadbeef.pth", sha256="ABCDEF").digest == "abcdef"
    assert FileSource("https://host/w-deadbeef.pth", sha256="").digest == ""


def test_mirrors_of_the_environment_then_of_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FCOS_ZOO_MIRRORS", "https://a.example/w, /mnt/w\nhttps://b.example")
    folder = tmp_path / "home" / "config" / "fcos-zoo"
    folder.mkdir(parents=True)
    (folder / "zoo.toml").write_text('mirrors = ["hf://o/n"]')
    Path("zoo.toml").write_text('mirrors = ["https://c.example", "/mnt/w"]')
    assert mirrors() == [
        "https://a.example/w",
        "/mnt/w",
        "https://b.example",
        "https://c.example",
        "hf://o/n",
    ]
    urls = [
        source.url for source in with_mirrors("x y.pth", [FileSource("https://d.example/z.pth")])
    ]
    assert urls == [
        "https://a.example/w/x%20y.pth",
        "/mnt/w/x y.pth",
        "https://b.example/x%20y.pth",
        "https://c.example/x%20y.pth",
        "hf://o/n/x y.pth",
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
def test_an_address_that_cannot_be_fetched_is_refused(url: str) -> None:
    with pytest.raises(WeightsError, match=r"is not an address that can|is not a valid address"):
        _ = FileSource(url).remote


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
    assert FileSource(url).shown == shown


@pytest.mark.parametrize(
    "text",
    ["mirrors = [", 'mirrors = "https://a.example"', "mirrors = [1]", 'mirors = ["/mnt/w"]'],
)
def test_a_malformed_configuration_file_is_named(text: str) -> None:
    Path("zoo.toml").write_text(text)
    with pytest.raises(WeightsError, match=r"zoo\.toml"):
        mirrors()


def test_hashes_count_before_sizes_and_dead_sources_do_not_count() -> None:
    dead = FileSource("https://a.example/w.pth", sha256="aa", dead=True)
    sized = FileSource("https://b.example/w.pth", size=3)
    hashed = FileSource("https://c.example/w.pth", sha256="cc")
    assert expected("w.pth", [dead, sized, hashed]) == [hashed]
    assert expected("w.pth", [dead, sized]) == [sized]
    assert expected("w-deadbeef.pth", [dead])[0].digest == "deadbeef"


def test_a_drive_of_windows_is_a_path() -> None:
    assert not FileSource("C:\\w.pth").remote


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("hf://owner/name@v1.0/sub/w.pth", ("owner/name", "v1.0", "sub/w.pth")),
        ("HF://owner/name/w.pth", ("owner/name", "main", "w.pth")),
        ("HTTPS://host/w.pth", None),
    ],
)
def test_addresses_on_the_hub(url: str, address: tuple[str, str, str] | None) -> None:
    assert FileSource(url).hub == address
    assert FileSource(url).remote


def test_an_address_on_the_hub_names_a_file() -> None:
    with pytest.raises(WeightsError, match="write hf://owner/repo/file"):
        _ = FileSource("hf://owner").hub
