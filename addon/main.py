"""What mitmproxy loads (``-s addon/main.py``): declares the options, and puts the parts together."""

import logging
from pathlib import Path

from mitmproxy import ctx, exceptions
from mitmproxy.addonmanager import Loader

from addon import settings
from addon.parts import Parts
from addon.passthrough import Passthrough
from addon.pullthrough import Pullthrough
from addon.settings import ConfigError, ConfigFile
from addon.store.errors import StoreError
from addon.transfer import kept
from addon.transfer.direct import let_clients_choose_ciphers
from addon.transfer.dispatch import Dispatch
from addon.transfer.gate import Gate
from addon.transfer.heads import bound_heads, unbound_heads
from addon.transfer.stream import StreamLayers
from addon.ui.banner import announce
from addon.ui.commands import Commands
from addon.ui.options import OPTIONS, of_any_tool, parse_options
from addon.ui.pages import Pages

logger = logging.getLogger(__name__)


class Pulltap:
    """Declares the options, and holds the parts for as long as the settings stay as they are."""

    name = "pulltap"

    def __init__(self) -> None:
        self._commands = Commands(self.in_use)
        # mitmproxy takes the commands of those that are there from the start.
        self.addons: list[object] = [self._commands]
        self._parts: Parts | None = None
        self._retired: list[Parts] = []
        self._dispatch: Dispatch | None = None
        self._file = ConfigFile(Path(), {}, {})
        self._usable = True
        self._running = False

    def in_use(self) -> Parts:
        """What the hooks share, for the commands.

        Raises:
            CommandError: the start failed.
        """
        if self._parts is None:
            raise exceptions.CommandError("Pulltap has not started")
        return self._parts

    def load(self, loader: Loader) -> None:
        """Declare the options, and find what is misspelt or mistyped in the config file."""
        for name, (kind, default, text) in OPTIONS.items():
            loader.add_option(name, kind, default, text)
        try:
            self._file = settings.read_file(Path(ctx.options.confdir).expanduser() / "config.yaml")
        except ConfigError as e:
            self._refuse(str(e))
        for fault in settings.check_file(self._file, {name: kind for name, (kind, _, _) in OPTIONS.items()}):
            self._refuse(str(fault))
            # mitmproxy would else stumble over the value, and show a traceback.
            ctx.options.deferred.pop(fault.key, None)

    def configure(self, updated: set[str]) -> None:
        """Put the parts together anew (mitmproxy's hook for changed options).

        Raises:
            OptionsError: an option's new value means nothing, or the store cannot be used.
        """
        if "save_stream_file" in updated and not ctx.options.save_stream_file:
            # What has not ended yet is about to be written.
            kept.release()
        if not self._usable or not updated.intersection(OPTIONS):
            return
        try:
            wanted = self._settings()
            if self._parts is not None and wanted == self._parts.settings:
                # A bad value was refused: mitmproxy announces the old one again, and what is under way goes on.
                return
            parts = Parts(wanted)
        except (ConfigError, StoreError) as e:
            if self._parts is not None:
                raise exceptions.OptionsError(str(e)) from e
            keys = e.keys if isinstance(e, ConfigError) else ("registry_store",)
            self._refuse(f"{self._file.place(keys)}{e}")
            return
        # Fills under way end in the old parts, which their flows hold; nothing new starts there.
        if self._parts is not None:
            self._parts.upkeep.end()
            self._retired.append(self._parts)
        if self._running:
            parts.upkeep.start()
        self._parts = parts
        self.addons = [
            Gate(parts.settings),
            StreamLayers(),
            Pages(parts),
            Passthrough(parts),
            Pullthrough(parts),
            kept.Redaction(parts.upstream.owns),
            self._commands,
        ]
        if self._dispatch is None:
            self._dispatch = Dispatch(ctx.master.addons, kept.shield)
            self._dispatch.install()
            let_clients_choose_ciphers()
            bound_heads()
        self._dispatch.forget()

    def _settings(self) -> settings.Settings:
        values = {name: getattr(ctx.options, name) for name in OPTIONS}
        return parse_options(values, self._file.values.get(settings.REGISTRIES))

    def running(self) -> None:
        """Refuse what nobody knows, now that all addons have declared their options; then say where things are."""
        known = {*ctx.options.keys(), settings.REGISTRIES}
        if not known.issuperset(ctx.options.deferred):
            known |= of_any_tool()
        for key in ctx.options.deferred:
            if key.partition(".")[0] == settings.REGISTRIES and key not in self._file.values:
                self._refuse(f"{key}: {settings.REGISTRIES} is set in the config file, and nowhere else")
            elif key not in known:
                self._refuse(f"{self._file.place((key,))}{settings.unknown([key], known)}")
        if self._parts is not None and self._usable:
            self._running = True
            self._parts.upkeep.start()
            announce(self._parts.settings)

    def _refuse(self, message: str) -> None:
        """Stop the start: mitmproxy exits when an error was logged by then."""
        self._usable = False
        logger.error("%s", message)

    async def done(self) -> None:
        """Break the fills and close the store (mitmproxy's hook for the end).

        The hooks stay as they are: behind this one, mitmproxy tells of the connections that it cuts.
        """
        unbound_heads()
        # While there is a store for them.
        await self._commands.done()
        for parts in [*self._retired, *([self._parts] if self._parts else [])]:
            await parts.close()
        kept.release()


addons = [Pulltap()]
