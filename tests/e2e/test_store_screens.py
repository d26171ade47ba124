"""The store's commands as people see them: in a terminal, and in the prompt of mitmproxy's own interface."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ..standin import Hub
from .beside import Beside
from .programs import eventually
from .proxies import Pulltap, free_port
from .screen import Screen
from .stores import fill, indexed, small, stored

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def proxy(docker_hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pulltap]:
    """Pulltap as shipped, beside which most of these commands run; each test brings images of its own."""
    pulltap = Pulltap(tmp_path_factory.mktemp("screens") / "proxy", docker_hub)
    yield pulltap
    pulltap.stop()
    assert not pulltap.trouble(), pulltap.trouble()


@pytest.fixture
def beside(hub: Hub, proxy: Pulltap) -> Beside:
    return Beside.of(proxy, hub)


@pytest.fixture
def terminal() -> Iterator[Callable[[Screen], Screen]]:
    """Ends a terminal with the test."""
    with ExitStack() as stack:

        def take(screen: Screen) -> Screen:
            stack.callback(screen.stop)
            return screen

        yield take


def test_at_a_terminal_it_asks_first(
    hub: Hub, proxy: Pulltap, beside: Beside, tmp_path: Path, terminal: Callable[[Screen], Screen]
) -> None:
    image = small(hub, "asked")
    fill(hub, proxy, image)
    for number, (answer, status, said) in enumerate(
        [("", 1, "Nothing was removed."), ("y", 0, "4 blobs, 211.2 KiB went")]
    ):
        screen = terminal(beside.store_on(tmp_path / f"terminal-{number}", "rm", "asked"))
        shown = screen.wait_for("Go on? [y/N]")
        assert "This is removed:\n  docker.io/library/asked:latest (sha256:" in shown
        assert stored(proxy, image.layers[1]).exists()
        screen.type(answer)
        screen.press("Enter")
        assert screen.wait_for_end() == status
        assert said in screen.text
    assert not stored(proxy, image.layers[1]).exists()


def test_verify_shows_how_far_it_is(
    hub: Hub, proxy: Pulltap, beside: Beside, tmp_path: Path, terminal: Callable[[Screen], Screen]
) -> None:
    image = small(hub, "shown", 5 * MIB)
    fill(hub, proxy, image)
    screen = terminal(beside.store_on(tmp_path / "terminal", "verify", "shown", columns=80))
    assert screen.wait_for_end() == 0
    bar, said = screen.text.splitlines()[:2]
    assert re.fullmatch(r"verify ━+ 5\.0 MiB of 5\.0 MiB +[\d.]+ [KMG]iB/s 0:00:00", bar)
    assert said == "3 blobs, all good"


def test_a_narrow_terminal_cuts_nothing(
    hub: Hub, proxy: Pulltap, beside: Beside, tmp_path: Path, terminal: Callable[[Screen], Screen]
) -> None:
    image = small(hub, "an-image/with-a-name/that-goes-on/and-on")
    fill(hub, proxy, image)
    screen = terminal(beside.store_on(tmp_path / "terminal", "ls", columns=70))
    assert screen.wait_for_end() == 0
    lines = screen.text.splitlines()
    column = lines[0].index("PLATFORM")
    # Long names go on in the next line, and in nothing but their own column.
    assert f"docker.io/{image.reference}" in "".join(line[:column].strip() for line in lines[1:])
    assert sum(line[column:].split()[:3] == ["-", "3/3", "211.2"] for line in lines) >= 1


def prompt(console: Screen, command: str, answer: str) -> str:
    """Type a command into the prompt; the screen once the answer is on it."""
    console.type(f":{command}")
    console.wait_for(f"\n: {command}")
    console.press("Enter")
    return console.wait_for(answer)


def test_mitmproxys_prompt_has_the_same(hub: Hub, tmp_path: Path, terminal: Callable[[Screen], Screen]) -> None:
    beside = Beside.alone(tmp_path / "console", hub)
    images = {f"docker.io/{small(hub, name).reference}" for name in ("prompted", "purged")}
    assert beside.warm(*images).status == 0
    console = terminal(beside.console_on(tmp_path / "terminal", free_port()))
    console.wait_for("Proxy:")
    shown = prompt(console, "registry.stats", "Data viewer")
    assert re.search(r"│blobs +8, 422\.\d KiB +│", shown)
    console.press("q")
    shown = prompt(console, "registry.ls", "Data viewer")
    assert re.search(r"│docker\.io/library/prompted:latest  -  3/3  211\.\d KiB  \d+ s ago +│", shown)
    console.press("q")
    prompt(console, "registry.verify", "registry.verify: 8 blobs, all good")
    prompt(console, "registry.pin prompted", "docker.io/library/prompted:latest is pinned")
    prompt(console, "registry.gc", "registry.gc: there is nothing to remove")
    prompt(console, "registry.purge nothing", "registry.purge: no image 'nothing'")
    prompt(console, "registry.purge purged", "with --yes, this goes: docker.io/library/purged:latest, 4 blobs, 21")
    assert indexed(beside.store_path).keys() == images
    prompt(console, "registry.purge purged --yes", "removed docker.io/library/purged:latest, 4 blobs, 21")
    assert indexed(beside.store_path).keys() == {"docker.io/library/prompted:latest"}
    shown = prompt(console, "registry.warm purged", "registry.warm: docker.io/library/purged:latest: 3 blobs, 21")
    # The requests that this took are flows like any other, and nothing is written over them.
    assert re.search(r"GET +\S+ /v2/library/purged/manifests/latest", shown)
    assert "server connect" not in shown
    eventually(lambda: indexed(beside.store_path).keys() == images, "the image in index.json")
