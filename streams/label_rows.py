"""The label log as the models learn it: rows in their order, with what their decisions stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, text

from config.policy import parse_policy
from detectors.features import unpack
from detectors.layout import LINKS, NORM, Floats
from detectors.models import INPUT_NAMES
from detectors.models_learner import LabelRow
from detectors.policy import PolicyRefused
from streams.layouts import LayoutBook, UnknownLayout

_ROWS = text("""
SELECT l.seq, l.label, l.origin, d.program, d.account, d.device, d.ip, d.features, d.features_version, d.policy_version
  FROM label_log l LEFT JOIN decision d USING (decision_id)
 WHERE l.seq > :after ORDER BY l.seq LIMIT :most""")
# What was stored before accounts had norms and links is as good as an account without them.
_NEEDED = set(INPUT_NAMES) - {*NORM, *LINKS}
_POLICY = text("SELECT document FROM policy WHERE version = :version")
_LAST = text("SELECT coalesce(max(seq), 0) FROM label_log")


class LabelLog:
    """Reads the log; remembers only the layouts and policies that rows were decided under, which never change."""

    def __init__(self) -> None:
        self._layouts = LayoutBook()
        self._shares: dict[int | None, float] = {}

    def after(self, conn: Connection, seq: int, most: int) -> Sequence[tuple[str, LabelRow]]:
        """Up to `most` rows behind row `seq`, each with its origin."""
        found = conn.execute(_ROWS, {"after": seq, "most": most}).all()
        return [(row.origin, self._row(row, conn)) for row in found]

    @staticmethod
    def last(conn: Connection) -> int:
        """The number of the last row, 0 if there is none."""
        seq: int = conn.execute(_LAST).scalar_one()
        return seq

    def _row(self, row: Row[Any], conn: Connection) -> LabelRow:
        return LabelRow(
            seq=row.seq,
            label=row.label,
            program=row.program or "",
            account=row.account or "",
            device=None if row.device is None else bytes(row.device),
            inputs=None if row.features is None else self._inputs(row, conn),
            ip=None if row.ip is None else bytes(row.ip),
            # What people decided is logged whole; of what matured the share that the policy of the time said.
            weight=1.0 / self._share(conn, row.policy_version) if row.origin == "matured" else 1.0,
        )

    def _share(self, conn: Connection, version: int | None) -> float:
        """The share of quiet events that a policy logged; 1 for one that is not there or logs none any more."""
        if version not in self._shares:
            document = conn.execute(_POLICY, {"version": version}).scalar_one_or_none()
            self._shares[version] = _share_of(document) if document is not None else 1.0
        return self._shares[version]

    def _inputs(self, row: Row[Any], conn: Connection) -> Floats | None:
        """What the models read of a stored row; None if it was stored before they read that."""
        try:
            stored = self._layouts.layout(conn, row.features_version)
        except UnknownLayout:  # older than the table of layouts: nobody can say what its numbers are
            return None
        if not stored.index.keys() >= _NEEDED:
            return None
        inputs: Floats = unpack([bytes(row.features)], stored, INPUT_NAMES)[0]
        return inputs


def _share_of(document: str) -> float:
    try:
        return parse_policy(document).training.share or 1.0
    except PolicyRefused:  # of an older release: what it logged then is in the log all the same
        return 1.0
