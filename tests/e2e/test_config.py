"""How a start goes wrong, what a good one says, and how it ends."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..standin import Fault, Hub
from .clients.raw import Raw
from .programs import environment, eventually, need, run
from .proxies import ROOT, Pulltap, free_port
from .sockets import Server, tunnel

PROMPT = 30.0
"""Seconds: a start that fails, or an end, takes about one; a busy machine may need more."""
BEFORE = "# Three lines come first.\ntermlog_verbosity: alert\n\n"


@dataclass(frozen=True)
class Fails:
    """A config that cannot be used: what follows BEFORE, further arguments, and what is said about it.

    FOLDER stands for a folder of the test's own, FILE for the config file.
    """

    config: str
    says: tuple[str, ...]
    args: tuple[str, ...] = ()


FAILS = {
    "a misspelt option": Fails(
        "registry_hots: [ghcr.io]\n", ("FILE:4: unknown key registry_hots; did you mean registry_hosts?",)
    ),
    "a string for a list": Fails(
        "registry_hosts: ghcr.io\n", ("FILE:4: registry_hosts is 'ghcr.io', but is to be a list of strings",)
    ),
    "a choice that is none": Fails(
        "registry_access: perhaps\n", ("FILE:4: registry_access is 'perhaps', but is to be one of check, trust",)
    ),
    "a misspelt setting of a registry": Fails(
        "registries:\n  ghcr.io:\n    auth: inject\n    relams: [ghcr.io]\n",
        ("FILE:7: unknown key registries.ghcr.io.relams; did you mean realms?",),
    ),
    "a wrong setting of a registry": Fails(
        "registries:\n  ghcr.io:\n    auth: always\n",
        ("FILE:6: registries.ghcr.io.auth is 'always', but is to be one of inject, passthrough",),
    ),
    "a misspelt option of mitmproxy": Fails(
        "listen_prot: 3128\n", ("FILE:4: unknown key listen_prot; did you mean listen_port?",)
    ),
    "a string for a number of mitmproxy's": Fails(
        "listen_port: any\n", ("FILE:4: listen_port is 'any', but is to be",)
    ),
    "a string for a switch of mitmproxy's": Fails("http2: maybe\n", ("FILE:4: http2 is 'maybe', but is to be true",)),
    "a number for a key": Fails("5: 6\n", ("FILE:4: 5 is no option's name",)),
    "no YAML": Fails("registry_hosts: [ghcr.io\nregistry_access: check\n", ("FILE:5: this is not YAML: ",)),
    "a Docker config that is not there": Fails(
        "registry_docker_config: FOLDER/none.json\n", ("FILE:4: registry_docker_config: there is no FOLDER/none.json",)
    ),
    "a registry on the command line": Fails(
        "", ("registries is set in the config file, and nowhere else",), ("--set", "registries.ghcr.io.auth=inject")
    ),
    "a store below a file": Fails(
        "registry_store: FILE/store\n",
        ("FILE:4: cannot use FILE/store as store: Not a directory", "name another folder in registry_store"),
    ),
    "a store in a folder of something else": Fails(
        "registry_store: FOLDER\n", ("FILE:4: FOLDER is no store: it holds 'config.yaml'",)
    ),
    "a misspelt option on the command line": Fails(
        "", ("unknown key registry_hots; did you mean registry_hosts?",), ("--set", "registry_hots=ghcr.io")
    ),
}


@dataclass(frozen=True)
class Start:
    """A start that is over."""

    folder: Path
    status: int
    said: str
    seconds: float


def start(folder: Path, case: Fails) -> Start:
    """Run ./run.sh to its end."""
    config = folder / "config.yaml"
    config.write_text((BEFORE + case.config).replace("FILE", str(config)).replace("FOLDER", str(folder)))
    users = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    own = {"PULLTAP_HOME": f"{folder}-home", "PULLTAP_CONFIG": str(config), "XDG_CACHE_HOME": f"{folder}-cache"}
    begun = time.monotonic()
    done = subprocess.run(
        [str(ROOT / "run.sh"), "-p", str(free_port()), *case.args],
        env={**users, **own},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Start(folder, done.returncode, done.stdout + done.stderr, time.monotonic() - begun)


@pytest.fixture(scope="module")
def starts(docker_hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Start]]]:
    """All starts that fail, at once on all processors."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {name: pool.submit(start, tmp_path_factory.mktemp("start"), case) for name, case in FAILS.items()}


@pytest.mark.parametrize("name", FAILS)
def test_a_start_that_fails_says_why(starts: dict[str, Future[Start]], name: str) -> None:
    ended = starts[name].result()
    assert ended.status not in (0, None)
    for words in FAILS[name].says:
        assert words.replace("FILE", f"{ended.folder}/config.yaml").replace("FOLDER", str(ended.folder)) in ended.said
    assert "Traceback" not in ended.said
    assert "listens on" not in ended.said
    assert ended.seconds < PROMPT
    # Nothing was made on the way that the next start would stumble over.
    assert {path.name for path in ended.folder.iterdir()} == {"config.yaml"}


class Session(Pulltap):
    """Pulltap, whose end is looked at."""

    def end(self, signum: signal.Signals) -> int:
        """End it; its exit status."""
        assert self._daemon
        daemon, self._daemon = self._daemon, None
        return daemon.stop(signum)


@pytest.fixture
def session(hub: Hub, tmp_path: Path) -> Iterator[Session]:
    with ExitStack() as stack:
        session = Session(tmp_path / "session", hub)
        stack.callback(session.stop)
        yield session
    assert not session.trouble(), session.trouble()


def banner(session: Session) -> dict[str, str]:
    """The first lines that it prints: what they are about, and what they say."""
    eventually(lambda: re.search(r"(?m)^  next .*\n", session.log()) is not None, "the banner")
    return dict(re.findall(r"(?m)^  (\w[\w ]*?)  +(\S.*)$", session.log()))


def test_a_start_says_where_things_are_and_what_to_try(session: Session, hub: Hub, tmp_path: Path) -> None:
    lines = banner(session)
    assert re.search(r"Pulltap \d+\.\d+\.\d+$", session.log().splitlines()[0])
    assert lines["listens on"] == f"127.0.0.1:{session.port}"
    assert lines["store"].startswith(f"{session.store} (up to 50")
    assert lines["trust"] == str(session.home / "mitmproxy-ca-cert.pem")
    assert Path(lines["trust"]).read_text().startswith("-----BEGIN CERTIFICATE-----")
    assert (ROOT / "README.md").exists() or "README.md" not in lines["next"]

    need("curl")
    hub.push("library/alpine", "3.22", sizes=(1000,))
    tried = run(["sh", "-c", lines["try"]], environment(tmp_path))
    assert json.loads(tried) == {"name": "library/alpine", "tags": ["3.22"]}
    assert session.end(signal.SIGTERM) == 0


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_in_the_midst_of_things(session: Session, hub: Hub, signum: signal.Signals) -> None:
    image = hub.push("library/ends", sizes=(3_000_000,), seed=int(signum))
    url = hub.url(image.blob_path(image.layers[0]))
    stalled = hub.faults.add(Fault(host=hub.names.cdn, stall_after=1_000_000))
    raw = Raw(session.port, session.ca)
    with Server(lambda peer: peer.send(peer.rest())) as server, tunnel(session.port, server.address) as open_tunnel:
        open_tunnel.send(b"\x00")
        following = raw.open("GET", url)
        assert following.read(500_000)
        assert stalled.reached.wait(30)
        ingests = session.store / "pulltap" / "ingest"
        assert list(ingests.iterdir())
        begun = time.monotonic()
        assert session.end(signum) == 0
        assert time.monotonic() - begun < PROMPT
        assert not following.rest().whole
        following.close()
    assert not [path for path in session.store.glob("blobs/*/*") if path.is_file()]
    content = hub.content(image.layers[0])
    # What arrived is left to the next attempt, after the next start.
    (left,) = ingests.iterdir()
    kept = left.read_bytes()
    assert content.startswith(kept)

    stalled.release.set()
    hub.clear()
    session.start()
    assert raw.request("GET", url).body == content
    assert [record.header("Range") for record in hub.find(host=hub.names.cdn)] == [f"bytes={len(kept)}-"]
    eventually(lambda: not list(ingests.iterdir()), "the commit")
