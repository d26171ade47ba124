"""Fills whose upstream misbehaves: what the client gets, what is stored, and what the next pull does."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ..standin import Hub
from ..standin.faults import Fault
from ..standin.images import Blob
from ..standin.wire import Request
from .clients.containers import Skopeo
from .clients.docker import Docker
from .clients.raw import Raw, Reply
from .conftest import Clients, StartProxy
from .programs import eventually
from .proxies import Pulltap

MIB = 1024 * 1024
SIZE = 3 * MIB + 17
MISS = "pulltap; fwd=miss; stored"


def url(hub: Hub, blob: Blob) -> str:
    return f"https://{hub.names.registry}/v2/library/raw/blobs/{blob.digest}"


@pytest.fixture
def blob(hub: Hub) -> Blob:
    return hub.push_blob("library/raw", os.urandom(SIZE))


def stored(proxy: Pulltap, blob: Blob) -> Path:
    return proxy.store / "blobs" / blob.digest.replace(":", "/")


def left(proxy: Pulltap) -> list[int]:
    """The sizes of what lies in the ingest folder, beside the leases."""
    folder = proxy.store / "pulltap" / "ingest"
    return [path.stat().st_size for path in folder.iterdir() if not path.name.endswith(".lease")]


def asked_ranges(hub: Hub) -> list[str | None]:
    return [record.header("Range") for record in hub.find(host=hub.names.cdn)]


def expect_whole(hub: Hub, proxy: Pulltap, blob: Blob, reply: Reply) -> None:
    assert (reply.status, reply.whole, reply.body == hub.content(blob)) == (200, True, True)
    eventually(stored(proxy, blob).exists, "the commit")
    eventually(lambda: not left(proxy), "an empty ingest folder")


def expect_nothing(proxy: Pulltap, blob: Blob, reply: Reply) -> None:
    assert not reply.whole or reply.status >= 400
    assert not stored(proxy, blob).exists()


@pytest.mark.parametrize("at", [1, MIB, SIZE - 1])
def test_a_cut_is_resumed_from_the_bytes_on_disk(hub: Hub, proxy: Pulltap, raw: Raw, blob: Blob, at: int) -> None:
    hub.faults.add(Fault(host=hub.names.cdn, cut_after=at))
    expect_whole(hub, proxy, blob, raw.request("GET", url(hub, blob)))
    assert asked_ranges(hub) == [None, f"bytes={at}-"]


def test_a_resumption_asks_for_a_fresh_redirect_when_the_old_one_has_expired(
    hub: Hub, proxy: Pulltap, raw: Raw, blob: Blob
) -> None:
    hub.faults.add(Fault(host=hub.names.cdn, cut_after=MIB))
    hub.faults.add(Fault(host=hub.names.cdn, status=403, body=b"expired"))
    expect_whole(hub, proxy, blob, raw.request("GET", url(hub, blob)))
    assert hub.count(host=hub.names.registry, path_contains="/blobs/") == 2
    assert asked_ranges(hub) == [None, f"bytes={MIB}-", f"bytes={MIB}-"]


def test_a_cdn_that_ignores_ranges_starts_over_unnoticed(hub: Hub, proxy: Pulltap, raw: Raw, blob: Blob) -> None:
    hub.faults.add(Fault(host=hub.names.cdn, cut_after=MIB))
    hub.faults.add(Fault(host=hub.names.cdn, when=_ranged, status=200, body=hub.content(blob)))
    expect_whole(hub, proxy, blob, raw.request("GET", url(hub, blob)))


def test_a_range_of_another_blob_is_not_taken(hub: Hub, proxy: Pulltap, raw: Raw, blob: Blob) -> None:
    hub.faults.add(Fault(host=hub.names.cdn, cut_after=MIB))
    other = (("Content-Range", f"bytes {MIB}-{SIZE}/{SIZE + 1}"),)
    hub.faults.add(Fault(host=hub.names.cdn, when=_ranged, status=206, headers=other, body=bytes(SIZE + 1 - MIB)))
    expect_whole(hub, proxy, blob, raw.request("GET", url(hub, blob)))
    assert len(asked_ranges(hub)) == 3


def test_an_upstream_that_does_not_come_back_is_an_honest_cut_and_the_rest_serves_the_next(
    hub: Hub, proxy: Pulltap, raw: Raw, blob: Blob
) -> None:
    hub.faults.add(Fault(host=hub.names.cdn, cut_after=MIB))
    hub.faults.add(Fault(host=hub.names.cdn, status=503, times=None))
    cut = raw.request("GET", url(hub, blob))
    expect_nothing(proxy, blob, cut)
    assert cut.body == hub.content(blob)[: len(cut.body)]
    eventually(lambda: left(proxy) == [MIB], "what arrived is kept")
    hub.faults.clear()
    hub.clear()
    expect_whole(hub, proxy, blob, raw.request("GET", url(hub, blob)))
    assert asked_ranges(hub) == [f"bytes={MIB}-"]


def test_a_killed_proxy_goes_on_where_it_was(hub: Hub, proxy: Pulltap, raw: Raw, blob: Blob) -> None:
    stalled = hub.faults.add(Fault(host=hub.names.cdn, stall_after=2 * MIB))
    stream = raw.open("GET", url(hub, blob))
    stream.read(MIB)
    eventually(lambda: left(proxy) == [2 * MIB], "what arrived is written")
    proxy.stop(signal.SIGKILL)
    stream.close()
    stalled.release.set()
    proxy.start()
    hub.clear()
    expect_whole(hub, proxy, blob, raw.request("GET", url(hub, blob)))
    assert asked_ranges(hub) == [f"bytes={2 * MIB}-"]


def test_a_refused_client_does_not_spoil_what_was_kept(hub: Hub, proxy: Pulltap, raw: Raw, blob: Blob) -> None:
    hub.faults.add(Fault(host=hub.names.cdn, cut_after=MIB))
    hub.faults.add(Fault(host=hub.names.cdn, status=503, times=None))
    raw.request("GET", url(hub, blob))
    eventually(lambda: left(proxy) == [MIB], "what arrived is kept")
    assert raw.request("GET", url(hub, blob), [("Authorization", "Bearer wrong")]).status == 401
    assert left(proxy) == [MIB]


@pytest.mark.parametrize("claimed", [SIZE - 5, SIZE + 5])
def test_a_wrong_length_ends_nowhere(hub: Hub, proxy: Pulltap, raw: Raw, blob: Blob, claimed: int) -> None:
    hub.faults.add(Fault(host=hub.names.cdn, content_length=claimed, times=None))
    expect_nothing(proxy, blob, raw.request("GET", url(hub, blob)))
    hub.faults.clear()
    expect_whole(hub, proxy, blob, raw.request("GET", url(hub, blob)))


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_a_body_of_unknown_length(hub: Hub, proxy: Pulltap, raw: Raw, blob: Blob, framing: str) -> None:
    hub.faults.add(Fault(host=hub.names.cdn, framing=framing, times=None))  # type: ignore[arg-type]
    reply = raw.request("GET", url(hub, blob))
    assert reply.header("Transfer-Encoding") == "chunked"
    expect_whole(hub, proxy, blob, reply)


def test_a_body_that_is_longer_than_the_manifest_says_ends_nowhere(
    hub: Hub, proxy: Pulltap, raw: Raw, clients: Clients
) -> None:
    image = hub.push("library/long", sizes=(SIZE,))
    raw.request("GET", hub.url("/v2/library/long/manifests/latest"))
    layer = image.layers[0]
    longer = hub.content(layer) + b"more"
    hub.faults.add(Fault(host=hub.names.cdn, status=200, body=longer, framing="chunked", times=None))
    reply = raw.request("GET", hub.url(f"/v2/library/long/blobs/{layer.digest}"))
    expect_nothing(proxy, layer, reply)
    assert reply.header("Content-Length") == str(layer.size)


@pytest.mark.parametrize(
    "location", ["/v2/library/raw/loop", "ftp://cdn.example.com/x", "file:///etc/passwd", "http://127.0.0.1:1/x", "//"]
)
def test_a_redirect_to_nowhere_is_502(hub: Hub, proxy: Pulltap, raw: Raw, blob: Blob, location: str) -> None:
    hub.faults.add(
        Fault(
            host=hub.names.registry, path="/v2/library/raw/", status=307, headers=(("Location", location),), times=None
        )
    )
    reply = raw.request("GET", url(hub, blob))
    assert reply.status == 502
    assert b"redirect" in reply.body
    expect_nothing(proxy, blob, reply)
    assert hub.count(host=hub.names.registry) < 10


def test_a_large_layer_comes_over_several_connections_byte_by_byte_once(
    hub: Hub, proxy: Pulltap, skopeo: Skopeo
) -> None:
    image = hub.push("library/large", sizes=(1000, 50 * MIB))
    copied = skopeo.pull(image.reference)
    large = image.layers[1]
    assert (copied / large.digest.partition(":")[2]).read_bytes() == hub.content(large)
    spans = [range_ for range_ in asked_ranges(hub) if range_]
    assert len(spans) == 7
    brought = sum(record.body_sent for record in hub.find(host=hub.names.cdn) if record.header("Range"))
    assert brought == large.size


def test_segments_survive_cuts(hub: Hub, proxy: Pulltap, docker: Docker) -> None:
    image = hub.push("library/large", sizes=(1000, 50 * MIB))
    hub.faults.add(Fault(host=hub.names.cdn, when=_ranged, cut_after=3 * MIB, times=4))
    hub.faults.add(Fault(host=hub.names.cdn, when=_ranged, status=503, skip=2, times=2))
    assert docker.pull(image.reference)
    eventually(lambda: not left(proxy), "an empty ingest folder")


def test_one_connection_where_so_configured(hub: Hub, start_proxy: StartProxy, clients: Clients) -> None:
    image = hub.push("library/large", sizes=(1000, 50 * MIB))
    clients.skopeo(start_proxy({"registry_fill_connections": 1})).pull(image.reference)
    assert asked_ranges(hub) == [None, None, None]


def test_only_so_many_fills_run_at_once(hub: Hub, start_proxy: StartProxy, clients: Clients) -> None:
    proxy = start_proxy({"registry_max_fills": 1})
    raw = clients.raw(proxy)
    first, second = (hub.push_blob("library/raw", os.urandom(SIZE)) for _ in range(2))
    stalled = hub.faults.add(Fault(host=hub.names.cdn, stall_after=MIB))
    stream = raw.open("GET", url(hub, first))
    assert stalled.reached.wait(30)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(raw.request, "GET", url(hub, second))
        # What passes does not wait.
        assert raw.request("HEAD", url(hub, second)).status == 307
        assert hub.count(host=hub.names.cdn) == 1
        stalled.release.set()
        assert waiting.result().body == hub.content(second)
    assert stream.rest().whole


def _ranged(request: Request) -> bool:
    return request.header("Range") is not None
