"""What a fill that broke leaves on disk: all that may be the blob, for the next attempt, and nothing that is not.

The disk may fail at that as well. Then nothing is left, as far as it lets us, and nobody is told again: that it fails
is known by then.
"""

import contextlib
import logging

from addon.store.ingest import Ingest

logger = logging.getLogger(__name__)


def let_go(ingest: Ingest) -> None:
    """Leave an ingest to the next attempt."""
    try:
        ingest.keep()
    except OSError as e:
        logger.warning("blob %s: what there is cannot be kept: %s", ingest.digest.short, e.strerror)
        drop(ingest)


def withdraw(ingest: Ingest) -> None:
    """Drop an ingest whose bytes are not the blob's."""
    try:
        ingest.withdraw()
    except OSError as e:
        logger.warning("blob %s: what there is cannot be dropped: %s", ingest.digest.short, e.strerror)
        drop(ingest)


def drop(ingest: Ingest) -> None:
    """Leave nothing; does nothing where the ingest is over."""
    # Closed it is in any case. Where it cannot be unlinked, the next who begins finds it as if we had been killed.
    with contextlib.suppress(OSError):
        ingest.abort()
