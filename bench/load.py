"""The load client: compiled once a run, started once a sample."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.programs import Failed, Missing, need, run

_SOURCE = Path(__file__).with_name("load.c")


@dataclass(frozen=True)
class Where:
    """How a side is reached: `port` is the registry's, or what CONNECT asks for where there is a proxy."""

    port: int
    ca: Path
    proxy: int | None = None
    hit: str = ""
    """What the head of each answer out of the cache holds."""
    miss: str = ""
    """The same, for an answer from upstream."""


@dataclass(frozen=True)
class Client:
    """What one client got."""

    slow: bool
    bytes: int
    seconds: float
    requests: int


@dataclass(frozen=True)
class Outcome:
    """What came of one load. Times are in seconds."""

    seconds: float
    clients: list[Client]
    first: list[float]
    """Per request, until the first byte of its body."""
    last: list[float]
    """Per request, until its last byte."""

    @property
    def bytes(self) -> int:
        """All bodies together."""
        return sum(client.bytes for client in self.clients)

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return self.bytes / self.seconds

    @property
    def requests(self) -> int:
        """Requests that were answered whole."""
        return len(self.last)

    @property
    def unfairness(self) -> float:
        """The slowest client's time over the median one's."""
        times = [client.seconds for client in self.clients if not client.slow]
        return max(times) / statistics.median(times)


class Load:
    """The compiled client."""

    def __init__(self, folder: Path) -> None:
        """Compile it.

        Raises:
            Missing: there is no C compiler, or no OpenSSL to compile with.
        """
        self._program = str(folder / "load")
        compiler = need("cc")
        try:
            run([compiler, "-O2", "-o", self._program, str(_SOURCE), "-lssl", "-lcrypto", "-lpthread"])
        except Failed as e:
            raise Missing(f"the load client needs OpenSSL's headers (Debian: libssl-dev): {e}") from e

    def __call__(
        self,
        where: Where,
        paths: Sequence[str],
        *,
        clients: int = 1,
        requests: int = 1,
        fresh: bool = False,
        slow: int = 0,
        slow_rate: int = 0,
        hit: bool | None = True,
    ) -> Outcome:
        """Put the load on a side; see load.c.

        Args:
            where: the side.
            paths: what is asked for, in turns.
            clients: how many at once.
            requests: of each client.
            fresh: a new connection for each request.
            slow: how many of the clients are slow.
            slow_rate: bytes per second of each slow one.
            hit: whether the answers are to come from the side's cache; None where it does not matter.

        Raises:
            Failed: an answer was not 200, or was cut, or did not come from where it was to come from.
        """
        command = [self._program, "-p", str(where.port), "-s", "localhost", "-a", str(where.ca)]
        command += ["-x", str(where.proxy)] if where.proxy else []
        command += ["-c", str(clients), "-n", str(requests), *(["-1"] if fresh else [])]
        command += ["-k", str(slow), "-r", str(slow_rate)] if slow else []
        expected = "" if hit is None else where.hit if hit else where.miss
        command += ["-e", expected] if expected else []
        found = json.loads(run([*command, *paths], {}))
        found["clients"] = [Client(**client) for client in found["clients"]]
        return Outcome(**found)
