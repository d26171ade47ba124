"""Reading a blob, whether it is whole or still growing."""

import os
from collections.abc import Callable


class BlobReader:
    """An open blob file, read by offset, so that any number of readers can share the bytes.

    It stays readable after the file was renamed or unlinked. Closing is idempotent, and happens at the latest when the
    reader is collected.
    """

    def __init__(self, fd: int, size: int, *, verified: bool = True) -> None:
        self._fd = fd
        self.size = size
        """The file's length in bytes at the moment it was opened."""
        self.verified = verified
        """Whether the file is known to hold the blob; one that is not is to be verified before anybody is given it."""

    def read(self, offset: int, length: int) -> bytes:
        """Read up to ``length`` bytes from ``offset``; fewer only at the end of what is written.

        Raises:
            OSError: the disk failed.
            ValueError: the reader is closed.
        """
        if self._fd < 0:
            raise ValueError("reading from a closed blob")
        return os.pread(self._fd, length, offset)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Read into ``buffer`` from ``offset``; fewer bytes than it has only at the end of what is written.

        Returns:
            How many bytes were read.

        Raises:
            OSError: the disk failed.
            ValueError: the reader is closed.
        """
        if self._fd < 0:
            raise ValueError("reading from a closed blob")
        return os.preadv(self._fd, [buffer], offset)

    def stat(self) -> os.stat_result:
        """The status of the open file, whatever its name is by now.

        Raises:
            ValueError: the reader is closed.
        """
        if self._fd < 0:
            raise ValueError("looking at a closed blob")
        return os.fstat(self._fd)

    def same_file(self, other: "BlobReader") -> bool:
        """Whether the other one reads the same file, so that what was read there goes on here."""
        return os.path.samestat(self.stat(), other.stat())

    def again(self, size: int) -> "BlobReader":
        """Another reader of the same file, which has ``size`` bytes by now; closed on its own.

        Raises:
            OSError: the process has too many files open.
            ValueError: this one is closed.
        """
        if self._fd < 0:
            raise ValueError("reading a closed blob again")
        return BlobReader(os.dup(self._fd), size, verified=self.verified)

    def close(self) -> None:
        """Give the file descriptor back."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    # The module's globals may be gone when the interpreter shuts down.
    def __del__(self, _close: Callable[[int], None] = os.close) -> None:
        if self._fd >= 0:
            _close(self._fd)
