"""A mitmproxy script (`-s watchful.py`): Pulltap looks after its store all the time, and not just now and then."""

from addon.transfer import upkeep

_SHORTENED = {"TICK_SECONDS": 0.05, "RECONCILE_SECONDS": 0.2, "SCRUB_SECONDS": 0.5}


def load(_loader: object) -> None:
    """Shorten the pauses, before the upkeep begins (mitmproxy's hook for a script that was loaded)."""
    for name, seconds in _SHORTENED.items():
        assert getattr(upkeep, name) > seconds, f"{name} is short enough, or is read no longer"
        setattr(upkeep, name, seconds)
