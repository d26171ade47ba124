"""The parts that the hooks share: what they remember, and for how long."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from mitmproxy import http

from addon.auth.grants import Grant
from addon.parts import Parts
from addon.registry.digest import Digest
from addon.store.errors import StoreError
from addon.transfer.target import Target, recognise

from .doubles import HUB, Clock, nothing_left, request_flow, settings
from .hub import Hub, parts_with

INJECTED = Grant("Bearer ours", "anonymous", injected=True)
OWN = Grant("Bearer theirs", "somebody")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def parts(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[Parts]:
    async with nothing_left(caplog):
        parts = parts_with(Hub(), tmp_path / "store", monkeypatch, clock)
        yield parts
        await parts.close()


def asked(parts: Parts, host: str = HUB, client: str = "192.0.2.1") -> tuple[http.HTTPFlow, Target]:
    flow = request_flow(f"https://{host}/v2/a/b/blobs/x")
    flow.client_conn.peername = (client, 1234)
    target = recognise(flow, parts.settings)
    assert target
    return flow, target


async def test_a_token_of_ours_goes_along(parts: Parts) -> None:
    flow, target = asked(parts)
    parts.send_on(flow, target, INJECTED)
    assert flow.request.headers["Authorization"] == "Bearer ours"
    assert parts.under_way[flow] == (target, INJECTED)


@pytest.mark.parametrize("grant", [OWN, Grant(None, "anonymous"), Grant(None, "anonymous", injected=True)])
async def test_nothing_else_is_put_in(parts: Parts, grant: Grant) -> None:
    flow, target = asked(parts)
    parts.send_on(flow, target, grant)
    assert "Authorization" not in flow.request.headers
    assert parts.under_way[flow] == (target, grant)


async def test_a_refusal_of_a_token_of_ours_is_remembered_for_ten_minutes(parts: Parts, clock: Clock) -> None:
    flow, target = asked(parts)
    parts.note_refusal(flow, target, INJECTED, http.Response.make(401))
    # By client and registry, whatever the connection.
    again, _ = asked(parts)
    again.client_conn.peername = ("192.0.2.1", 4321)
    assert parts.was_refused(again, target)
    assert not parts.was_refused(*asked(parts, client="192.0.2.2"))
    assert not parts.was_refused(*asked(parts, host="ghcr.io"))
    clock.now += 599
    assert parts.was_refused(*asked(parts))
    clock.now += 1
    assert not parts.was_refused(*asked(parts))


@pytest.mark.parametrize(("grant", "status"), [(OWN, 401), (INJECTED, 403), (INJECTED, 404), (INJECTED, 200)])
async def test_no_other_answer_is_a_refusal_of_our_token(parts: Parts, grant: Grant, status: int) -> None:
    flow, target = asked(parts)
    parts.note_refusal(flow, target, grant, http.Response.make(status))
    assert not parts.was_refused(flow, target)


async def test_lengths_are_kept_by_registry_and_repository(parts: Parts) -> None:
    digest = Digest("sha256", "a" * 64)
    parts.sizes[HUB, "library/alpine", digest] = 7
    assert parts.sizes.get((HUB, "library/alpine", digest)) == 7
    assert parts.sizes.get(("ghcr.io", "library/alpine", digest)) is None


def test_a_store_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(StoreError, match="is no store"):
        Parts(settings(store=str(tmp_path)))
