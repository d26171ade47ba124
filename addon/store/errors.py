"""What can go wrong with the store."""


class StoreError(Exception):
    """The store cannot do what it was asked for; the message names the path and the way out."""


class DigestMismatch(StoreError):
    """The bytes that arrived are not the blob that was asked for: their length or their digest differs."""


class NoRoom(StoreError):
    """The store may not grow by so much: it would exceed its limit, or the disk would."""
