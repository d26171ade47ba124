"""Faults on purpose. A rule names the requests it is for, how often it applies, and what goes wrong.

fault = hub.faults.add(Fault(host=hub.names.cdn, stall_after=1000))
...                         # start a pull
fault.reached.wait(30)      # the client has 1000 bytes and waits
fault.release.set()         # now it gets the rest
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from .records import Headers

if TYPE_CHECKING:
    from .wire import Request

STALL_BOUND = 120.0
"""Seconds after which a stall that no test released is an error of the test."""


class Cut(Exception):
    """The connection is to end here, without the rest of the answer."""


@dataclass(eq=False)
class Fault:
    """One rule; effects may be combined. The first rule that matches a request and is not used up applies."""

    # Which requests; an empty field matches all.
    host: str = ""
    method: str = ""
    path: str = ""
    """Prefix of the path."""
    path_contains: str = ""
    when: "Callable[[Request], bool] | None" = None
    """For anything else, such as "has a Range header"."""
    skip: int = 0
    """Let this many matching requests pass first."""
    times: int | None = 1
    """How often it applies; None is for ever."""

    # What happens to the connection, before any request is read; such a rule looks at `host` alone.
    accept: Literal["", "reset", "untrusted", "misnamed", "expired"] = ""
    """`reset` ends it as TLS begins. The others present a certificate that is not good: of an authority that no client
    knows, for another name, or out of date."""

    # What happens to the answer.
    status: int | None = None
    """Answer this, with `headers` and `body`, and do not ask further."""
    headers: Headers = ()
    """These replace headers of the same name in whichever answer goes out."""
    body: bytes = b""
    hold_headers: bool = False
    """Send nothing at all until `release` is set."""
    stall_after: int | None = None
    """Send that many bytes of the body, then wait for `release`."""
    cut_after: int | None = None
    """End the connection after that many bytes of the body; -1 ends it before the head."""
    reset: bool = False
    """Cut with a TCP reset; what is still in the socket's buffer may be lost."""
    corrupt_at: int | None = None
    """Flip the byte of the body at this offset."""
    content_length: int | None = None
    """Claim this length; the body stays as it is."""
    framing: Literal["", "chunked", "close"] = ""
    """Send the body without a Content-Length."""
    bytes_per_second: int | None = None

    release: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)
    """Set where the rule takes hold: at the stall, the hold or the cut, or else as the head goes out."""
    hits: int = 0
    _seen: int = 0

    def matches(self, request: "Request") -> bool:
        """Whether this rule is for that request."""
        return (
            self.host in ("", request.host)
            and self.method in ("", request.method)
            and request.path.startswith(self.path)
            and self.path_contains in request.path
            and (self.when is None or self.when(request))
        )

    def draw(self) -> bool:
        """Count one match; True if the rule applies to it."""
        self._seen += 1
        if self._seen <= self.skip or (self.times is not None and self.hits >= self.times):
            return False
        self.hits += 1
        return True

    def at_head(self) -> None:
        """The head is about to go out."""
        if self.stall_after is None and self.cut_after is None:
            self.reached.set()

    def wait(self) -> None:
        """Stall until released."""
        self.reached.set()
        if not self.release.wait(STALL_BOUND):
            raise RuntimeError(f"no test released {self}")

    def shape(self, body: Iterable[bytes]) -> Iterator[bytes]:
        """The body as it is to be sent: in pieces that end where something happens. Raises Cut."""
        sent = 0
        for piece in body:
            rest = piece
            while rest:
                part = rest[: self._room(sent, len(rest))]
                rest = rest[len(part) :]
                if self.corrupt_at is not None and sent <= self.corrupt_at < sent + len(part):
                    at = self.corrupt_at - sent
                    part = part[:at] + bytes([part[at] ^ 0xFF]) + part[at + 1 :]
                if sent == self.stall_after:
                    self.wait()
                if sent == self.cut_after:
                    raise Cut
                yield part
                sent += len(part)
                if self.bytes_per_second:
                    time.sleep(len(part) / self.bytes_per_second)

    def _room(self, sent: int, size: int) -> int:
        """How many of `size` bytes may go out before the next thing happens."""
        for stop in (self.stall_after, self.cut_after):
            if stop is not None and stop > sent:
                size = min(size, stop - sent)
        if self.bytes_per_second:
            size = min(size, max(1, self.bytes_per_second // 20))
        return size


class Faults:
    """The rules in force, in the order in which they were added."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[Fault] = []

    def add(self, fault: Fault) -> Fault:
        """Put a rule into force."""
        with self._lock:
            self._rules.append(fault)
        return fault

    def clear(self) -> None:
        """Lift all rules, and let go whatever they hold."""
        with self._lock:
            rules, self._rules = self._rules, []
        for rule in rules:
            rule.release.set()

    def at_accept(self, host: str) -> Fault | None:
        """The rule for a new connection to `host`, if one applies."""
        with self._lock:
            rules = (rule for rule in self._rules if rule.accept and rule.host in ("", host))
            return next((rule for rule in rules if rule.draw()), None)

    def at_request(self, request: "Request") -> Fault | None:
        """The rule for a request, if one applies."""
        with self._lock:
            rules = (rule for rule in self._rules if not rule.accept and rule.matches(request))
            return next((rule for rule in rules if rule.draw()), None)
