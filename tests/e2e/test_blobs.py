"""Blob GET and HEAD through the whole proxy: hit, miss, join, and what goes over the wire for each."""

import email
import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ..standin import Hub
from ..standin.faults import Fault
from ..standin.images import Blob
from .clients.raw import Raw, Reply
from .conftest import Clients, StartProxy
from .programs import eventually
from .proxies import Pulltap

MIB = 1024 * 1024


def url(hub: Hub, blob: Blob, repository: str = "library/raw") -> str:
    return f"https://{hub.names.registry}/v2/{repository}/blobs/{blob.digest}"


@pytest.fixture
def blob(hub: Hub) -> Blob:
    return hub.push_blob("library/raw", os.urandom(3 * MIB + 17))


def status(reply: Reply) -> str | None:
    return reply.header("Cache-Status")


def stored(proxy: Pulltap, blob: Blob) -> Path:
    return proxy.store / "blobs" / blob.digest.replace(":", "/")


def test_a_miss_is_written_through_and_then_hit(hub: Hub, proxy: Pulltap, raw: Raw, blob: Blob) -> None:
    content = hub.content(blob)
    miss = raw.request("GET", url(hub, blob))
    assert (miss.status, status(miss), miss.body) == (200, "pulltap; fwd=miss; stored", content)
    hub.clear()
    hit = raw.request("GET", url(hub, blob))
    assert (hit.status, status(hit), hit.body) == (200, "pulltap; hit", content)
    assert not hub.blob_requests()
    for reply in (miss, hit):
        assert reply.header("Content-Length") == str(len(content))
        assert reply.header("Content-Type") == "application/octet-stream"
        assert reply.header("Docker-Content-Digest") == blob.digest
        assert reply.header("Accept-Ranges") == "bytes"
    eventually(stored(proxy, blob).exists, "the commit")
    assert hashlib.sha256(stored(proxy, blob).read_bytes()).hexdigest() == stored(proxy, blob).name


def test_head_forwards_a_miss_and_answers_a_hit(hub: Hub, raw: Raw, blob: Blob) -> None:
    forwarded = raw.request("HEAD", url(hub, blob))
    assert status(forwarded) == "pulltap; fwd=bypass"
    raw.request("GET", url(hub, blob))
    hub.clear()
    hit = raw.request("HEAD", url(hub, blob))
    assert (hit.status, status(hit), hit.body) == (200, "pulltap; hit", b"")
    assert hit.header("Content-Length") == str(3 * MIB + 17)
    assert not hub.blob_requests()


def test_a_hit_survives_a_restart(hub: Hub, proxy: Pulltap, raw: Raw, blob: Blob) -> None:
    raw.request("GET", url(hub, blob))
    eventually(stored(proxy, blob).exists, "the commit")
    proxy.restart()
    hub.clear()
    again = raw.request("GET", url(hub, blob))
    assert (status(again), again.body) == ("pulltap; hit", hub.content(blob))
    # What the restart forgot is whether this credential may pull: one HEAD brings it back.
    assert [record.method for record in hub.blob_requests()] == ["HEAD"]


def test_the_redirect_is_followed_without_the_token(hub: Hub, raw: Raw, blob: Blob) -> None:
    assert raw.request("GET", url(hub, blob)).status == 200
    (registry,) = hub.find(host=hub.names.registry, path_contains="/blobs/")
    (cdn,) = hub.find(host=hub.names.cdn)
    assert registry.header("Authorization")
    assert cdn.header("Authorization") is None
    assert cdn.header("Accept-Encoding") == "identity"
    assert cdn.header("Host") == hub.names.cdn


def test_fifty_clients_cold_cost_one_blob(hub: Hub, proxy: Pulltap, raw: Raw, blob: Blob) -> None:
    go = threading.Barrier(50)

    def get(_: int) -> Reply:
        go.wait()
        return raw.request("GET", url(hub, blob))

    with ThreadPoolExecutor(50) as pool:
        replies = list(pool.map(get, range(50)))
    content = hub.content(blob)
    assert all(reply.body == content and reply.whole for reply in replies)
    assert [status(reply) for reply in replies].count("pulltap; fwd=miss; stored") == 1
    assert hub.count(host=hub.names.cdn) == 1
    assert len(hub.token_requests()) == 1


def test_a_joined_client_gets_bytes_before_the_blob_is_whole(hub: Hub, raw: Raw, blob: Blob) -> None:
    content = hub.content(blob)
    stalled = hub.faults.add(Fault(host=hub.names.cdn, stall_after=2 * MIB))
    first = raw.open("GET", url(hub, blob))
    assert first.read(MIB) == content[:MIB]
    second = raw.open("GET", url(hub, blob))
    assert dict(second.headers)["Cache-Status"] == "pulltap; fwd=miss; collapsed"
    assert second.read(MIB) == content[:MIB]
    stalled.release.set()
    assert second.rest().body == content[MIB:]
    assert first.rest().body == content[MIB:]
    assert hub.count(host=hub.names.cdn) == 1


def test_a_fill_outlives_the_client_that_started_it(hub: Hub, proxy: Pulltap, raw: Raw, blob: Blob) -> None:
    stalled = hub.faults.add(Fault(host=hub.names.cdn, stall_after=2 * MIB))
    first = raw.open("GET", url(hub, blob))
    first.read(MIB)
    first.close()
    stalled.release.set()
    eventually(stored(proxy, blob).exists, "the commit")
    assert hub.count(host=hub.names.cdn) == 1


def test_nobody_gets_a_complete_bad_blob(hub: Hub, proxy: Pulltap, raw: Raw, blob: Blob) -> None:
    hub.faults.add(Fault(host=hub.names.cdn, corrupt_at=MIB))
    bad = raw.request("GET", url(hub, blob))
    assert bad.status == 200
    assert not bad.whole
    assert len(bad.body) < 3 * MIB + 17
    assert not stored(proxy, blob).exists()
    eventually(lambda: not list((proxy.store / "pulltap" / "ingest").iterdir()), "the ingest file is gone")
    assert "sha256" in proxy.log()
    good = raw.request("GET", url(hub, blob))
    assert (status(good), good.body) == ("pulltap; fwd=miss; stored", hub.content(blob))


def test_ranges(hub: Hub, raw: Raw, blob: Blob) -> None:
    content, size = hub.content(blob), 3 * MIB + 17
    # A closed range of what is not there is the CDN's business; an open one begins a fill.
    assert status(raw.request("GET", url(hub, blob), [("Range", "bytes=0-9")])) == "pulltap; fwd=bypass"
    miss = raw.request("GET", url(hub, blob), [("Range", f"bytes={MIB}-")])
    assert (miss.status, status(miss), miss.body) == (206, "pulltap; fwd=miss; stored", content[MIB:])
    assert miss.header("Content-Range") == f"bytes {MIB}-{size - 1}/{size}"
    for asked, expected in (("0-0", content[:1]), (f"{size - 1}-", content[-1:]), ("-5", content[-5:])):
        hit = raw.request("GET", url(hub, blob), [("Range", f"bytes={asked}")])
        assert (hit.status, status(hit), hit.body) == (206, "pulltap; hit", expected)
        assert hit.header("Content-Length") == str(len(expected))
    changed = raw.request("GET", url(hub, blob), [("Range", "bytes=0-9"), ("If-Range", '"another"')])
    assert (changed.status, changed.body) == (200, content)


def test_an_empty_blob(hub: Hub, proxy: Pulltap, raw: Raw) -> None:
    blob = hub.push_blob("library/raw", b"")
    for expected in ("pulltap; fwd=miss; stored", "pulltap; hit"):
        reply = raw.request("GET", url(hub, blob))
        assert (reply.status, status(reply), reply.body) == (200, expected, b"")
        # Nothing of it could be held back until it was stored.
        eventually((proxy.store / "blobs" / "sha256" / blob.digest.removeprefix("sha256:")).exists, "it is stored")


def test_one_connection_serves_many_blobs(hub: Hub, raw: Raw, blob: Blob) -> None:
    other = hub.push_blob("library/raw", os.urandom(100_000))
    with raw.connect(hub.names.registry) as connection:
        for wanted in (blob, other, blob, other):
            path = f"/v2/library/raw/blobs/{wanted.digest}"
            assert connection.request("GET", path).body == hub.content(wanted)


def test_a_stored_blob_is_not_for_those_who_may_not_pull_it(
    hub: Hub, start_proxy: StartProxy, clients: Clients
) -> None:
    private = hub.push_blob("private/one", os.urandom(1000))
    hub.add_account("owner", "secret", "private/one")
    hub.make_private("private/one")
    proxy = start_proxy()
    raw = clients.raw(proxy)
    allowed = [("Authorization", f"Bearer {hub.token('private/one', account='owner')}")]
    assert raw.request("GET", url(hub, private, "private/one"), allowed).status == 200
    assert status(raw.request("GET", url(hub, private, "private/one"), allowed)) == "pulltap; hit"
    # Neither without a right to the repository, nor by its digest through a repository that everybody may pull.
    assert raw.request("GET", url(hub, private, "private/one")).status == 401
    hub.push_blob("library/raw", b"anything")
    assert raw.request("GET", url(hub, private, "library/raw")).status == 404
    trusting = start_proxy({"registry_access": "trust", "registry_store": str(proxy.store)})
    assert status(clients.raw(trusting).request("GET", url(hub, private, "library/raw"))) == "pulltap; hit"


def test_memory_stays_bounded_for_a_large_blob_and_a_slow_client(hub: Hub, proxy: Pulltap, raw: Raw) -> None:
    size = 256 * MIB
    large = hub.push_blob("library/raw", os.urandom(MIB) * (size // MIB))
    raw.request("GET", url(hub, hub.push_blob("library/raw", b"warm")))
    before = _peak(proxy)
    slow = raw.open("GET", url(hub, large))
    slow.read(1)
    eventually(stored(proxy, large).exists, "the commit, which no slow client holds up")
    for _ in range(2):
        stream = raw.open("GET", url(hub, large))
        while stream.read(MIB):
            pass
        stream.close()
    slow.close()
    # One turn and one bound of bytes for each, a few MiB, however large the blob.
    assert _peak(proxy) - before < 48 * MIB


def _peak(proxy: Pulltap) -> int:
    lines = Path(f"/proc/{proxy.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def test_several_ranges_are_answered_in_parts(hub: Hub, raw: Raw, blob: Blob) -> None:
    content, size = hub.content(blob), 3 * MIB + 17
    raw.request("GET", url(hub, blob))
    reply = raw.request("GET", url(hub, blob), [("Range", f"bytes=0-9,{MIB}-{2 * MIB},-7")])
    assert (reply.status, status(reply)) == (206, "pulltap; hit")
    assert reply.header("Content-Length") == str(len(reply.body))
    message = email.message_from_bytes(f"Content-Type: {reply.header('Content-Type')}\r\n\r\n".encode() + reply.body)
    parts = [part for part in message.walk() if not part.is_multipart()]
    spans = [(0, 10), (MIB, 2 * MIB + 1), (size - 7, size)]
    assert [part["Content-Range"] for part in parts] == [f"bytes {a}-{b - 1}/{size}" for a, b in spans]
    for start, stop in spans:
        assert content[start:stop] in reply.body
    # More than the whole blob is the whole blob.
    assert raw.request("GET", url(hub, blob), [("Range", "bytes=0-,0-,1-")]).body == content


def test_a_client_that_has_the_blob_is_told_so(hub: Hub, raw: Raw, blob: Blob) -> None:
    tag = raw.request("GET", url(hub, blob)).header("ETag") or ""
    for method in ("GET", "HEAD"):
        reply = raw.request(method, url(hub, blob), [("If-None-Match", f'"other", {tag}')])
        assert (reply.status, reply.body, reply.header("ETag")) == (304, b"", tag)
    assert raw.request("GET", url(hub, blob), [("If-None-Match", '"other"')]).status == 200
