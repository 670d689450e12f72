"""An office that adjusts and imports on a real ledger: what its tests share."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Engine, text

from ledger.adjustments import Checked, Proposal, Proposed, approve, propose, reject
from ledger.ids import IdBlocks
from ledger.import_parse import ImportRow
from ledger.import_posting import Batch, post_next
from ledger.imports import Job, JobSpec, approve_job, find_job_by_id, stage
from ledger.programs import load_programs, set_terms
from ledger.queries import balance
from ledger.terms import Terms
from ledger.verify import verify
from tests.integration.ledger_writer import Writer

NORTH = "north"
MAKER, CHECKER = "mia", "joe"


class Office(Writer):
    """A writer whose programme people adjust, and import into."""

    def __init__(self, engine: Engine, mode: str = "simulation", terms: Terms | None = None) -> None:
        """Create the programme north."""
        super().__init__(engine, NORTH, mode)
        if terms is not None:
            with engine.begin() as conn:
                set_terms(conn, NORTH, terms)

    def propose(self, *asked: Proposal, wait: bool = False, create: bool = True) -> list[Proposed]:
        """Propose in one transaction."""
        with self.engine.begin() as conn:
            return propose(conn, load_programs(conn), self.ids, asked, wait=wait, create=create)

    def approve(self, *ids: int | None, checker: str = CHECKER) -> list[Checked]:
        """Approve in one transaction."""
        with self.engine.begin() as conn:
            return approve(conn, load_programs(conn), self.ids, [one or 0 for one in ids], checker)

    def reject(self, *ids: int | None, checker: str = CHECKER, reason: str = "no") -> list[Checked]:
        """Reject in one transaction."""
        with self.engine.begin() as conn:
            return reject(conn, [one or 0 for one in ids], checker, reason)

    def stage(self, rows: Iterable[ImportRow], **asked: Any) -> Job:
        """Stage a job."""
        with self.engine.begin() as conn:
            return stage(conn, self.ids, job_spec(**asked), rows)

    def post(self, job: Job, most: int = 1000, checker: str | None = CHECKER) -> list[Batch]:
        """Approve a job, and post all of it."""
        with self.engine.begin() as conn:
            assert approve_job(conn, job.job_id, checker)
        return list(self.batches(job, most))

    def batches(self, job: Job, most: int = 1000) -> Iterable[Batch]:
        """Post what is left of a job."""
        ids = IdBlocks()
        while True:
            with self.engine.begin() as conn:
                batch = post_next(conn, load_programs(conn), ids, job, most)
            if batch is None:
                return
            yield batch

    def job(self, job_id: int) -> Job:
        """A job as it stands."""
        with self.engine.connect() as conn:
            return find_job_by_id(conn, job_id)

    def posted(self, name: str) -> int | None:
        """A member's posted points; None for nobody."""
        with self.engine.connect() as conn:
            found = balance(conn, NORTH, name)
        return None if found is None else found.posted

    def lots(self, name: str) -> list[tuple[int, int | None]]:
        """What remains in a member's lots and when they expire (epoch milliseconds), in order of use."""
        with self.engine.connect() as conn:
            rows = conn.execute(_LOTS, {"name": name})
            return [(row.remaining, row.expires_ms) for row in rows]

    def assert_proven(self) -> None:
        """The whole ledger verifies."""
        report = verify(self.engine)
        assert report.totals == {}, report.discrepancies


_LOTS = text("""
SELECT l.remaining, (date_part('epoch', l.expires_at) * 1000)::bigint AS expires_ms
  FROM lot l JOIN account a USING (account_id) WHERE a.name = :name AND l.open
 ORDER BY l.expires_at, l.earned_at, l.lot_id""")


def proposal(account: str, points: int, **rest: Any) -> Proposal:
    """A proposal of mia's."""
    usual: Mapping[str, Any] = {
        "program": NORTH,
        "account": account,
        "points": points,
        "reason_code": "goodwill",
        "reason": "sorry",
        "maker": MAKER,
    }
    return Proposal(**{**usual, **rest})


def job_spec(**asked: Any) -> JobSpec:
    """A job of mia's: credits, opening accounts that are new."""
    usual: Mapping[str, Any] = {
        "program": NORTH,
        "kind": "credit",
        "system": "",
        "label": "",
        "digest": bytes(32),
        "file_name": "points.csv",
        "options": {"create_members": True},
        "reason_code": "campaign",
        "reason": "autumn",
        "maker": MAKER,
    }
    return JobSpec(**{**usual, **asked})


def rows_of(points: Sequence[tuple[str, int]]) -> list[ImportRow]:
    """Rows from line 2 on."""
    return [ImportRow(line, account, amount) for line, (account, amount) in enumerate(points, start=2)]
