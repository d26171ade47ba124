"""A stand-in for Docker Hub: registry, token service and CDN, over HTTPS, on loopback ports.

It answers as the real one does, counts what it is asked, and fails on purpose where a test wants it to.
Behind its front stands the real distribution registry.
"""

from .backing import RegistryMissing
from .certs import Authority
from .faults import Fault
from .hub import Hub
from .images import ACCEPT, Blob, Image
from .records import Record
from .registry import Names

__all__ = ["ACCEPT", "Authority", "Blob", "Fault", "Hub", "Image", "Names", "Record", "RegistryMissing"]
