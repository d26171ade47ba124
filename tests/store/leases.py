"""Leases for the store's tests."""

import os
from pathlib import Path

from addon.store.lease import Follower, Lease, Progress


def look(path: Path) -> tuple[Progress, bool]:
    """What somebody else sees: how far its owner is, and whether that one lives."""
    follower = Follower(path)
    seen = follower.progress(), follower.held()
    follower.close()
    return seen


def killed(path: Path, offset: int) -> None:
    """Leave what a killed owner leaves."""
    lease = Lease(path)
    lease.publish(offset)
    os.close(lease._fd)
