"""The parts that the hooks share: what they remember, and for how long."""

import asyncio
import errno
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from mitmproxy import http

from addon.auth.grants import Grant
from addon.parts import Parts, described
from addon.registry.digest import Digest
from addon.registry.manifest import Descriptor
from addon.store.errors import StoreError
from addon.store.images import LARGEST
from addon.transfer.target import Target, recognise
from addon.transfer.writing import DiskTrouble

from .doubles import BOUND, HUB, Clock, digest_of, nothing_left, request_flow, settings
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


# What is stored, and whose it is.


@pytest.mark.parametrize("access", ["check", "trust"])
async def test_a_stored_blob_is_the_registrys_that_delivered_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, access: str
) -> None:
    async with nothing_left(caplog):
        parts = parts_with(Hub(), tmp_path / "store", monkeypatch, access=access)
        digest = digest_of(b"blob")
        assert parts.stored(HUB, digest) is None
        parts.store.path(digest).write_bytes(b"blob")
        # An operator put it there: any registry may confirm it.
        for registry in (HUB, "ghcr.io"):
            reader = parts.stored(registry, digest)
            assert reader
            reader.close()
        parts.store.provenance.record(HUB, "library/alpine", digest)
        for registry, found in ((HUB, True), ("ghcr.io", access == "trust")):
            reader = parts.stored(registry, digest)
            assert (reader is not None) is found
            if reader:
                reader.close()
        await parts.close()


# What is noted of manifests.

LAYER = digest_of(b"layer")
MANIFEST = json.dumps({"schemaVersion": 2, "layers": [{"digest": str(LAYER), "size": 7}]}).encode()
TYPE = "application/vnd.oci.image.manifest.v1+json"
A512 = digest_of(b"a", "sha512")
DESCRIPTOR = Descriptor(digest_of(MANIFEST), len(MANIFEST), TYPE)


def of_manifest(parts: Parts, reference: str) -> Target:
    target = recognise(request_flow(f"https://{HUB}/v2/library/alpine/manifests/{reference}"), parts.settings)
    assert target
    return target


def given(content: bytes = MANIFEST, **headers: str) -> http.Response:
    response = http.Response.make(200, content)
    response.headers = http.Headers((), **{"Content_Type": TYPE, "Content_Length": str(len(content)), **headers})
    return response


async def learn(parts: Parts, reference: str = "latest", answer: http.Response | None = None, how: str = "GET") -> bool:
    """Whether something was written down."""
    task = parts.learn(of_manifest(parts, reference), how, answer or given())
    if task is not None:
        await asyncio.wait_for(task, BOUND)
    return task is not None


def noted(parts: Parts) -> list[tuple[str, Descriptor]]:
    return [(image.reference, image.descriptor) for image in parts.store.images.all()]


@pytest.mark.parametrize("reference", ["latest", str(DESCRIPTOR.digest)])
async def test_a_manifest_that_passes_is_kept(parts: Parts, reference: str) -> None:
    assert await learn(parts, reference)
    assert parts.sizes[HUB, "library/alpine", LAYER] == 7
    assert noted(parts) == [(reference, DESCRIPTOR)]
    assert parts.store.path(DESCRIPTOR.digest).read_bytes() == MANIFEST
    # No registry gives it as a blob, unless it delivers it as one.
    assert parts.stored(HUB, DESCRIPTOR.digest) is None


@pytest.mark.parametrize("told", ["", "text/plain", "application/json"])
async def test_a_manifest_knows_its_type_best(parts: Parts, told: str) -> None:
    content = json.dumps({**json.loads(MANIFEST), "mediaType": TYPE}).encode()
    for answer in (given(content, Content_Type=told), given(Content_Type=told)):
        assert await learn(parts, answer=answer)
        assert [descriptor.media_type for _, descriptor in noted(parts)] == [TYPE]


async def test_a_manifest_in_a_coding_is_read_as_what_it_is(parts: Parts) -> None:
    answer = given()
    answer.encode("gzip")
    assert answer.raw_content != MANIFEST
    assert await learn(parts, answer=answer)
    assert noted(parts) == [("latest", DESCRIPTOR)]
    assert parts.store.path(DESCRIPTOR.digest).read_bytes() == MANIFEST


async def test_a_tag_that_moves_while_its_old_manifest_is_asked_for(parts: Parts) -> None:
    new = MANIFEST + b" "
    assert await learn(parts)
    assert await learn(parts, answer=given(new))
    assert noted(parts) == [("latest", Descriptor(digest_of(new), len(new), TYPE))]
    assert await learn(parts, str(DESCRIPTOR.digest))
    assert noted(parts)[0] == ("latest", Descriptor(digest_of(new), len(new), TYPE))


async def test_a_manifest_that_was_only_described(parts: Parts) -> None:
    answer = given(b"", Content_Length=str(len(MANIFEST)), Docker_Content_Digest=str(DESCRIPTOR.digest))
    assert await learn(parts, answer=answer, how="HEAD")
    assert noted(parts) == [("latest", DESCRIPTOR)]
    assert not parts.store.path(DESCRIPTOR.digest).exists()
    assert not parts.sizes


@pytest.mark.parametrize(
    ("reference", "response"),
    [
        (str(LAYER), given()),
        ("latest", given(Docker_Content_Digest=str(LAYER))),
        ("latest", given(Docker_Content_Digest="latest")),
        ("latest", given(b"{}")),
        ("latest", given(b"<html>")),
        ("../latest", given()),
        ("latest", given(Content_Encoding="gzip")),
    ],
    ids=["another digest", "a wrong digest", "no digest", "nothing in it", "no manifest", "no tag", "not in gzip"],
)
async def test_what_contradicts_itself_is_not_kept(parts: Parts, reference: str, response: http.Response) -> None:
    assert not await learn(parts, reference, response)
    assert not noted(parts)
    assert not list(parts.store.layout.stored())


async def test_a_store_in_trouble_takes_no_manifests(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    parts.fills.trouble.note(OSError(errno.ENOSPC, "No space left on device"))
    assert await learn(parts)
    # That it passed is written down all the same, as far as that goes.
    assert noted(parts) == [("latest", DESCRIPTOR)]
    assert not parts.store.path(DESCRIPTOR.digest).exists()
    parts.fills.trouble.note(DiskTrouble("the disk is slow"))
    monkeypatch.setattr(parts.store.images, "saw", None)
    assert await learn(parts, "stuck")


@pytest.mark.parametrize("error", [OSError(errno.EROFS, "Read-only file system"), StoreError("no room")])
async def test_what_cannot_be_kept_passed_all_the_same(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr(parts.store, "put", failing)
    assert await learn(parts)


async def test_closing_waits_for_what_is_being_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with nothing_left(caplog):
        parts = parts_with(Hub(), tmp_path / "store", monkeypatch)
        task = parts.learn(of_manifest(parts, "latest"), "GET", given())
        assert task
        await asyncio.wait_for(parts.close(), BOUND)
        assert task.done()
        assert parts.store.path(DESCRIPTOR.digest).exists()


@pytest.mark.parametrize(
    ("content", "headers", "found"),
    [
        (b"a", {}, Descriptor(digest_of(b"a"), 1, TYPE)),
        (b"a", {"Content_Type": f"{TYPE}; charset=utf-8"}, Descriptor(digest_of(b"a"), 1, TYPE)),
        (b"a", {"Content_Type": ""}, Descriptor(digest_of(b"a"), 1)),
        (b"a", {"Docker_Content_Digest": str(digest_of(b"a"))}, Descriptor(digest_of(b"a"), 1, TYPE)),
        (
            b"a",
            {"Docker_Content_Digest": str(digest_of(b"a", "sha512"))},
            Descriptor(digest_of(b"a", "sha512"), 1, TYPE),
        ),
        (b"a", {"Docker_Content_Digest": str(digest_of(b"b"))}, None),
        (b"", {}, None),
        (b"", {"Docker_Content_Digest": str(digest_of(b"a"))}, Descriptor(digest_of(b"a"), 7, TYPE)),
        (b"", {"Docker_Content_Digest": str(digest_of(b"a")), "Content_Length": "-1"}, None),
        (b"", {"Docker_Content_Digest": str(digest_of(b"a")), "Content_Length": ""}, None),
        (b"", {"Docker_Content_Digest": str(digest_of(b"a")), "Content_Length": "0"}, None),
        (b"", {"Docker_Content_Digest": str(digest_of(b"a")), "Content_Length": str(LARGEST + 1)}, None),
        # More than SQLite or Python can take for a number.
        (b"", {"Docker_Content_Digest": str(digest_of(b"a")), "Content_Length": "9" * 20}, None),
        (b"", {"Docker_Content_Digest": str(digest_of(b"a")), "Content_Length": "9" * 5000}, None),
        # That is the length of something else.
        (b"", {"Docker_Content_Digest": str(digest_of(b"a")), "Content_Encoding": "gzip"}, None),
    ],
)
def test_what_an_answer_says_of_a_manifest(content: bytes, headers: dict[str, str], found: Descriptor | None) -> None:
    answer = given(content, **{"Content_Length": "7", **headers})
    assert described(answer, content) == found
