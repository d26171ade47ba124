"""The commands beside the proxy: ``./run.sh store …`` and ``./run.sh warm …``."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from addon.settings import REGISTRIES, ConfigError, Settings, check_file, read_file
from addon.store.errors import StoreError
from addon.ui import store_cli
from addon.ui.options import OPTIONS, parse_options
from addon.ui.terminal import INTERRUPTED, console

USAGE = 2
"""The exit status for words that make no sense."""


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit status."""
    os.umask(0o077)
    words, passed_on = _split(arguments)
    parser = argparse.ArgumentParser(prog="./run.sh", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    store_cli.add_to(commands)
    _add_warm(commands)
    chosen = parser.parse_args(words)
    errors = console(stderr=True)
    if passed_on and chosen.command != "warm":
        parser.error("only warm takes arguments for mitmdump behind --")
    try:
        if chosen.command == "warm":
            # With it comes all of mitmproxy, which takes longer to load than most commands to run.
            from addon.ui import warm  # noqa: PLC0415

            return warm.run(chosen, passed_on)
        return store_cli.run(chosen, settings())
    except ValueError as e:
        errors.print(f"run.sh {chosen.command}: {e}")
        return USAGE
    except (ConfigError, StoreError) as e:
        errors.print(f"run.sh {chosen.command}: {e}")
    except BrokenPipeError:
        # Whoever read along has seen enough (head). Nor is Python to complain when it flushes in the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as e:
        where = f" ({e.filename})" if e.filename else ""
        errors.print(f"run.sh {chosen.command}: {e.strerror or e}{where}")
    except KeyboardInterrupt:
        errors.print("stopped")
        return INTERRUPTED
    return 1


def _add_warm(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the words of ``warm``."""
    warm = commands.add_parser(
        "warm",
        help="pull images into the store",
        epilog="Arguments behind -- go to mitmdump: ./run.sh warm alpine -- --mode upstream:http://proxy:8080",
        allow_abbrev=False,
    )
    warm.add_argument("images", nargs="+", metavar="IMAGE", help="alpine, ghcr.io/owner/name:tag, name@sha256:...")
    warm.add_argument(
        "--platform",
        action="append",
        metavar="OS/ARCH",
        help="a platform, more than once for several, or all; default: this machine's",
    )


def settings() -> Settings:
    """The settings of a proxy that is started with the same config file.

    Raises:
        ConfigError: they mean nothing.
    """
    file = read_file(Path(os.environ["PULLTAP_CONFIG"]))
    if faults := check_file(file, {name: kind for name, (kind, _, _) in OPTIONS.items()}):
        raise ConfigError("\n".join(map(str, faults)))
    values = {name: file.values.get(name, default) for name, (_, default, _) in OPTIONS.items()}
    try:
        return parse_options(values, file.values.get(REGISTRIES))
    except ConfigError as e:
        raise ConfigError(f"{file.place(e.keys)}{e}") from e


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is for the command, and what, behind ``--``, is for mitmdump."""
    words = list(arguments)
    if "--" not in words:
        return words, []
    at = words.index("--")
    return words[:at], words[at + 1 :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
