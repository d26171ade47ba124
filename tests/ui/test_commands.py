"""The store's commands in mitmproxy's prompt."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest
from mitmproxy import ctx, exceptions
from mitmproxy.log import ALERT

from addon.parts import Parts
from addon.registry.digest import Digest
from addon.registry.reference import Reference
from addon.store.disk import Store
from addon.ui.commands import Commands
from addon.ui.warming import own_platform

from ..doubles import BOUND, digest_of
from ..store.blobs import put
from ..store.pulled import Pulls, index, manifest
from .warmed import REPOSITORY, SlowHub, image

ALPINE = "docker.io/library/alpine:latest"
NAMES = {f"registry.{name}" for name in ("stats", "ls", "pin", "unpin", "verify", "purge", "gc", "warm")}


@pytest.fixture
async def commands(parts: Parts, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Commands]:
    caplog.set_level(ALERT)
    commands = Commands(lambda: parts)
    ctx.master.commands.collect_commands(commands)
    yield commands
    await commands.done()


@pytest.fixture
def store(parts: Parts) -> Store:
    return parts.store


@pytest.fixture
def pulls(store: Store) -> Pulls:
    return Pulls(store)


def typed(line: str) -> Any:
    """What the prompt shows for a line at once."""
    return ctx.master.commands.execute(line)


async def told(caplog: pytest.LogCaptureFixture, commands: Commands, line: str) -> str:
    """What the event log says in the end."""
    caplog.clear()
    assert typed(line) is None
    if commands._tasks:
        await asyncio.wait(commands._tasks, timeout=BOUND)
    return caplog.messages[-1]


# What is shown at once.


async def test_they_are_there_and_explain_themselves(commands: Commands) -> None:
    found = {name: command for name, command in ctx.master.commands.commands.items() if name.startswith("registry.")}
    assert set(found) == NAMES
    assert all(command.help for command in found.values())
    assert commands._tasks == set()


async def test_numbers(commands: Commands, store: Store) -> None:
    put(store, b"a layer")
    lines = typed("registry.stats")
    assert lines[0] == "blobs           1, 7 B"
    assert any(line.startswith("hits            0") for line in lines)
    assert commands._tasks == set()


async def test_images(commands: Commands, pulls: Pulls) -> None:
    assert typed("registry.ls") == ["no image is known yet"]
    amd, arm = manifest(b"one"), manifest(b"two")
    pulls.index("alpine", linux_amd64=amd, linux_arm64=arm)
    for content in (amd, arm):
        pulls.passed(f"alpine@{digest_of(content)}", content)
    pulls.image("ghcr.io/a/b:1", b"three")
    pulls.store.images.pin(Reference.parse("ghcr.io/a/b:1"))
    first, second = cast(Sequence[str], typed("registry.ls"))
    assert first.split()[:3] == ["ghcr.io/a/b:1", "-", "2/2"]
    assert first.endswith("pinned")
    # The config is there since the other image has it, too.
    assert second.split()[:3] == [ALPINE, "linux/amd64,linux/arm64", "1/2,1/2"]
    assert commands._tasks == set()


async def test_pins(commands: Commands, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    typed("registry.pin alpine")
    assert store.images.pins() == [Reference.parse("alpine")]
    typed("registry.unpin alpine")
    typed("registry.unpin alpine")
    assert store.images.pins() == []
    assert caplog.messages == [f"{ALPINE} is pinned", f"{ALPINE} may go again", f"{ALPINE} was not pinned"]
    assert commands._tasks == set()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("registry.pin 'Al Pine'", "no image: 'Al Pine'"),
        ("registry.unpin alpine:", "no image: 'alpine:'"),
        ("registry.warm alpine Alpine", "no image: 'Alpine'"),
        ("registry.warm", "name images"),
        ("registry.purge", "name images, or digests of blobs"),
        ("registry.purge --yes", "name images, or digests of blobs"),
        ("registry.gc all", "registry.gc takes --yes, and nothing else"),
    ],
)
async def test_words_that_mean_nothing(commands: Commands, line: str, message: str) -> None:
    with pytest.raises(exceptions.CommandError, match=message):
        typed(line)
    assert commands._tasks == set()


async def test_a_store_that_cannot_be_used(commands: Commands, store: Store) -> None:
    store._catalog.close()
    for line in ("registry.stats", "registry.ls", "registry.pin alpine", "registry.unpin alpine"):
        with pytest.raises(exceptions.CommandError, match=r"cannot use .*catalog\.db"):
            typed(line)
    assert commands._tasks == set()


async def test_before_the_start_there_is_nothing_to_work_on(parts: Parts) -> None:
    def in_use() -> Parts:
        raise exceptions.CommandError("Pulltap has not started")

    ctx.master.commands.collect_commands(Commands(in_use))
    arguments = {"registry.pin": " alpine", "registry.unpin": " alpine", "registry.purge": " a", "registry.warm": " a"}
    for name in NAMES:
        with pytest.raises(exceptions.CommandError, match="Pulltap has not started"):
            typed(name + arguments.get(name, ""))
    assert parts.store.inventory.entries() == []


async def test_they_work_on_what_is_in_use_by_then(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = Parts(parts.settings)
    in_use = [parts, other]
    ctx.master.commands.collect_commands(Commands(lambda: in_use[-1]))
    other.store = Store(tmp_path_factory.mktemp("other") / "store")
    put(other.store, b"a layer")
    assert typed("registry.stats")[0] == "blobs           1, 7 B"
    in_use.pop()
    assert typed("registry.stats")[0] == "blobs           0, 0 B"
    await other.close()


# What takes long, and is told in the event log.


async def test_verifying(commands: Commands, store: Store, pulls: Pulls, caplog: pytest.LogCaptureFixture) -> None:
    assert await told(caplog, commands, "registry.verify") == "registry.verify: 0 blobs, all good"
    pulls.image("alpine", b"a layer")
    bad = put(store, b"another")
    store.path(bad).write_bytes(b"changed")
    assert await told(caplog, commands, "registry.verify alpine") == "registry.verify: 3 blobs, all good"
    assert await told(caplog, commands, f"registry.verify {bad.short} alpine") == "registry.verify: 1 blob bad, 3 good"
    assert not store.path(bad).exists()
    assert caplog.records[-1].levelno == ALERT
    assert await told(caplog, commands, "registry.verify") == "registry.verify: 3 blobs, all good"


async def test_verifying_goes_on_behind_what_cannot_be_read(
    commands: Commands, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    unreadable, gone = put(store, b"unreadable"), put(store, b"gone")
    put(store, b"good")
    verify = store.verify

    def failing(digest: Digest, *args: Any) -> bool | None:
        if digest == unreadable:
            raise PermissionError(13, "Permission denied")
        if digest == gone:
            store.remove([digest])
        return verify(digest, *args)

    monkeypatch.setattr(store, "verify", failing)
    assert await told(caplog, commands, "registry.verify") == ("registry.verify: 1 blob bad, 1 good, 1 went meanwhile")
    assert f"blob {unreadable} cannot be read: Permission denied" in caplog.messages


async def test_purging_says_first_what_goes(
    commands: Commands, store: Store, pulls: Pulls, caplog: pytest.LogCaptureFixture
) -> None:
    pulls.image("alpine", b"a layer")
    said = f"{ALPINE}, 3 blobs, {store.inventory.total()} B"
    assert await told(caplog, commands, "registry.purge alpine") == f"registry.purge: with --yes, this goes: {said}"
    assert len(store.inventory.entries()) == 3
    reader = store.open(digest_of(b"a layer"))
    assert reader is not None
    line = "registry.purge --yes alpine"
    assert await told(caplog, commands, line) == f"registry.purge: removed {said}; 1 stay: they are being read"
    reader.close()
    assert store.images.all() == []
    assert [entry.digest for entry in store.inventory.entries()] == [digest_of(b"a layer")]
    digest = digest_of(b"a layer").short
    assert await told(caplog, commands, f"registry.purge {digest} --yes") == "registry.purge: removed 1 blob, 7 B"
    assert store.inventory.entries() == []


async def test_what_is_of_no_use(commands: Commands, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    put(store, b"a layer")
    assert await told(caplog, commands, "registry.gc") == "registry.gc: there is nothing to remove"
    (store.layout.quarantine / "bad").write_bytes(bytes(1024))
    assert await told(caplog, commands, "registry.gc") == "registry.gc: with --yes, this goes: 1.0 KiB of bad blobs"
    assert await told(caplog, commands, "registry.gc --yes") == "registry.gc: 1.0 KiB went; 7 B are in the store"


async def test_warming(commands: Commands, parts: Parts, hub: SlowHub, caplog: pytest.LogCaptureFixture) -> None:
    image(hub, "latest", b"layer")
    inner = manifest(b"more", config=b"for another")
    for blob in (b"more", b"for another"):
        hub.push(REPOSITORY, blob)
    hub.tag(REPOSITORY, "3", inner)
    top = index(**{own_platform().replace("/", "_", 1): inner})
    hub.tag(REPOSITORY, "index", top)
    said = await told(caplog, commands, "registry.warm alpine alpine:index")
    assert said.startswith(f"registry.warm: {ALPINE}: 2 blobs, 7 B; all fetched; docker.io/library/alpine:index for ")
    assert parts.store.path(digest_of(b"more")).exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("registry.verify busybox", "registry.verify: no image 'busybox'"),
        ("registry.purge sha256:0000000", "registry.purge: no blob sha256:0000000 is in the store"),
        ("registry.warm alpine:gone", "registry.warm: docker.io/library/alpine:gone: it is not there"),
        ("registry.warm quay.io/a/b", "registry.warm: quay.io is not among registry_hosts"),
    ],
)
async def test_what_goes_wrong_is_told(
    commands: Commands, caplog: pytest.LogCaptureFixture, line: str, said: str
) -> None:
    assert (await told(caplog, commands, line)).startswith(said)
    assert caplog.records[-1].levelno == logging.ERROR


async def test_a_disk_that_fails_is_told(commands: Commands, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store._catalog.close()
    for name in ("registry.verify", "registry.gc", "registry.purge alpine"):
        said = await told(caplog, commands, name)
        assert said.startswith(f"{name.split()[0]}: cannot use ")


# The end.


async def test_the_end_gives_up_what_is_under_way(
    commands: Commands, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for n in range(3):
        put(store, b"%d" % n * 100)
    begun, go_on, loop = asyncio.Event(), threading.Event(), asyncio.get_running_loop()
    looked: list[Digest] = []
    ended: list[bool] = []
    over = asyncio.Event()
    verify = store.verify

    def slowly(digest: Digest, progress: Any) -> bool | None:
        looked.append(digest)
        loop.call_soon_threadsafe(begun.set)
        assert go_on.wait(BOUND)
        try:
            return verify(digest, progress)
        except Exception:
            ended.append(True)
            raise
        finally:
            loop.call_soon_threadsafe(over.set)

    monkeypatch.setattr(store, "verify", slowly)
    typed("registry.verify")
    async with asyncio.timeout(BOUND):
        await begun.wait()
        # Nobody waits for the thread, which ends in the midst of its blob, however large that is.
        await commands.done()
        go_on.set()
        await over.wait()
    assert (len(looked), ended) == (1, [True])
    assert caplog.messages == []
    assert commands._tasks == set()


async def test_pulls_that_are_under_way_are_given_up_as_well(
    commands: Commands, hub: SlowHub, caplog: pytest.LogCaptureFixture
) -> None:
    image(hub, "latest", b"layer")
    hub.hold(b"layer")
    typed("registry.warm alpine")
    await hub.held()
    await commands.done()
    await commands.done()
    assert commands._tasks == set()
    assert caplog.messages == []
