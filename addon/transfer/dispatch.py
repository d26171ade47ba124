"""Hooks that ask only those addons that have them.

mitmproxy asks each of its some forty addons, for each hook of each connection and request, whether it has a method of
that name. For a small blob on a new connection that was a quarter of the work. `Dispatch` remembers the answer until
an addon comes or goes. It leans on `mitmproxy.addonmanager.AddonManager.trigger_event`, whose behaviour it keeps: the
order, the log of an addon that fails, and `AddonHalt`.
"""

import inspect
from collections.abc import Callable
from typing import Any

from mitmproxy import exceptions, hooks
from mitmproxy.addonmanager import AddonManager, safecall

Listeners = list[Callable[..., Any]]
Shield = Callable[[object, str, Callable[..., Any]], Callable[..., Any]]
"""Names what is called in the place of an addon's hook: its addon, the hook's name, the hook."""


class Dispatch:
    """Takes the place of one addon manager's `trigger_event`."""

    def __init__(self, manager: AddonManager, shield: Shield = lambda _addon, _name, hook: hook) -> None:
        self._manager = manager
        self._shield = shield
        self._listeners: dict[str, Listeners] = {}

    def install(self) -> None:
        """Begin, for as long as mitmproxy runs."""
        manager = self._manager
        manager.trigger_event = self.trigger_event  # type: ignore[method-assign]
        for name in ("register", "remove", "clear"):
            setattr(manager, name, self._forgetting(getattr(manager, name)))

    def forget(self) -> None:
        """Ask all addons anew: some have changed."""
        self._listeners.clear()

    async def trigger_event(self, event: hooks.Hook) -> None:
        """See `AddonManager.trigger_event`."""
        listeners = self._listeners.get(event.name)
        if listeners is None:
            listeners = self._listeners[event.name] = self._ask(event)
        for listener in listeners:
            try:
                result = listener(*event.args())
                if result is not None and inspect.isawaitable(result):
                    await result
            except exceptions.AddonHalt:
                return
            except Exception:
                # mitmproxy reports it.
                with safecall():
                    raise

    def _ask(self, event: hooks.Hook) -> Listeners:
        found: Listeners = []
        for addon in self._manager.chain:
            with safecall():
                hooked = self._manager._iter_hooks(addon, event)
                found += [self._shield(each, event.name, function) for each, function in hooked]
        return found

    def _forgetting(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def forgetting(*args: Any) -> Any:
            self.forget()
            try:
                return method(*args)
            finally:
                self.forget()

        return forgetting
