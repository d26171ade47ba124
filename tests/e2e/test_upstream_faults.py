"""What upstream can do wrong, as tables: what the client gets, what is left behind, and whether the next pull works.

Beside these: fills that are resumed or not (`test_fills`), refusals and upstreams that cannot be had at all
(`test_refusals`), redirects to where they may not lead (`test_hostile`), what clients make of a fault
(`test_standin_clients`).
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from ..standin import ACCEPT, Fault, Hub
from ..standin.cdn import LIFETIME
from ..standin.hurry import MIB, SEGMENT
from ..standin.wire import Request
from .proxies import Pulltap, free_port
from .wanted import BYPASS, HURRY, STORED, Outcome, Wanted

SIZE = MIB + MIB // 4 + 17
MIDDLE = SIZE // 2
LARGE = 4 * SEGMENT + 4711
WHOLE, CUT, BAD = Outcome
EVER = None
TROUBLE = (429, 500, 502, 503)

Rules = Sequence[Mapping[str, Any]]
"""What `Fault` is made of, but for the host."""
_numbers = itertools.count()


@pytest.fixture(scope="module")
def proxy(docker_hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pulltap]:
    """Pulltap as shipped, but impatient; one for all of this file."""
    folder = tmp_path_factory.mktemp("faults") / "proxy"
    pulltap = Pulltap(folder, docker_hub, args=["-s", str(HURRY)])
    yield pulltap
    pulltap.stop()
    assert not pulltap.trouble(), pulltap.trouble()


@pytest.fixture
def wanted(hub: Hub, proxy: Pulltap) -> Iterator[Wanted]:
    yield Wanted.new(hub, proxy, SIZE, f"library/faults-{next(_numbers)}")
    proxy.restore_names()


def break_it(hub: Hub, host: str, rules: Rules) -> None:
    for rule in rules:
        hub.faults.add(Fault(host=host, **rule))


# --- the body of a blob ---

BODIES: dict[str, tuple[Rules, Outcome]] = {
    **{f"cut at {at}": ([{"cut_after": at}], WHOLE) for at in (0, 1, MIDDLE, SIZE - 1)},
    **{f"reset at {at}": ([{"cut_after": at, "reset": True}], WHOLE) for at in (0, 1, MIDDLE, SIZE - 1)},
    "cut at each try, further on each time": ([{"cut_after": SIZE // 5, "times": EVER}], WHOLE),
    "cut at each try, at the same place": ([{"cut_after": MIDDLE}, {"cut_after": 0, "times": EVER}], CUT),
    "cut before its first byte, each time": ([{"cut_after": 0, "times": EVER}], CUT),
    "cut, then no answer for some time": ([{"cut_after": MIDDLE}, {"cut_after": -1, "times": 4}], WHOLE),
    "cut, then no answer ever": ([{"cut_after": MIDDLE}, {"cut_after": -1, "times": EVER}], CUT),
    **{f"cut, then {status} once": ([{"cut_after": MIDDLE}, {"status": status}], WHOLE) for status in TROUBLE},
    "cut, then 429 for ever": ([{"cut_after": MIDDLE}, {"status": 429, "times": EVER}], CUT),
    "cut, then 503 for ever": ([{"cut_after": MIDDLE}, {"status": 503, "times": EVER}], CUT),
    "stalled before its first byte": ([{"stall_after": 0}], WHOLE),
    "stalled in the middle": ([{"stall_after": MIDDLE}], WHOLE),
    "stalled before its last byte": ([{"stall_after": SIZE - 1}], WHOLE),
    "stalled in the middle, for ever": ([{"stall_after": MIDDLE}, {"stall_after": 0, "times": EVER}], CUT),
    "slow": ([{"bytes_per_second": 3 * SIZE}], WHOLE),
    **{f"wrong at {at}": ([{"corrupt_at": at}], BAD) for at in (0, MIDDLE, SIZE - 1)},
    "wrong behind a cut": ([{"cut_after": MIDDLE}, {"corrupt_at": 0}], BAD),
    "another blob": ([{"status": 200, "body": bytes(SIZE)}], BAD),
    "another, shorter blob": ([{"status": 200, "body": b"not found"}], BAD),
    "said to be one byte shorter": ([{"content_length": SIZE - 1}], CUT),
    "said to be one byte longer, each time": ([{"content_length": SIZE + 1, "times": EVER}], CUT),
    "of another length, without one": ([{"status": 200, "body": bytes(SIZE + 1), "framing": "chunked"}], BAD),
    "chunked, and cut": ([{"framing": "chunked", "cut_after": MIDDLE}], CUT),
    "until the connection ends, and cut": ([{"framing": "close", "cut_after": MIDDLE}], CUT),
    "until the connection ends, and reset": ([{"framing": "close", "cut_after": MIDDLE, "reset": True}], CUT),
}
DIRECT = (
    "cut at 1",
    f"reset at {MIDDLE}",
    "cut before its first byte, each time",
    "cut, then no answer for some time",
    "cut, then 429 once",
    "cut, then 503 for ever",
    "stalled in the middle",
    f"wrong at {MIDDLE}",
    "another, shorter blob",
    "said to be one byte longer, each time",
)
"""What is different where the registry sends the body itself: it is asked again, for a lack of any other address."""


@pytest.mark.parametrize("what", BODIES)
def test_a_body_from_the_cdn(wanted: Wanted, what: str) -> None:
    rules, outcome = BODIES[what]
    break_it(wanted.hub, wanted.hub.names.cdn, rules)
    reply = wanted.get()
    assert reply.header("Cache-Status") == STORED
    wanted.expect(reply, outcome)
    wanted.assert_next_pull_works()


@pytest.mark.parametrize("what", DIRECT)
def test_a_body_from_the_registry(wanted: Wanted, what: str) -> None:
    rules, outcome = BODIES[what]
    wanted.hub.registry.blob_mode = "direct"
    break_it(wanted.hub, wanted.hub.names.registry, rules)
    wanted.expect(wanted.get(), outcome)
    wanted.assert_next_pull_works()


def test_an_empty_body_is_no_blob(wanted: Wanted) -> None:
    """It would be whole as soon as it had begun. So the client gets upstream's own answer."""
    wanted.hub.faults.add(Fault(host=wanted.hub.names.cdn, status=200))
    reply = wanted.get()
    assert (reply.status, wanted.hub.names.cdn in str(reply.header("Location"))) == (307, True)
    assert reply.header("Cache-Status") == f'{BYPASS}; detail="upstream sent an empty body, which is not the blob"'
    wanted.assert_next_pull_works()


# --- the segments of a large one ---


def starting_at(offset: int) -> Callable[[Request], bool]:
    return lambda request: str(request.header("Range")).startswith(f"bytes={offset}-")


def segment(number: int, **rule: Any) -> Mapping[str, Any]:
    """A rule for one segment."""
    return {"when": starting_at(number * SEGMENT), **rule}


LIE = (("Content-Range", f"bytes {SEGMENT}-{2 * SEGMENT - 1}/{2 * LARGE}"),)
SEGMENTS: dict[str, tuple[Rules, Outcome]] = {
    **{
        f"segment {number} cut at {at}": ([segment(number, cut_after=at)], WHOLE)
        for number, at in itertools.product((0, 1), (0, 1, SEGMENT - 1))
    },
    "the last one cut": ([segment(4, cut_after=4000)], WHOLE),
    "each cut once": ([{"cut_after": SEGMENT // 2, "times": 5}], WHOLE),
    "all 503 for some time": ([{"status": 503, "skip": 1, "times": 4}], WHOLE),
    "one 503 for ever": ([segment(2, status=503, times=EVER)], CUT),
    "one stalled": ([segment(1, stall_after=SEGMENT // 2)], WHOLE),
    "one wrong": ([segment(3, corrupt_at=SEGMENT - 1)], BAD),
    "one too long": ([segment(1, content_length=SEGMENT + 5)], WHOLE),
    "one too short": ([segment(1, content_length=SEGMENT - 5)], WHOLE),
    "one of another blob": ([segment(1, headers=LIE)], WHOLE),
    "one of another blob, each time": ([segment(1, headers=LIE, times=EVER)], CUT),
    "one without its range": ([segment(1, status=206, body=bytes(SEGMENT))], WHOLE),
    "all of it in place of one, each time": ([segment(1, status=200, body=bytes(LARGE), times=EVER)], CUT),
    "no such range, each time": ([segment(1, status=416, times=EVER)], CUT),
}


@pytest.fixture
def large(hub: Hub, proxy: Pulltap) -> Wanted:
    """A layer that is fetched in segments, since its manifest told how long it is."""
    image = hub.push("library/large-faults", sizes=(LARGE,), seed=next(_numbers))
    layer = image.layers[0]
    wanted = Wanted(hub, proxy, image.repository, layer.digest, hub.content(layer))
    assert wanted.raw.request("GET", hub.url(image.manifest_path), [ACCEPT]).status == 200
    return wanted


@pytest.mark.parametrize("what", SEGMENTS)
def test_a_segment(large: Wanted, what: str) -> None:
    rules, outcome = SEGMENTS[what]
    break_it(large.hub, large.hub.names.cdn, rules)
    large.expect(large.get(), outcome)
    large.assert_next_pull_works()
    assert large.hub.find(host=large.hub.names.cdn)[0].header("Range") == f"bytes=0-{SEGMENT - 1}"


# --- refusals that pass, and do not last ---


@pytest.mark.parametrize("status", TROUBLE)
@pytest.mark.parametrize("who", ["registry", "cdn"])
def test_trouble_that_is_over_with_the_next_request(wanted: Wanted, who: str, status: int) -> None:
    """For ever, and other refusals: see `test_refusals`. This one is kept for nobody."""
    said = (("Content-Type", "text/plain"), ("Retry-After", "17"))
    host = getattr(wanted.hub.names, who)
    wanted.hub.faults.add(Fault(host=host, status=status, headers=said, body=b"busy\n"))
    reply = wanted.get()
    assert (reply.status, reply.header("Retry-After"), reply.body) == (status, "17", b"busy\n")
    assert reply.header("Cache-Status") == BYPASS
    wanted.assert_nothing_bad()
    assert wanted.get().header("Cache-Status") == STORED
    wanted.assert_next_pull_works()


@pytest.mark.parametrize("who", ["registry", "cdn"])
def test_all_who_wait_are_told_when_to_come_again(wanted: Wanted, who: str) -> None:
    said = (("Retry-After", "17"),)
    held = wanted.hub.faults.add(
        Fault(host=getattr(wanted.hub.names, who), status=429, headers=said, hold_headers=True, times=EVER)
    )
    with ThreadPoolExecutor(5) as pool:
        replies = [pool.submit(wanted.get) for _ in range(5)]
        assert held.reached.wait(30)
        held.release.set()
        for reply in replies:
            assert (reply.result().status, reply.result().header("Retry-After")) == (429, "17")
    wanted.assert_next_pull_works()


@pytest.mark.parametrize("who", ["registry", "cdn"])
@pytest.mark.parametrize(("accept", "reason"), [("misnamed", "hostname mismatch"), ("expired", "has expired")])
def test_a_certificate_that_is_not_good(wanted: Wanted, who: str, accept: Any, reason: str) -> None:
    host = getattr(wanted.hub.names, who)
    wanted.hub.faults.add(Fault(host=host, accept=accept, times=EVER))
    reply = wanted.get()
    assert (reply.status, reply.header("Cache-Status")) == (502, BYPASS)
    assert reason in reply.body.decode().lower()
    assert host in reply.body.decode()
    wanted.assert_next_pull_works()


# --- what happens in the midst of a fill ---


def test_a_link_that_has_expired_before_it_was_followed(wanted: Wanted) -> None:
    """The registry gave it, so that the client learns what the CDN says of it, as without Pulltap."""
    held = wanted.hub.faults.add(Fault(host=wanted.hub.names.cdn, hold_headers=True))
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(wanted.get)
        assert held.reached.wait(30)
        wanted.hub.clock.advance(LIFETIME + 1)
        held.release.set()
        assert (reply.result().status, reply.result().header("Cache-Status")) == (403, BYPASS)
        assert b"AccessDenied" in reply.result().body
    wanted.assert_next_pull_works()


def test_a_link_and_a_token_that_expire_while_the_body_comes(wanted: Wanted) -> None:
    hub = wanted.hub
    held = hub.faults.add(Fault(host=hub.names.cdn, stall_after=MIDDLE, cut_after=MIDDLE))
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(wanted.get)
        assert held.reached.wait(30)
        hub.clock.advance(LIFETIME + 1)
        held.release.set()
        wanted.expect(reply.result(), WHOLE)
    assert [record.status for record in hub.find(host=hub.names.cdn)] == [200, 403, 206]
    assert [record.status for record in hub.find(host=hub.names.registry)] == [307, 401, 307]
    wanted.assert_next_pull_works()


GONE = ("refused", "unknown name", "untrusted", "misnamed", "expired", "reset")
"""How a host can be gone that was there a moment ago."""


@contextmanager
def gone(wanted: Wanted, host: str, how: str) -> Iterator[None]:
    match how:
        case "refused":
            wanted.proxy.map_name(f"{host}:443", f"127.0.0.1:{free_port()}")
        case "unknown name":
            wanted.proxy.map_name(f"{host}:443", "error: Name or service not known")
        case _:
            wanted.hub.faults.add(Fault(host=host, accept=how, times=EVER))  # type: ignore[arg-type]
    yield
    wanted.proxy.restore_names()
    wanted.hub.faults.clear()


@pytest.mark.parametrize("how", GONE)
def test_upstream_goes_away_in_the_midst(wanted: Wanted, how: str) -> None:
    hub = wanted.hub
    held = hub.faults.add(Fault(host=hub.names.cdn, stall_after=MIDDLE, cut_after=MIDDLE))
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(wanted.get)
        assert held.reached.wait(30)
        with gone(wanted, hub.names.cdn, how), gone(wanted, hub.names.registry, how):
            held.release.set()
            wanted.expect(reply.result(), CUT)
    hub.clear()
    wanted.assert_next_pull_works()
    # What came before is not fetched again.
    assert [record.header("Range") for record in hub.find(host=hub.names.cdn)] == [f"bytes={MIDDLE}-"]


# --- the token service ---

NO_TOKEN: dict[str, tuple[Rules, int, str]] = {
    "reset": ([{"accept": "reset"}], 503, "10"),
    "untrusted": ([{"accept": "untrusted"}], 503, "10"),
    "misnamed": ([{"accept": "misnamed"}], 503, "10"),
    "expired": ([{"accept": "expired"}], 503, "10"),
    "no answer": ([{"cut_after": -1}], 503, "10"),
    "cut": ([{"cut_after": 10}], 503, "10"),
    "silent": ([{"hold_headers": True}], 503, "10"),
    "stalled": ([{"stall_after": 10}], 503, "10"),
    "no JSON": ([{"status": 200, "body": b"<html>"}], 503, "10"),
    "no token": ([{"status": 200, "body": b"{}"}], 503, "10"),
    "500": ([{"status": 500}], 503, "10"),
    "503": ([{"status": 503, "headers": (("Retry-After", "7"),)}], 503, "7"),
    "429": ([{"status": 429, "headers": (("Retry-After", "7"),)}], 429, "7"),
}
"""What it does, what a client without a token is told, and when it is to come again."""


def assert_no_token(wanted: Wanted, status: int, retry_after: str) -> None:
    """For a blob and for a manifest; who has a token of its own does not notice."""
    hub = wanted.hub
    manifest = hub.url(f"/v2/{wanted.repository}/manifests/latest")
    with ThreadPoolExecutor(4) as pool:
        asked = [wanted.url, manifest] * 2
        for reply in pool.map(lambda url: wanted.raw.request("GET", url), asked):
            assert (reply.status, reply.header("Retry-After")) == (status, retry_after)
            assert hub.names.auth in reply.body.decode()
    wanted.expect(wanted.get(hub.bearer(wanted.repository)), WHOLE)
    hub.faults.clear()
    wanted.proxy.restore_names()
    assert wanted.raw.request("GET", manifest).status == 404  # of the registry, to a token
    wanted.assert_next_pull_works()


@pytest.mark.parametrize("what", NO_TOKEN)
def test_a_token_service_that_gives_none(wanted: Wanted, what: str) -> None:
    rules, status, retry_after = NO_TOKEN[what]
    break_it(wanted.hub, wanted.hub.names.auth, [{**rule, "times": EVER} for rule in rules])
    assert_no_token(wanted, status, retry_after)


@pytest.mark.parametrize("target", ["refused", "error: Name or service not known"])
def test_a_token_service_that_is_nowhere(wanted: Wanted, target: str) -> None:
    where = f"127.0.0.1:{free_port()}" if target == "refused" else target
    wanted.proxy.map_name(f"{wanted.hub.names.auth}:443", where)
    assert_no_token(wanted, 503, "10")


def test_a_slow_token_service(wanted: Wanted) -> None:
    slow = wanted.hub.faults.add(Fault(host=wanted.hub.names.auth, bytes_per_second=4000))
    wanted.expect(wanted.get(), WHOLE)
    assert slow.hits == 1
    wanted.assert_next_pull_works()


def test_a_token_service_that_is_away_when_a_long_fill_needs_it(wanted: Wanted) -> None:
    hub = wanted.hub
    held = hub.faults.add(Fault(host=hub.names.cdn, stall_after=MIDDLE, cut_after=MIDDLE))
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(wanted.get)
        assert held.reached.wait(30)
        hub.clock.advance(LIFETIME + 1)
        hub.faults.add(Fault(host=hub.names.auth, status=503, times=3))
        held.release.set()
        wanted.expect(reply.result(), WHOLE)
    wanted.assert_next_pull_works()
