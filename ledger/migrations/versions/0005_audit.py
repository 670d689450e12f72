"""The audit chain with its anchors, and the marks that let `verify` go on from where it was."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

CHAIN = """
CREATE TABLE audit_link (
    chain    text NOT NULL,
    seq      bigint NOT NULL,
    entry    text NOT NULL,
    hash     bytea NOT NULL,
    marks    bytea NOT NULL,
    first_id bigint,
    last_id  bigint,
    PRIMARY KEY (chain, seq),
    CONSTRAINT audit_link_seq_check CHECK (seq > 0),
    CONSTRAINT audit_link_hash_check CHECK (length(hash) = 32),
    CONSTRAINT audit_link_ids_check CHECK ((first_id IS NULL) = (last_id IS NULL) AND first_id <= last_id)
);
CREATE INDEX audit_link_last_id_idx ON audit_link (last_id) WHERE last_id IS NOT NULL;

CREATE TABLE audit_anchor (
    number bigint PRIMARY KEY,
    at     timestamptz NOT NULL,
    signed text NOT NULL,
    CONSTRAINT audit_anchor_number_check CHECK (number > 0)
);

CREATE TRIGGER audit_link_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_link
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER audit_anchor_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_anchor
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();

-- The owner, too, gives up the right: to take it back is an act of its own, and the trigger stands behind it.
REVOKE UPDATE, DELETE, TRUNCATE ON audit_link, audit_anchor FROM PUBLIC, CURRENT_USER;
"""

MARKS = """
CREATE TABLE verified_chain (
    chain text PRIMARY KEY,
    seq   bigint NOT NULL,
    hash  bytea NOT NULL
);

CREATE TABLE verified_account (
    account_id  bigint PRIMARY KEY,
    posted_dr   numeric NOT NULL,
    posted_cr   numeric NOT NULL,
    pending_dr  numeric NOT NULL,
    pending_cr  numeric NOT NULL,
    entry_count bigint NOT NULL
) WITH (fillfactor = 75);

CREATE TABLE verify_run (
    run_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    whole   boolean NOT NULL,
    highest bigint NOT NULL,
    checked json NOT NULL
);
"""


def upgrade() -> None:
    """Create the audit chain and the marks; `ledger.migrate` then covers what is there already."""
    for part in (CHAIN, MARKS):
        op.execute(part)


def downgrade() -> None:
    """Refused: going back would drop the audit chain."""
    raise NotImplementedError("this migration cannot be undone: it would drop the audit chain; drop the database")
