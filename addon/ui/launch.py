"""Starts mitmdump, mitmproxy or mitmweb; what is wrong in the config file is named with its line.

mitmproxy reads its file before it loads any addon, and answers a value of the wrong type with a traceback. Only who
stands around it can say it better.
"""

import os
import re
import sys
from pathlib import Path

from mitmproxy.tools import main as tools

from addon.settings import ConfigError, ConfigFile, read_file
from addon.ui import ca

_TYPE = re.compile(r"Expected (?P<kind>.+) for (?P<option>\w+), but got (?P<got>.+)\.")
_NAMES = {"int": "a whole number", "bool": "true or false", "str": "a string", "Sequence[str]": "a list of strings"}


def main(arguments: list[str]) -> int:
    """Run one of mitmproxy's tools.

    Args:
        arguments: the tool's name, the path of the config file, and the tool's own arguments.

    Returns:
        The exit status.
    """
    # The CA's key, blobs of private images, saved flows: what is made here is nobody else's.
    os.umask(0o077)
    tool, config, *rest = arguments
    try:
        file = read_file(Path(config))
    except ConfigError as e:
        return _refuse(str(e))
    if strange := next((key for key in file.values if not isinstance(key, str)), None):
        return _refuse(f"{file.path}:{file.line([str(strange)])}: {strange!r} is no option's name")
    if home := os.environ.get("PULLTAP_HOME"):
        try:
            ca.make(Path(home))
        except OSError as e:
            return _refuse(f"no CA can be made in {home}: {e.strerror or e}")
        except ValueError as e:
            return _refuse(f"{Path(home, ca.FILE)} holds no CA: {e}; with that file away, the next start makes one")
    run = {"mitmdump": tools.mitmdump, "mitmproxy": tools.mitmproxy, "mitmweb": tools.mitmweb}[tool]
    sys.argv = [tool, *rest]
    try:
        run(rest)
    except TypeError as e:
        if message := _mistyped(file, str(e)):
            return _refuse(message)
        raise
    return 0


def _mistyped(file: ConfigFile, error: str) -> str:
    found = _TYPE.fullmatch(error)
    if found is None or found["option"] not in file.values:
        return ""
    option = found["option"]
    kind = re.sub(r"<class '(.+)'>|(?:typing\.)?Optional\[(.+)\]|(?:typing|collections\.abc)\.", r"\1\2", found["kind"])
    kind = _NAMES.get(kind, kind)
    return f"{file.place([option])}{option} is {file.values[option]!r}, but is to be {kind}"


def _refuse(message: str) -> int:
    sys.stderr.write(f"{message}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
