"""Feature layouts in PostgreSQL: with them every stored row of features can be read by name, for ever."""

from __future__ import annotations

from sqlalchemy import Connection, text

from detectors.layout import Layout

_KEEP = text("INSERT INTO feature_layout (version, names) VALUES (:version, :names) ON CONFLICT DO NOTHING")
_READ = text("SELECT names FROM feature_layout WHERE version = :version")


class UnknownLayout(LookupError):
    """Features were stored under a layout that the database does not name: rows of `feature_layout` are missing."""


class LayoutBook:
    """What one process knows of the table. Its rows never change, so what was found there once stays true."""

    def __init__(self) -> None:
        self._kept: set[str] = set()
        self._read: dict[str, Layout] = {}

    def keep(self, conn: Connection, layout: Layout) -> None:
        """Write the layout in the caller's transaction, unless it is known to be there.

        A row that this transaction writes may yet be rolled back, so only one that was there already is remembered.
        """
        if layout.version in self._kept:
            return
        if conn.execute(_KEEP, {"version": layout.version, "names": list(layout.names)}).rowcount == 0:
            self._kept.add(layout.version)

    def layout(self, conn: Connection, version: str) -> Layout:
        """The layout of that version. Raises UnknownLayout."""
        if version not in self._read:
            names = conn.execute(_READ, {"version": version}).scalar_one_or_none()
            if names is None:
                raise UnknownLayout(f"no feature layout has the version {version!r}: restore table feature_layout")
            self._read[version] = Layout(tuple(names))
        return self._read[version]
