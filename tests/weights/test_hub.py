"""``hf://`` locations: the Hub's rules, and what its own client adds where it is installed."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import faulty_server as host
import pytest
from hub_server import COMMIT, HubServer
from huggingface_hub import constants, hf_hub_download

from zoo.weights import Location, Retry, WeightsError, fetch, hub, probe

BODY = b"\x80\x02" + random.Random(6).randbytes(300_000)
OTHER = b"\x80\x02" + random.Random(7).randbytes(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
PLACE = Location("hf://owner/name/w.pth")
HASTY = Retry(tries=2, sleep=lambda seconds: None)


@pytest.fixture(params=["client", "no client"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With and without ``huggingface_hub``."""
    if request.param == "no client":
        for module in ("huggingface_hub", "hf_xet"):
            monkeypatch.setitem(sys.modules, module, None)
    return request.param


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub that has one file and no Xet store."""
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url())
        server.store("owner/name/w.pth", BODY)
        yield server


@pytest.fixture
def xet(plain: HubServer) -> HubServer:
    """One that has a Xet store too."""
    pytest.importorskip("hf_xet", reason="Xet's client is not made for every kind of machine")
    plain.xet = True
    return plain


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_a_file_over_https(plain: HubServer, tmp_path: Path, either: str) -> None:
    assert fetch("w.pth", [PLACE], cache=tmp_path / "ours").read_bytes() == BODY
    pinned = probe(PLACE)
    assert (pinned.size, pinned.sha256) == (len(BODY), SHA256)


def test_a_dropped_connection_is_resumed(plain: HubServer, tmp_path: Path, either: str) -> None:
    plain.store("owner/name/w.pth", BODY, host.drop(100_000))
    assert fetch("w.pth", [PLACE], cache=tmp_path / "ours", retry=HASTY).read_bytes() == BODY
    assert plain.resources[f"cdn/{SHA256}"].ranges == [None, "bytes=100000-"]


def test_wrong_bytes_are_refused(plain: HubServer, tmp_path: Path, either: str) -> None:
    plain.store("owner/name/w.pth", BODY, host.wrong_bytes)
    with pytest.raises(WeightsError, match="not that of the file wanted"):
        fetch("w.pth", [PLACE], cache=tmp_path / "ours")
    assert not (tmp_path / "w.pth").exists()


@pytest.mark.parametrize("on_xet", [True, False])
def test_another_file_than_the_card_says_is_refused_before_it_is_sent(
    plain: HubServer, tmp_path: Path, either: str, on_xet: bool
) -> None:
    plain.xet = on_xet
    with pytest.raises(WeightsError, match=f"offers sha256 {SHA256}, not 00000000"):
        fetch("w.pth", [Location(PLACE.url, sha256="0" * 8)], cache=tmp_path / "ours")
    with pytest.raises(WeightsError, match="offers 300002 bytes, not 5"):
        fetch("w.pth", [Location(PLACE.url, size=5)], cache=tmp_path / "ours")
    assert names(tmp_path / "ours") == []


def test_the_token_opens_what_is_private_and_goes_to_nobody_else(
    plain: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, either: str
) -> None:
    plain.token = "hf_secret"
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(WeightsError, match=r"w.pth: 401 Unauthorized"):
        fetch("w.pth", [PLACE], cache=tmp_path / "ours")
    with pytest.raises(WeightsError, match=r"missing.pth: 401 Unauthorized"):
        fetch("w.pth", [Location("hf://owner/name/missing.pth")], cache=tmp_path / "ours")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with pytest.raises(WeightsError, match=r"missing.pth: 404 Not Found"):
        fetch("w.pth", [Location("hf://owner/name/missing.pth")], cache=tmp_path / "ours")
    assert fetch("w.pth", [PLACE], cache=tmp_path / "ours").read_bytes() == BODY
    plain.asked.clear()
    plain.add("elsewhere.pth", BODY)
    fetch("elsewhere.pth", [Location(plain.url("elsewhere.pth"))], cache=tmp_path / "ours")
    assert plain.asked == [("GET", "/elsewhere.pth", None)]


def test_xet_fetches_into_our_cache_alone(
    xet: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    clients = tmp_path / "clients"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(clients))
    path = fetch("w.pth", [PLACE], cache=tmp_path / "ours", progress=True)
    assert path.read_bytes() == BODY
    assert xet.paths("/xet/xorb/")  # by Xet indeed
    assert names(tmp_path / "ours") == ["w.pth", "w.pth.sha256"]
    assert not clients.exists()
    assert "300.0/300.0 kB" in capsys.readouterr().err


def test_where_xet_fails_https_serves(xet: HubServer, tmp_path: Path) -> None:
    xet.xet_fault = 403
    assert (
        fetch("w.pth", [PLACE], cache=tmp_path / "ours", retry=Retry(tries=1)).read_bytes() == BODY
    )
    assert names(tmp_path / "ours") == ["w.pth", "w.pth.sha256"]
    xet.store("owner/name/w.pth", BODY, host.good, host.status(503))
    with pytest.raises(WeightsError) as failure:
        fetch("w.pth", [PLACE], cache=tmp_path / "b", retry=Retry(tries=1))
    _, by_xet, by_https, _ = str(failure.value).split("\n")
    assert by_xet.startswith(f"  {PLACE.url}: by Xet: ")
    assert by_xet.endswith("; going on over HTTPS")
    assert by_https == f"  {PLACE.url}: 503 Service Unavailable; given up after 1 tries"


def test_wrong_bytes_by_xet_are_refused(xet: HubServer, tmp_path: Path) -> None:
    xet.xet_bytes = OTHER
    with pytest.raises(WeightsError, match="not that of the file wanted"):
        fetch("w.pth", [PLACE], cache=tmp_path / "ours")
    assert names(tmp_path / "ours") == ["w.pth.bad"]


def test_a_transfer_begun_over_https_goes_on_over_https(xet: HubServer, tmp_path: Path) -> None:
    xet.xet = False
    xet.store("owner/name/w.pth", BODY, host.drop(100_000))
    with pytest.raises(WeightsError, match="100000 bytes are kept"):
        fetch("w.pth", [PLACE], cache=tmp_path / "ours", retry=Retry(tries=1))
    xet.xet = True
    assert fetch("w.pth", [PLACE], cache=tmp_path / "ours").read_bytes() == BODY
    assert xet.resources[f"cdn/{SHA256}"].ranges == [None, "bytes=100000-"]


@pytest.fixture
def cached(plain: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in the cache of the client, who fetched it for somebody else."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "clients"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    path = hf_hub_download("owner/name", "w.pth", endpoint=plain.url().rstrip("/"))
    plain.asked.clear()
    return Path(path).resolve()


def test_what_the_client_has_cached_is_linked(
    cached: Path, plain: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FCOS_ZOO_OFFLINE", "1")
    path = fetch("w.pth", [PLACE], cache=tmp_path / "ours")
    assert path.samefile(cached)  # on the disk once
    assert plain.asked == []
    path.unlink()
    assert cached.read_bytes() == BODY


def test_what_the_client_has_cached_is_verified(
    cached: Path, plain: HubServer, tmp_path: Path
) -> None:
    cached.write_bytes(OTHER)
    assert fetch("w.pth", [PLACE], cache=tmp_path / "ours").read_bytes() == BODY
    assert plain.paths("/owner/name/resolve/main/w.pth")


def test_a_link_left_by_a_killed_process_is_not_written_through(
    cached: Path, plain: HubServer, tmp_path: Path
) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "w.pth.part").hardlink_to(cached)
    plain.add("w.pth", OTHER)
    fetch("w.pth", [Location(plain.url("w.pth"))], cache=tmp_path / "ours")
    assert cached.read_bytes() == BODY


def test_a_revision_is_a_part_of_the_address() -> None:
    place = Location("hf://owner/name@v1.0/sub/w.pth")
    assert place.hub == ("owner/name", "v1.0", "sub/w.pth")
    assert hub.cached(Location(f"hf://owner/name@{COMMIT}/w.pth")) is None
    assert hub.cached(Location("https://host.invalid/w.pth")) is None
