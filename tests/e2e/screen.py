"""A terminal in which a program runs, with the keys that go in and the screen that comes out (tmux)."""

import contextlib
import os
import select
import shlex
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .programs import BOUND, eventually, need


class Screen:
    """One program in a terminal of its own; `stop` ends both."""

    def __init__(
        self, folder: Path, command: Sequence[str], env: Mapping[str, str], *, columns: int = 100, lines: int = 30
    ) -> None:
        folder.mkdir()
        config = folder / "tmux.conf"
        # What is on the screen at the end stays there. Nobody waits for a key that might be half of an escape sequence.
        config.write_text("set -g remain-on-exit on\nset -g escape-time 0\nset -g status off\n")
        # tmux takes its own socket's folder from elsewhere otherwise; the path may have 107 bytes.
        self._tmux = [need("tmux"), "-S", str(folder / "s"), "-f", str(config)]
        self._env = dict(env) | {"TERM": "xterm-256color"}
        self._status = folder / "status"
        size = ("-x", str(columns), "-y", str(lines))
        # tmux itself does not know the status at once. The shell is to outlive a Ctrl-C.
        then = f"echo $? >{self._status}.new; mv {self._status}.new {self._status}"
        self._run("new-session", "-d", *size, f"trap : INT; {shlex.join(command)}; {then}")
        self._server = os.pidfd_open(int(self._run("display-message", "-p", "#{pid}")))

    @property
    def text(self) -> str:
        """What is on it now, and what has scrolled away; a line that was too long for it is one line here."""
        lines = self._run("capture-pane", "-p", "-J", "-S", "-").splitlines()
        return "\n".join(line.rstrip() for line in lines).rstrip()

    def wait_for(self, text: str) -> str:
        """Block until that is on it; all that is. Raises TimeoutError with the screen."""
        self._wait(lambda: text in self.text, f"no {text!r}")
        return self.text

    def type(self, text: str) -> None:
        """Type what is to be typed as it is."""
        self._run("send-keys", "-l", text)

    def press(self, *keys: str) -> None:
        """Press keys by tmux's names for them: Enter, Escape, C-c."""
        self._run("send-keys", *keys)

    def wait_for_end(self) -> int:
        """Block until the program has ended; its exit status. Raises TimeoutError with the screen."""
        self._wait(self._status.exists, "it has not ended")
        return int(self._status.read_text())

    def stop(self) -> None:
        """End it, whatever it is doing."""
        subprocess.run([*self._tmux, "kill-server"], env=self._env, capture_output=True, check=False)
        # One whose socket is gone, or that is just ending its program, may not have heard that.
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._server, signal.SIGTERM)
        ended, _, _ = select.select([self._server], [], [], BOUND)
        os.close(self._server)
        assert ended, "tmux does not end"

    def _wait(self, happened: Callable[[], bool], what: str) -> None:
        try:
            eventually(happened, what)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; the screen is:\n{self.text}") from None

    def _run(self, *words: str) -> str:
        done = subprocess.run(
            [*self._tmux, *words], env=self._env, capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout
