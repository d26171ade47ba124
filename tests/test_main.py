"""How mitmproxy loads Pulltap: its options, what is wrong with them, and what becomes of a change."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from mitmproxy import exceptions, hooks, http, optmanager
from mitmproxy.addons import next_layer
from mitmproxy.proxy.layers.http import HttpRequestHook
from mitmproxy.test import taddons, tflow

from addon import main as module
from addon.main import Pulltap
from addon.parts import Parts
from addon.passthrough import Passthrough
from addon.pullthrough import Pullthrough
from addon.store.errors import StoreError
from addon.transfer.gate import Gate
from addon.transfer.kept import Redaction
from addon.transfer.stream import StreamLayers
from addon.ui.commands import Commands
from addon.ui.options import OPTIONS
from addon.ui.pages import Pages

from .doubles import BOUND, mitmproxy_with, nothing_left

Load = Callable[..., tuple[Pulltap, taddons.context]]
HOOKS = [Gate, StreamLayers, Pages, Passthrough, Pullthrough, Redaction, Commands]


@pytest.fixture
async def load(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Load]:
    """Loads the addon with this config file, as mitmproxy does."""
    loaded: list[tuple[Pulltap, taddons.context]] = []
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def load(config: str = "") -> tuple[Pulltap, taddons.context]:
        (tmp_path / "config.yaml").write_text(config)
        pulltap, context = Pulltap(), stack.enter_context(mitmproxy_with(next_layer.NextLayer()))
        loaded.append((pulltap, context))
        context.options.update(confdir=str(tmp_path))
        optmanager.load_paths(context.options, str(tmp_path / "config.yaml"))
        context.master.addons.add(pulltap)
        configure = hooks.ConfigureHook(set(context.options.keys()))
        context.master.addons.invoke_addon_sync(pulltap, configure)
        return pulltap, context

    async with nothing_left(caplog):
        with ExitStack() as stack:
            yield load
            for pulltap, _ in loaded:
                await pulltap.done()
    monkeypatch.undo()


def parts_of(pulltap: Pulltap) -> Parts:
    assert pulltap._parts
    return pulltap._parts


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


# What mitmproxy loads.


def test_mitmproxy_finds_one_addon() -> None:
    (addon,) = module.addons
    assert isinstance(addon, Pulltap)
    assert addon.name == "pulltap"


async def test_without_a_config_all_is_at_its_default(
    load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pulltap, context = load()
    for name, (kind, default, text) in OPTIONS.items():
        assert name.startswith("registry_")
        assert getattr(context.options, name) == default
        assert context.options._options[name].typespec == kind
        assert context.options._options[name].help == text
    assert parts_of(pulltap).store.root == tmp_path / "cache" / "pulltap"
    assert [type(addon) for addon in pulltap.addons] == HOOKS
    caplog.set_level(logging.INFO)
    pulltap.running()
    assert not errors(caplog)
    assert "  listens on " in caplog.text


async def test_the_config_is_heeded(load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pulltap, _ = load(
        f"registry_store: {tmp_path}/elsewhere\nregistry_access: trust\nregistry_hosts: [registry.example]\n"
        "registry_max_fills: 3\nregistries:\n  ghcr.io:\n    ping: local\n"
    )
    settings = parts_of(pulltap).settings
    assert (settings.store, settings.access, settings.max_fills) == (tmp_path / "elsewhere", "trust", 3)
    assert {host: registry.ping for host, registry in settings.registries.items()} == {
        "registry.example": "upstream",
        "ghcr.io": "local",
    }
    pulltap.running()
    assert not errors(caplog)


# What is wrong in the config.


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ("\nregistry_hots: [ghcr.io]\n", ":2: unknown key registry_hots; did you mean registry_hosts?"),
        ("registry_access: 7\n", ":1: registry_access is 7, but is to be a string"),
        ("\n\nregistry_access: everybody\n", ":3: registry_access is 'everybody', but is to be one of check, trust"),
        ("registry_store_max_size: much\n", ":1: registry_store_max_size is to be a size such as 50g"),
        ("registry_max_fills: 0\n", ":1: registry_max_fills is 0, but is to be 1 or more"),
        ("registry_hosts: ['a b']\n", ":1: registry_hosts: 'a b' is no host and no host:port"),
        (
            "\nregistry_clients:\n  - 10.0.0.1/8\n",
            ":2: registry_clients: '10.0.0.1/8' is no network, such as 10.0.0.0/8",
        ),
        ("registry_clients: 10.0.0.0/8\n", ":1: registry_clients is '10.0.0.0/8', but is to be a list of strings"),
        ("registry_redact: 'no'\n", ":1: registry_redact is 'no', but is to be true or false"),
        ("registries:\n  ghcr.io:\n    pong: local\n", ":3: unknown key registries.ghcr.io.pong; did you mean ping?"),
        ("registries:\n  ghcr.io:\n    ping: never\n", ":3: registries.ghcr.io.ping is 'never', but is to be one of "),
        ("registries: [ghcr.io]\n", ":1: registries is to be a mapping "),
        ("registry_store: /dev/null\n", ":1: cannot use /dev/null as store: "),
        ("\nconection_strategy: lazy\n", ":2: unknown key conection_strategy; did you mean connection_strategy?"),
    ],
)
async def test_a_fault_in_the_config_stops_the_start(
    load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture, config: str, fault: str
) -> None:
    caplog.set_level(logging.INFO)
    pulltap, _ = load(config)
    pulltap.running()
    found = errors(caplog)
    assert len(found) == 1, found
    assert found[0].startswith(f"{tmp_path}/config.yaml{fault}")
    assert "listens on" not in caplog.text


async def test_every_fault_is_named(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    load("registry_hots: [ghcr.io]\nregistry_access: 7\nregistries: 3\n")
    assert len(errors(caplog)) == 3


async def test_registries_are_set_in_the_file_alone(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    pulltap, context = load()
    context.options.set("registries.ghcr.io.ping=local", defer=True)
    pulltap.running()
    assert errors(caplog) == ["registries.ghcr.io.ping: registries is set in the config file, and nowhere else"]


async def test_an_option_of_an_addon_that_comes_later_is_no_fault(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    class Later:
        def load(self, loader: object) -> None:
            loader.add_option("later_option", int, 1, "for the test")  # type: ignore[attr-defined]

    pulltap, context = load("later_option: 7\n")
    context.master.addons.add(Later())
    pulltap.running()
    assert context.options.later_option == 7
    assert not errors(caplog)


# Changes while it runs.


@pytest.mark.parametrize(
    ("option", "value", "fault"),
    [
        ("registry_access", "everybody", "is to be one of check, trust"),
        ("registry_store_max_size", "much", "is to be a size such as 50g"),
        ("registry_store_max_size", "", "is to be a size such as 50g"),
        ("registry_max_fills", 0, "is to be 1 or more"),
        ("registry_fill_connections", -1, "is to be 1 or more"),
        ("registry_hosts", ["a b"], "is no host and no host:port"),
        ("registry_clients", ["lan"], "is no network"),
        ("registry_store", "/dev/null", "cannot use /dev/null as store"),
    ],
)
async def test_a_bad_value_is_refused_and_changes_nothing(
    load: Load, caplog: pytest.LogCaptureFixture, option: str, value: object, fault: str
) -> None:
    pulltap, context = load()
    parts, hooks, before = parts_of(pulltap), pulltap.addons, getattr(context.options, option)
    with pytest.raises(exceptions.OptionsError, match=fault):
        context.options.update(**{option: value})
    assert getattr(context.options, option) == before
    assert pulltap._parts is parts, "what is under way was cut off from what comes"
    assert pulltap.addons is hooks
    assert not errors(caplog)


async def test_a_good_value_makes_new_parts(load: Load, tmp_path: Path) -> None:
    pulltap, context = load()
    parts = parts_of(pulltap)
    context.options.update(registry_access="trust")
    changed = parts_of(pulltap)
    assert changed is not parts
    assert changed.settings.access == "trust"
    assert [type(addon) for addon in pulltap.addons] == HOOKS
    assert pulltap.addons[4]._parts is changed  # type: ignore[attr-defined]
    # The old ones are closed in the end: fills under way are theirs.
    assert parts.store.inventory.entries() == []
    await pulltap.done()
    for each in (parts, changed):
        with pytest.raises(StoreError, match="closed"):
            each.store.inventory.entries()


async def test_other_options_are_no_business_of_ours(load: Load) -> None:
    pulltap, context = load()
    parts = parts_of(pulltap)
    context.options.update(connection_strategy="lazy")
    assert pulltap._parts is parts


async def test_the_hooks_that_are_asked_are_those_of_the_newest_parts(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulltap, context = load()
    asked: list[str] = []

    def watch(name: str) -> None:
        def request(_flow: http.HTTPFlow) -> None:
            asked.append(name)

        monkeypatch.setattr(pulltap.addons[2], "request", request)

    flow = tflow.tflow()
    flow.live = False
    watch("old")
    await context.master.addons.trigger_event(HttpRequestHook(flow))
    context.options.update(registry_access="trust")
    watch("new")
    await context.master.addons.trigger_event(HttpRequestHook(flow))
    assert asked == ["old", "new"]


async def test_the_end_closes_the_parts(load: Load) -> None:
    pulltap, _ = load()
    closed = asyncio.Event()

    async def close() -> None:
        closed.set()
        await usual()

    parts = parts_of(pulltap)
    usual = parts.close
    parts.close = close  # type: ignore[method-assign]
    await pulltap.done()
    assert closed.is_set()
    pulltap._parts = None
    await pulltap.done()


# What goes on beside the hooks.


def upkeeps() -> int:
    return sum(task.get_name() == "upkeep of the store" for task in asyncio.all_tasks())


async def test_the_store_is_kept_up_from_the_start_to_the_end(load: Load, tmp_path: Path) -> None:
    pulltap, context = load()
    assert upkeeps() == 0
    pulltap.running()
    assert upkeeps() == 1
    old = parts_of(pulltap)
    context.options.update(registry_store=str(tmp_path / "elsewhere"))
    assert old.upkeep._task
    # Of two, only the new one goes on.
    await asyncio.wait([old.upkeep._task], timeout=BOUND)
    assert upkeeps() == 1
    await pulltap.done()
    assert upkeeps() == 0


async def test_where_the_start_fails_nothing_is_kept_up(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    pulltap, _ = load("conection_strategy: lazy\n")
    pulltap.running()
    assert errors(caplog)
    assert upkeeps() == 0


async def test_commands_work_on_what_is_in_use(load: Load) -> None:
    pulltap, context = load()
    assert pulltap.in_use() is parts_of(pulltap)
    assert context.master.commands.execute("registry.stats")[1] == (
        "limit           50.0 GiB, and 1.0 GiB of the disk stay free"
    )
    context.options.update(registry_store_max_size="7g")
    assert pulltap.in_use() is parts_of(pulltap)
    assert context.master.commands.execute("registry.stats")[1].startswith("limit           7.0 GiB")


async def test_without_parts_they_say_so(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    pulltap, context = load("registry_store: /dev/null\n")
    assert errors(caplog)
    for line in ("registry.stats", "registry.gc"):
        with pytest.raises(exceptions.CommandError, match="Pulltap has not started"):
            context.master.commands.execute(line)
    with pytest.raises(exceptions.CommandError):
        pulltap.in_use()


async def test_what_a_command_has_under_way_ends_while_there_is_a_store(
    load: Load, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pulltap, context = load()
    caplog.set_level(logging.INFO)
    order: list[str] = []
    parts = parts_of(pulltap)
    close = parts.store.close

    async def forever(*_: object) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            order.append("command")
        return ""

    def closed() -> None:
        order.append("store")
        close()

    monkeypatch.setattr(parts.store, "close", closed)
    with monkeypatch.context() as patched:
        patched.setattr(asyncio, "to_thread", forever)
        context.master.commands.execute("registry.verify")
    await pulltap.done()
    assert order == ["command", "store"]
    assert not errors(caplog)


@pytest.mark.parametrize("tool", ["web_port: 8082", "console_mouse: false", "keepserving: true"])
async def test_one_file_serves_all_of_mitmproxys_tools(load: Load, caplog: pytest.LogCaptureFixture, tool: str) -> None:
    pulltap, _ = load(f"{tool}\n")
    pulltap.running()
    assert not errors(caplog)
