"""The stand-in fails as it is told to, and no more often."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import pytest

from ..standin import Fault, Hub
from .clients.raw import Raw, Reply
from .proxies import BareProxy

CHALLENGE = 401


@pytest.fixture
def fetch(hub: Hub, direct: Raw) -> "Fetch":
    return Fetch(hub, direct)


class Fetch:
    """Gets one layer from the CDN, as a client would."""

    def __init__(self, hub: Hub, direct: Raw) -> None:
        self._hub = hub
        self._direct = direct
        self.layer = hub.small.layers[1]
        self.content = hub.content(self.layer)

    def __call__(self, *headers: tuple[str, str]) -> Reply:
        url = self._hub.url(self._hub.small.blob_path(self.layer))
        return self._direct.follow("GET", url, [self._hub.bearer("library/small"), *headers])


def test_status(hub: Hub, fetch: Fetch) -> None:
    hub.faults.add(Fault(host=hub.names.cdn, status=503, headers=(("Retry-After", "1"),), body=b"slow down"))
    reply = fetch()
    assert (reply.status, reply.header("Retry-After"), reply.body) == (503, "1", b"slow down")
    assert fetch().body == fetch.content


def test_count_and_order(hub: Hub, fetch: Fetch) -> None:
    """Rules apply in the order in which they were added, each until it is used up."""
    first = hub.faults.add(Fault(host=hub.names.cdn, skip=1, times=2, status=500))
    second = hub.faults.add(Fault(host=hub.names.cdn, times=None, status=503))
    assert [fetch().status for _ in range(5)] == [503, 500, 500, 503, 503]
    assert (first.hits, second.hits) == (2, 3)
    hub.faults.clear()
    assert fetch().status == 200


@pytest.mark.parametrize("field", ["host", "method", "path", "path_contains", "when"])
def test_rule_is_for_some_requests(hub: Hub, direct: Raw, field: str) -> None:
    rules = {
        "host": Fault(host=hub.names.registry, status=500),
        "method": Fault(method="HEAD", status=500),
        "path": Fault(path="/v2/library/", status=500),
        "path_contains": Fault(path_contains="/manifests/", status=500),
        "when": Fault(when=lambda request: request.header("Range") is not None, status=500),
    }
    hub.faults.add(rules[field])
    assert direct.request("GET", f"https://{hub.names.auth}/token").status == 200
    url = hub.url("/v2/library/small/manifests/latest")
    assert direct.request("HEAD", url, [("Range", "bytes=1-")]).status == 500


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("after", [0, 1, 100_000])
def test_cut(hub: Hub, fetch: Fetch, after: int, reset: bool) -> None:
    hub.faults.add(Fault(host=hub.names.cdn, cut_after=after, reset=reset))
    try:
        reply = fetch()
    except ConnectionError:
        assert reset  # it may take the head with it
    else:
        assert not reply.whole
        assert reset or reply.body == fetch.content[:after]
    (record,) = hub.find(host=hub.names.cdn)
    assert record.body_sent == after
    assert fetch().body == fetch.content


def test_cut_before_the_head(hub: Hub, fetch: Fetch) -> None:
    hub.faults.add(Fault(host=hub.names.cdn, cut_after=-1))
    with pytest.raises(ConnectionError):
        fetch()
    assert hub.find(host=hub.names.cdn)[0].status == 0


@pytest.mark.parametrize("at", [0, 299_999])
def test_wrong_bytes(hub: Hub, fetch: Fetch, at: int) -> None:
    hub.faults.add(Fault(host=hub.names.cdn, corrupt_at=at))
    body = fetch().body
    assert [n for n, (is_, should_be) in enumerate(zip(body, fetch.content, strict=True)) if is_ != should_be] == [at]


@pytest.mark.parametrize("claimed", [1000, 1_000_000])
def test_wrong_length(hub: Hub, fetch: Fetch, claimed: int) -> None:
    hub.faults.add(Fault(host=hub.names.cdn, content_length=claimed))
    reply = fetch()
    assert reply.values("Content-Length") == [str(claimed)]
    assert reply.whole == (claimed < fetch.layer.size)
    assert reply.body == fetch.content[:claimed]


@pytest.mark.parametrize("cut_after", [None, 5000], ids=["whole", "cut"])
def test_no_length(hub: Hub, fetch: Fetch, cut_after: int | None) -> None:
    hub.faults.add(Fault(host=hub.names.cdn, framing="close", cut_after=cut_after))
    reply = fetch()
    assert reply.header("Content-Length") is None
    assert reply.body == fetch.content[:cut_after]
    assert reply.whole  # as far as anybody can tell


def test_chunked(hub: Hub, fetch: Fetch) -> None:
    hub.faults.add(Fault(host=hub.names.cdn, framing="chunked"))
    reply = fetch()
    assert reply.header("Transfer-Encoding") == "chunked"
    assert (reply.body, reply.whole) == (fetch.content, True)


def test_headers(hub: Hub, fetch: Fetch) -> None:
    hub.faults.add(Fault(host=hub.names.cdn, headers=(("content-type", "text/html"), ("X-More", "1"))))
    reply = fetch()
    assert reply.values("Content-Type") == ["text/html"]
    assert reply.header("X-More") == "1"
    assert reply.body == fetch.content


def test_stall(hub: Hub, fetch: Fetch) -> None:
    fault = hub.faults.add(Fault(host=hub.names.cdn, stall_after=1000))
    with ThreadPoolExecutor() as pool:
        reply = pool.submit(fetch)
        assert fault.reached.wait(30)
        assert hub.find(host=hub.names.cdn)[0].body_sent == 1000
        assert not reply.done()
        fault.release.set()
        assert reply.result(30).body == fetch.content


def test_held_headers(hub: Hub, fetch: Fetch) -> None:
    fault = hub.faults.add(Fault(host=hub.names.cdn, hold_headers=True))
    with ThreadPoolExecutor() as pool:
        reply = pool.submit(fetch)
        assert fault.reached.wait(30)
        assert hub.find(host=hub.names.cdn)[0].status == 0
        hub.faults.clear()  # lets go, too
        assert reply.result(30).body == fetch.content


def test_slow(hub: Hub, fetch: Fetch) -> None:
    hub.faults.add(Fault(host=hub.names.cdn, bytes_per_second=20_000_000))
    assert fetch().body == fetch.content
    assert hub.find(host=hub.names.cdn)[0].body_sent == fetch.layer.size


def test_reset_at_accept(hub: Hub, direct: Raw) -> None:
    fault = hub.faults.add(Fault(host=hub.names.registry, accept="reset"))
    with pytest.raises(OSError, match=r"EOF|reset"):
        direct.request("GET", hub.url("/v2/"))
    assert fault.hits == 1
    assert hub.requests == []
    assert direct.request("GET", hub.url("/v2/")).status == CHALLENGE


@pytest.mark.parametrize(
    ("accept", "reason"),
    [("untrusted", "unable to get local issuer"), ("misnamed", "Hostname mismatch"), ("expired", "has expired")],
)
def test_bad_certificate(
    hub: Hub, direct: Raw, decrypting_proxy: BareProxy, accept: Literal["untrusted", "misnamed", "expired"], reason: str
) -> None:
    hub.faults.add(Fault(host=hub.names.registry, accept=accept, times=2))
    with pytest.raises(OSError, match=f"CERTIFICATE_VERIFY_FAILED.*{reason}"):
        direct.request("GET", hub.url("/v2/"))
    through = Raw(decrypting_proxy.port, decrypting_proxy.ca)
    assert through.request("GET", hub.url("/v2/")).status == 502
    assert through.request("GET", hub.url("/v2/")).status == CHALLENGE


def test_misuse_is_reported(hub: Hub, direct: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stall that nobody releases is an error of the test, not a slow test."""
    monkeypatch.setattr("tests.standin.faults.STALL_BOUND", 0.01)
    hub.faults.add(Fault(hold_headers=True))
    with pytest.raises(OSError, match="closed connection"):
        direct.request("GET", hub.url("/v2/"))
    hub.wait_for(done=True)
    assert "no test released" in hub.errors.pop()


def test_waiting_for_requests(hub: Hub, direct: Raw) -> None:
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(hub.wait_for, 2, done=True, path_contains="/v2/")
        barrier = threading.Barrier(2)

        def ping() -> int:
            barrier.wait(30)
            return direct.request("GET", hub.url("/v2/")).status

        assert [each.result(30) for each in [pool.submit(ping), pool.submit(ping)]] == [CHALLENGE] * 2
        waiting.result(30)
    with pytest.raises(TimeoutError, match=r"GET registry-1.docker.io/v2/ -> 401"):
        hub.wait_for(3, timeout=0.01)
