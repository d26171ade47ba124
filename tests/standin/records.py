"""What the stand-in was asked: one record per request, readable while requests are still under way."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Record:
    """One request as it arrived and how it was answered.

    It is there before the client sees the first byte of the answer, so a test that has its answer finds it.
    `status` is 0 until the answer's head goes out. `body_sent` counts bytes handed to the socket.
    """

    host: str
    method: str
    path: str
    query: str
    headers: Headers
    connection: int
    """Numbers the TCP connections, so that reuse shows."""
    sni: str
    status: int = 0
    body_sent: int = 0
    done: bool = False

    def header(self, name: str) -> str | None:
        """The first value of a header, by any case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def __str__(self) -> str:
        query = f"?{self.query}" if self.query else ""
        return f"{self.method} {self.host}{self.path}{query} -> {self.status} ({self.body_sent} bytes)"


class RequestLog:
    """Thread-safe; the order is that of arrival."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._records: dict[int, Record] = {}
        self._next = 0

    def begin(self, record: Record) -> int:
        """Note a request; the number returned names it in `update`."""
        with self._changed:
            self._next += 1
            self._records[self._next] = record
            self._changed.notify_all()
            return self._next

    def update(self, number: int, *, status: int | None = None, sent: int = 0, done: bool = False) -> None:
        """Note progress. A request that `clear` has dropped stays dropped."""
        with self._changed:
            record = self._records.get(number)
            if record is None:
                return
            self._records[number] = replace(
                record,
                status=record.status if status is None else status,
                body_sent=record.body_sent + sent,
                done=record.done or done,
            )
            self._changed.notify_all()

    def snapshot(self) -> list[Record]:
        """All records, in the order of arrival."""
        with self._changed:
            return list(self._records.values())

    def clear(self) -> None:
        """Forget everything."""
        with self._changed:
            self._records.clear()

    def wait_for(self, condition: Callable[[list[Record]], bool], timeout: float) -> list[Record]:
        """Block until the records meet `condition`; `timeout` (seconds) is a bound, not a pace.

        Raises TimeoutError, which lists what did arrive.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                records = list(self._records.values())
                if condition(records):
                    return records
                left = deadline - time.monotonic()
                if left <= 0:
                    seen = "\n".join(map(str, records))
                    raise TimeoutError(f"not seen within {timeout} s; the requests were:\n{seen}")
                self._changed.wait(left)
