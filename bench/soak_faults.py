"""What upstream does wrong during a soak: rules of the stand-in that apply by chance."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.standin import Fault, Hub

KIB, MIB = 1 << 10, 1 << 20


@dataclass(eq=False)
class Chance(Fault):
    """A rule that applies to some of the requests that match it, for as long as it is in force."""

    name: str = ""
    chance: float = 0.0
    """The share of the matching requests that it hits."""
    source: random.Random = field(default_factory=random.Random)
    longest_stall: float = 3.0
    """Seconds."""

    def draw(self) -> bool:
        """Whether it applies; `Faults` holds its lock meanwhile."""
        applies = self.source.random() < self.chance
        self.hits += applies
        return applies

    def wait(self) -> None:
        """Stall for a short while; nobody has to release it."""
        self.reached.set()
        self.release.wait(self.source.uniform(0.2, self.longest_stall))


def weather(hub: Hub, seed: int) -> list[Chance]:
    """Put all rules into force."""
    source = random.Random(f"{seed} faults")  # noqa: S311 (which request is hit is no secret)
    rules = [Chance(source=source, **rule) for rule in _rules(hub)]
    for rule in rules:
        hub.faults.add(rule)
    return rules


def _rules(hub: Hub) -> Iterator[dict[str, Any]]:
    registry, auth, cdn = hub.names.registry, hub.names.auth, hub.names.cdn
    for host in (registry, auth, cdn):
        yield {"name": "reset as TLS begins", "chance": 0.003, "host": host, "accept": "reset"}
    soon = (("Retry-After", "1"),)
    for status in (429, 500, 503):
        yield {"name": str(status), "chance": 0.005, "host": registry, "status": status, "headers": soon}
        yield {"name": f"token service: {status}", "chance": 0.05, "host": auth, "status": status, "headers": soon}
    yield {
        "name": "token service: an empty token",
        "chance": 0.03,
        "host": auth,
        "status": 200,
        "body": b'{"token":""}',
    }
    yield {"name": "token service: cut", "chance": 0.05, "host": auth, "cut_after": -1}
    yield {"name": "registry: cut", "chance": 0.005, "host": registry, "cut_after": -1}
    yield {"name": "registry: late head", "chance": 0.005, "host": registry, "hold_headers": True}
    for status in (500, 503):
        yield {"name": f"CDN: {status}", "chance": 0.01, "host": cdn, "status": status}
    expired = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
    yield {"name": "CDN: link has expired", "chance": 0.02, "host": cdn, "status": 403, "body": expired}
    for at in (-1, 0, 1, 100 * KIB, MIB, 5 * MIB):
        yield {"name": "CDN: cut", "chance": 0.012, "host": cdn, "cut_after": at}
        yield {"name": "CDN: reset", "chance": 0.006, "host": cdn, "cut_after": at, "reset": True}
    for at in (0, 50 * KIB, 2 * MIB):
        yield {"name": "CDN: stall", "chance": 0.01, "host": cdn, "stall_after": at}
    for at in (0, 1000, MIB):
        yield {"name": "CDN: wrong byte", "chance": 0.008, "host": cdn, "corrupt_at": at}
    yield {"name": "CDN: no length", "chance": 0.02, "host": cdn, "framing": "chunked"}
    yield {"name": "CDN: slow", "chance": 0.02, "host": cdn, "bytes_per_second": 3 * MIB}


def counts(rules: list[Chance]) -> dict[str, int]:
    """How often each kind applied; several rules may be of one kind."""
    found: dict[str, int] = {}
    for rule in rules:
        found[rule.name] = found.get(rule.name, 0) + rule.hits
    return found
