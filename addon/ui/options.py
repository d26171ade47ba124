"""The options that Pulltap adds to mitmproxy's, and what their values mean."""

from collections.abc import Mapping, Sequence
from typing import Any

from mitmproxy.utils import human

from addon import settings
from addon.settings import Settings

OPTIONS: dict[str, tuple[Any, Any, str]] = {
    "registry_hosts": (
        Sequence[str],
        list(settings.DEFAULT_HOSTS),
        "Registries whose traffic is decrypted and whose blobs are kept: host, or host:port.",
    ),
    "registry_store": (
        str,
        "",
        "Folder of the store, an OCI image layout. Default: $XDG_CACHE_HOME/pulltap, else ~/.cache/pulltap.",
    ),
    "registry_store_max_size": (
        str,
        "50g",
        "How large the store may become: bytes, with k, m, g or t behind them. What was of least use goes first.",
    ),
    "registry_store_min_free": (
        str,
        "1g",
        "How much of its disk the store leaves free: bytes, with k, m, g or t behind them; 0: it may fill it.",
    ),
    "registry_access": (
        str,
        "check",
        "Who is given a stored blob: check (those who may pull it from upstream) or trust (everybody).",
    ),
    "registry_access_grace": (
        int,
        3600,
        "For how many seconds an expired permission to pull stands where the registry cannot be asked; 0: not at all.",
    ),
    "registry_max_fills": (
        int,
        16,
        "How many blobs are fetched at once, at most; others wait, by turns of repositories.",
    ),
    "registry_fill_connections": (
        int,
        4,
        "Over how many connections a blob of 32 MiB or more is fetched, where upstream answers ranges.",
    ),
    "registry_docker_config": (
        str,
        "",
        "Docker config.json with the credentials that Pulltap uses for requests that bring none. Default: none.",
    ),
    "registry_clients": (
        Sequence[str],
        [],
        "Networks (10.0.0.0/8) and addresses of clients that are let in; all others but this machine get nothing.",
    ),
    "registry_redact": (
        bool,
        True,
        "Take tokens, passwords, cookies and signatures out of flows once they are over, and out of what is saved.",
    ),
}
"""Our options: type, default, help."""


def parse_options(values: Mapping[str, Any], registries: object) -> Settings:
    """Put the values of `OPTIONS` together with the mapping ``registries:``.

    Raises:
        ConfigError: a value means nothing.
    """
    return settings.parse(
        hosts=values["registry_hosts"],
        store=values["registry_store"],
        max_size=_size(values["registry_store_max_size"]),
        min_free=_size(values["registry_store_min_free"]),
        access=values["registry_access"],
        docker_config=values["registry_docker_config"],
        max_fills=values["registry_max_fills"],
        fill_connections=values["registry_fill_connections"],
        access_grace=values["registry_access_grace"],
        clients=values["registry_clients"],
        registries=settings.parse_registries(registries),
    )


def _size(text: str) -> int | None:
    try:
        return human.parse_size(text)
    except ValueError:
        return None


class _Names:
    """Takes the place of `mitmproxy.addonmanager.Loader`, and only looks at what is declared."""

    def __init__(self) -> None:
        self.found: set[str] = set()

    def add_option(self, name: str, *_: object, **__: object) -> None:
        """See `Loader.add_option`."""
        self.found.add(name)

    def add_command(self, *_: object, **__: object) -> None:
        """See `Loader.add_command`."""


def of_any_tool() -> set[str]:
    """The options that mitmdump, mitmproxy or mitmweb have for themselves: one config file serves all three."""
    # Imported only where one of them is asked for, which a start of mitmdump is in no need of.
    from mitmproxy.addons import dumper, keepserving, termlog, view  # noqa: PLC0415
    from mitmproxy.tools.console import consoleaddons  # noqa: PLC0415
    from mitmproxy.tools.web import static_viewer, webaddons  # noqa: PLC0415

    names = _Names()
    log = termlog.TermLog()
    # It writes to the terminal from the moment that it is made, over whatever interface is there.
    log.uninstall()
    for addon in (
        dumper.Dumper(),
        keepserving.KeepServing(),
        log,
        view.View(),
        consoleaddons.ConsoleAddon(None),
        static_viewer.StaticViewer(),
        webaddons.WebAddon(),
        webaddons.WebAuth(),
    ):
        addon.load(names)  # type: ignore[no-untyped-call]
    return names.found
