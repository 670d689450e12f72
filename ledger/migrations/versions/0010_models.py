"""Which model snapshot is in use and why, the trainer's checkpoints, and each account's own norm."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

VERDICTS = """
-- What was decided of each snapshot, by the gate or by a person; the last row that is no refusal names the champion.
CREATE TABLE model_verdict (
    verdict_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    version    bigint NOT NULL,
    kind       text NOT NULL,
    actor      text NOT NULL,
    reason     text NOT NULL,
    checks     json NOT NULL,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT model_verdict_kind_check CHECK (kind IN ('promoted', 'refused', 'rolled_back')),
    CONSTRAINT model_verdict_actor_check CHECK (length(btrim(actor)) BETWEEN 1 AND 128),
    CONSTRAINT model_verdict_reason_check CHECK (length(btrim(reason)) BETWEEN 1 AND 2000)
);
CREATE TRIGGER model_verdict_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON model_verdict
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
"""

CHECKPOINTS = """
CREATE TABLE model_checkpoint (
    last_seq   bigint PRIMARY KEY,
    manifest   json NOT NULL,
    arrays     bytea NOT NULL,
    signature  bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
"""

NORMS = """
-- What is usual for an account, folded from its good events up to label seq; the numbers are detectors.models_norm's.
CREATE TABLE account_norm (
    program text NOT NULL,
    account text NOT NULL,
    seq     bigint NOT NULL,
    state   bytea NOT NULL,
    PRIMARY KEY (program, account)
) WITH (fillfactor = 80);
"""

# Until here the newest snapshot was the one in use.
FIRST = """
INSERT INTO model_verdict (version, kind, actor, reason, checks)
SELECT max(version), 'promoted', 'pointguard migrate', 'was in use before there were verdicts', '[]'
  FROM model_snapshot HAVING count(*) > 0;
"""


def upgrade() -> None:
    """Create the tables, and name the champion there is."""
    for part in (VERDICTS, CHECKPOINTS, NORMS, FIRST):
        op.execute(part)


def downgrade() -> None:
    """Refused: going back would forget who put which model into use, and why."""
    raise NotImplementedError("this migration cannot be undone: it would drop the verdicts on models")
