"""Which images are known: tags with their manifests, and which of them are pinned."""

from addon.registry.digest import Digest
from addon.store.catalog import Catalog
from addon.store.layout import Layout


class Images:
    """The tables of tags and pins; any thread may use it."""

    def __init__(self, layout: Layout, catalog: Catalog) -> None:
        self._layout = layout
        self._catalog = catalog

    def pinned(self) -> set[Digest]:
        """The blobs of all pinned images.

        Raises:
            StoreError: the catalogue cannot be read.
        """
        return set()
