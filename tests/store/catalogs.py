"""Catalogues for the store's tests."""

from addon.store.catalog import Catalog


def write(catalog: Catalog, name: str, value: float = 1) -> None:
    with catalog.writing() as db:
        db.execute("INSERT INTO numbers (name, value) VALUES (?, ?)", (name, value))


def names(catalog: Catalog) -> list[str]:
    with catalog.reading() as db:
        return [name for (name,) in db.execute("SELECT name FROM numbers WHERE name LIKE 'n%' ORDER BY name")]
