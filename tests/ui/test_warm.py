"""`./run.sh warm`: mitmproxy without a listening proxy, which ends once the images are there."""

import argparse
import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from mitmproxy import ctx, options
from mitmproxy.addons import dumper, termlog
from mitmproxy.tools import cmdline, dump
from mitmproxy.tools import main as tools
from rich.console import Console
from rich.progress import Progress

from addon.parts import Parts
from addon.registry.manifest import Descriptor
from addon.registry.reference import Reference
from addon.ui import warm as module
from addon.ui.terminal import INTERRUPTED
from addon.ui.warming import FETCHED, STORED, Part

from ..doubles import BOUND, digest_of, open_files
from .warmed import ARM64, REPOSITORY, SlowHub, image, stored

Master = Callable[[options.Options], dump.DumpMaster]


class Pulltap:
    """In the place of the addon that holds the parts."""

    name = "pulltap"

    def __init__(self, parts: Parts) -> None:
        self.in_use = lambda: parts


class Errand:
    """The addon with its hooks, as mitmproxy calls them."""

    def __init__(self, parts: Parts, *images: str, platforms: Sequence[str] = ("linux/amd64",)) -> None:
        self.addon = module._Errand([Reference.parse(image) for image in images], list(platforms))
        if ctx.master.addons.get("pulltap") is None:
            ctx.master.addons.add(Pulltap(parts))
        self._over = asyncio.Event()
        ctx.master.shutdown = self._over.set  # type: ignore[method-assign]

    @property
    def over(self) -> bool:
        """Whether mitmproxy was told to end."""
        return self._over.is_set()

    async def run(self) -> int:
        """From mitmproxy's start to its end; the exit status."""
        self.addon.running()
        await asyncio.wait_for(self._over.wait(), BOUND)
        await self.addon.done()
        return self.addon.status


ALPINE = "docker.io/library/alpine:latest"


async def test_images_are_fetched_one_after_the_other(
    parts: Parts, hub: SlowHub, capsys: pytest.CaptureFixture[str]
) -> None:
    image(hub, "latest", b"layer")
    image(hub, "3.20", b"layer", b"more")
    assert await Errand(parts, "alpine", "alpine:3.20").run() == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines() == [
        f"{ALPINE}: 2 blobs, 7 B; all fetched",
        "docker.io/library/alpine:3.20: 3 blobs, 11 B; 4 B fetched, 2 blobs stored already",
    ]
    assert not shown.err
    assert stored(parts, digest_of(b"more"))


@pytest.mark.parametrize("images", [["alpine:gone", "alpine"], ["alpine", "alpine:gone"]])
async def test_one_that_fails_holds_up_no_other(
    parts: Parts, hub: SlowHub, capsys: pytest.CaptureFixture[str], images: list[str]
) -> None:
    image(hub, "latest", b"layer")
    assert await Errand(parts, *images).run() == 1
    shown = capsys.readouterr()
    assert shown.out == f"{ALPINE}: 2 blobs, 7 B; all fetched\n"
    assert shown.err == (
        "run.sh warm: docker.io/library/alpine:gone: it is not there (registry-1.docker.io answered 404 to gone)\n"
    )


async def test_a_registry_that_is_none_of_ours(parts: Parts, capsys: pytest.CaptureFixture[str]) -> None:
    assert await Errand(parts, "quay.io/a/b").run() == 1
    assert capsys.readouterr().err == "run.sh warm: quay.io is not among registry_hosts: its blobs are not kept\n"


async def test_what_a_registry_says_is_no_markup(
    parts: Parts, hub: SlowHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.tag(REPOSITORY, "latest", b'{"config": {"size": "[bold]x[/bold]", "digest": ""}}')
    assert await Errand(parts, "alpine").run() == 1
    assert "[bold]x[/bold]" in capsys.readouterr().err


async def test_a_fault_of_ours_ends_it_as_well(
    parts: Parts, hub: SlowHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(*_: object) -> None:
        raise RuntimeError("a fault")

    image(hub, "latest", b"layer")
    monkeypatch.setattr(module, "told", failing)
    errand = Errand(parts, "alpine")
    errand.addon.running()
    task = errand.addon._task
    assert task
    with pytest.raises(RuntimeError, match="a fault"):
        await task
    assert (errand.over, errand.addon.status) == (True, 1)
    await errand.addon.done()
    assert not capsys.readouterr().out


async def test_it_is_ended_before_it_is_through(parts: Parts, hub: SlowHub, capsys: pytest.CaptureFixture[str]) -> None:
    image(hub, "latest", b"layer")
    hub.hold(b"layer")
    errand = Errand(parts, "alpine")
    errand.addon.running()
    await hub.held()
    assert not errand.over
    await errand.addon.done()
    assert (errand.over, errand.addon.status) == (True, INTERRUPTED)
    assert errand.addon._task is None
    assert capsys.readouterr().err == "stopped; what has come is kept\n"


async def test_it_is_ended_before_it_began(parts: Parts) -> None:
    errand = Errand(parts, "alpine")
    await errand.addon.done()
    assert errand.addon.status == 1


# In a terminal.


def test_each_blob_is_a_bar() -> None:
    progress = Progress(console=Console(quiet=True))
    watch = module._Watch(progress)
    first, second = (Part(Descriptor(digest_of(content), 1000)) for content in (b"first", b"second"))
    short = first.descriptor.digest.short
    watch(first)
    watch(second)
    first.received = 300
    watch(first)
    assert [(task.description, task.completed, task.total) for task in progress.tasks] == [
        (short, 300, 1000),
        (second.descriptor.digest.short, 0, 1000),
    ]
    first.received, first.note = 1000, FETCHED
    second.received, second.note = 1000, STORED
    watch(first)
    watch(second)
    assert [task.description for task in progress.tasks] == [
        f"{short} fetched",
        f"{second.descriptor.digest.short} was stored",
    ]
    assert progress.finished


# Mitmproxy around it.


class Tools:
    """In the place of `mitmproxy.tools.main.run`: makes the master, and does what the test says with it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, inside: Callable[[dump.DumpMaster], None]) -> None:
        self.arguments: Sequence[str] = ()
        self._inside = inside
        monkeypatch.setattr(tools, "run", self)

    def __call__(self, made: Master, parser: object, arguments: Sequence[str]) -> None:
        assert parser is cmdline.mitmdump
        self.arguments = arguments

        async def run() -> None:
            master = made(options.Options())
            try:
                self._inside(master)
            finally:
                master._legacy_log_events.uninstall()
                for addon in master.addons.chain:
                    if isinstance(addon, termlog.TermLog):
                        addon.uninstall()
                errorcheck = master.addons.get("errorcheck")
                errorcheck.finish()

        asyncio.run(run())


def chosen(*images: str, platform: list[str] | None = None) -> argparse.Namespace:
    return argparse.Namespace(images=list(images), platform=platform)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("PULLTAP_HOME", str(tmp_path))
    return tmp_path


def test_mitmproxy_listens_to_nobody_and_is_silent(
    monkeypatch: pytest.MonkeyPatch, home: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    # As mitmproxy does it.
    caplog.set_level(logging.DEBUG)
    made: list[dump.DumpMaster] = []

    def inside(master: dump.DumpMaster) -> None:
        made.append(master)
        logging.getLogger("addon.some").info("of no concern")
        logging.getLogger("addon.some").warning("of [concern] to people")
        errand = master.addons.get("_errand")
        assert [str(reference) for reference in errand._references] == [ALPINE]
        assert errand._platforms == [ARM64]
        errand.status = 0

    files = open_files()
    started = Tools(monkeypatch, inside)
    status = module.run(chosen("alpine", platform=[ARM64]), ["--mode", "upstream:http://proxy:8080"])
    assert status == 0
    assert started.arguments == [
        "--no-server",
        "--set",
        f"confdir={home}",
        "-s",
        str(module.ADDON),
        "--mode",
        "upstream:http://proxy:8080",
    ]
    assert module.ADDON.name == "main.py"
    assert module.ADDON.exists()
    assert capsys.readouterr() == ("", "of [concern] to people\n")
    # Its options are there for the config file, but nothing of what it shows.
    (master,) = made
    assert {"termlog_verbosity", "flow_detail"} <= set(master.options.keys())
    shown = [addon for addon in master.addons.chain if isinstance(addon, dumper.Dumper | termlog.TermLog)]
    assert len(shown) == 2
    (flows,) = (addon for addon in shown if isinstance(addon, dumper.Dumper))
    assert flows.outfp.name == os.devnull
    assert open_files() == files
    assert not [each for each in logging.getLogger().handlers if isinstance(each, module._Problems)]


@pytest.mark.usefixtures("home")
def test_without_a_platform_it_is_this_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "own_platform", lambda: "linux/riscv64")

    def inside(master: dump.DumpMaster) -> None:
        assert master.addons.get("_errand")._platforms == ["linux/riscv64"]

    Tools(monkeypatch, inside)
    # Nobody said that it went well.
    assert module.run(chosen("alpine"), []) == 1


@pytest.mark.usefixtures("home")
def test_a_start_that_fails_leaves_no_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    def inside(_: dump.DumpMaster) -> None:
        raise SystemExit(1)

    Tools(monkeypatch, inside)
    with pytest.raises(SystemExit):
        module.run(chosen("alpine"), [])
    assert not [each for each in logging.getLogger().handlers if isinstance(each, module._Problems)]


@pytest.mark.usefixtures("home")
def test_what_is_no_image_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    started = Tools(monkeypatch, lambda _: None)
    with pytest.raises(ValueError, match=r"^no image: 'A b'"):
        module.run(chosen("alpine", "A b"), [])
    assert not started.arguments
