"""Accounts, transactions, entries, holds and their resolutions, with the triggers that keep them honest."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ACCOUNTS = """
CREATE SEQUENCE decision_seq AS bigint INCREMENT BY 1000 START WITH 1;

CREATE TABLE program (
    program    text PRIMARY KEY,
    mode       text NOT NULL,
    clock      timestamptz,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT program_mode_check CHECK (mode IN ('live', 'simulation')),
    CONSTRAINT program_name_check CHECK (length(program) BETWEEN 1 AND 128),
    CONSTRAINT program_clock_check CHECK (mode = 'simulation' OR clock IS NULL)
);

-- Counters are updated in place: no indexed column ever changes, and the spare room keeps updates on their page (HOT).
CREATE TABLE account (
    account_id            bigint GENERATED ALWAYS AS IDENTITY (CACHE 100) PRIMARY KEY,
    program               text NOT NULL,
    kind                  text NOT NULL,
    name                  text NOT NULL,
    posted_dr             bigint NOT NULL DEFAULT 0,
    posted_cr             bigint NOT NULL DEFAULT 0,
    pending_dr            bigint NOT NULL DEFAULT 0,
    pending_cr            bigint NOT NULL DEFAULT 0,
    entry_count           bigint NOT NULL DEFAULT 0,
    arrears_id            bigint,
    opened_at             timestamptz NOT NULL,
    signed_up_at          timestamptz,
    credential_changed_at timestamptz,
    CONSTRAINT account_program_kind_name_key UNIQUE (program, kind, name),
    CONSTRAINT account_kind_check CHECK (kind IN ('member', 'arrears', 'control')),
    CONSTRAINT account_counters_check CHECK (
        posted_dr >= 0 AND posted_cr >= 0 AND pending_dr >= 0 AND pending_cr >= 0 AND entry_count >= 0),
    CONSTRAINT account_bounds_check CHECK (
        kind = 'control' OR (posted_dr <= 9007199254740991 AND posted_cr + pending_cr <= 9007199254740991)),
    CONSTRAINT account_available_check CHECK (kind <> 'member' OR posted_cr - posted_dr - pending_dr >= 0),
    CONSTRAINT account_arrears_check CHECK (
        kind <> 'arrears' OR (posted_dr - posted_cr >= 0 AND pending_dr = 0 AND pending_cr = 0)),
    CONSTRAINT account_arrears_of_check CHECK (arrears_id IS NULL OR kind = 'member')
) WITH (fillfactor = 75);

-- A queue: appended by every batch, emptied by the roller.
CREATE TABLE control_delta (
    account_id bigint NOT NULL,
    delta_id   bigint GENERATED ALWAYS AS IDENTITY (CACHE 100),
    posted_dr  bigint NOT NULL,
    posted_cr  bigint NOT NULL,
    pending_dr bigint NOT NULL,
    pending_cr bigint NOT NULL,
    PRIMARY KEY (account_id, delta_id),
    CONSTRAINT control_delta_posted_check CHECK (posted_dr >= 0 AND posted_cr >= 0)
);
"""

POSTINGS = """
CREATE TABLE txn (
    txn_id      bigint PRIMARY KEY,
    program     text NOT NULL,
    kind        text NOT NULL,
    source      text,
    event_id    text,
    resolves    bigint,
    amount      bigint NOT NULL,
    pending     boolean NOT NULL,
    occurred_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    CONSTRAINT txn_kind_check CHECK (kind IN ('earn', 'redeem', 'transfer', 'adjust', 'post', 'void')),
    CONSTRAINT txn_resolves_check CHECK ((kind IN ('post', 'void')) = (resolves IS NOT NULL)),
    CONSTRAINT txn_cause_check CHECK ((resolves IS NULL) = (source IS NOT NULL AND event_id IS NOT NULL)),
    CONSTRAINT txn_amount_check CHECK (amount <> 0 AND amount BETWEEN -9007199254740991 AND 9007199254740991)
);
CREATE UNIQUE INDEX txn_resolves_key ON txn (resolves) WHERE resolves IS NOT NULL;

CREATE TABLE entry (
    txn_id      bigint NOT NULL,
    account_id  bigint NOT NULL,
    amount      bigint NOT NULL,
    account_seq bigint,
    leg         smallint NOT NULL,
    layer       smallint NOT NULL,
    PRIMARY KEY (txn_id, leg),
    CONSTRAINT entry_amount_check CHECK (amount <> 0 AND amount BETWEEN -9007199254740991 AND 9007199254740991),
    CONSTRAINT entry_layer_check CHECK (layer BETWEEN 0 AND 2 AND leg >= 0)
);
CREATE UNIQUE INDEX entry_account_id_account_seq_key ON entry (account_id, account_seq)
    WHERE account_seq IS NOT NULL;
"""

HOLDS = """
CREATE TABLE hold (
    hold_id     bigint PRIMARY KEY,
    program     text NOT NULL,
    account_id  bigint NOT NULL,
    peer_id     bigint,
    kind        text NOT NULL,
    amount      bigint NOT NULL,
    opened_at   timestamptz NOT NULL,
    due_at      timestamptz,
    on_timeout  text NOT NULL,
    resolved_at timestamptz,
    CONSTRAINT hold_kind_check CHECK (kind IN ('earn', 'redeem', 'transfer', 'adjust')),
    CONSTRAINT hold_peer_check CHECK ((kind = 'transfer') = (peer_id IS NOT NULL)),
    CONSTRAINT hold_amount_check CHECK (amount > 0 OR (kind = 'adjust' AND amount < 0)),
    CONSTRAINT hold_on_timeout_check CHECK (on_timeout IN ('void', 'post', 'escalate'))
);
CREATE INDEX hold_open_idx ON hold (program, opened_at, hold_id) WHERE resolved_at IS NULL;
CREATE INDEX hold_account_idx ON hold (account_id) WHERE resolved_at IS NULL;
CREATE INDEX hold_due_idx ON hold (due_at) WHERE resolved_at IS NULL AND due_at IS NOT NULL;

CREATE TABLE review_decision (
    decision_id  bigint PRIMARY KEY,
    hold_id      bigint NOT NULL REFERENCES hold,
    verdict      text NOT NULL,
    actor        text NOT NULL,
    reason       text NOT NULL,
    decided_at   timestamptz NOT NULL,
    effective_at timestamptz NOT NULL,
    CONSTRAINT review_decision_verdict_check CHECK (verdict IN ('post', 'void', 'escalate')),
    CONSTRAINT review_decision_actor_check CHECK (length(actor) BETWEEN 1 AND 128)
);
CREATE INDEX review_decision_hold_id_idx ON review_decision (hold_id);

CREATE TABLE hold_resolution (
    hold_id     bigint PRIMARY KEY REFERENCES hold,
    verdict     text NOT NULL,
    decision_id bigint NOT NULL UNIQUE REFERENCES review_decision,
    resolved_at timestamptz NOT NULL,
    CONSTRAINT hold_resolution_verdict_check CHECK (verdict IN ('post', 'void'))
);
"""

GUARDS = """
CREATE FUNCTION ledger_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on % refused: the ledger''s history is only ever added to', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;

-- All entries of a transaction come in one statement: each statement's entries of a transaction hold leg 0, which the
-- primary key allows once. So checking what one statement inserted checks whole transactions, at a fraction of the
-- cost of a deferred trigger per row.
CREATE FUNCTION ledger_check_balance() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE wrong bigint;
BEGIN
    SELECT txn_id INTO wrong FROM inserted GROUP BY txn_id
    HAVING min(leg) <> 0
        OR coalesce(sum(amount) FILTER (WHERE layer = 0), 0) <> 0
        OR coalesce(sum(amount) FILTER (WHERE layer = 1), 0) <> 0
        OR coalesce(sum(amount) FILTER (WHERE layer = 2), 0) <> 0
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'entries of transaction % do not sum to zero in every layer, or are not all of them', wrong
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER entry_balance AFTER INSERT ON entry REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_balance();

CREATE TRIGGER txn_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON txn
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER entry_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON entry
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER review_decision_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON review_decision
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER hold_resolution_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON hold_resolution
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();

CREATE TRIGGER hold_identity BEFORE
    UPDATE OF hold_id, program, account_id, peer_id, kind, amount, opened_at, on_timeout OR DELETE OR TRUNCATE ON hold
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER account_identity BEFORE UPDATE OF account_id, program, kind, name OR DELETE OR TRUNCATE ON account
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER program_identity BEFORE UPDATE OF program, mode OR DELETE OR TRUNCATE ON program
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
"""


def upgrade() -> None:
    """Create the ledger's tables and guards."""
    for part in (ACCOUNTS, POSTINGS, HOLDS, GUARDS):
        op.execute(part)


def downgrade() -> None:
    """Refused: going back would drop the ledger."""
    raise NotImplementedError("the first migration cannot be undone: it would drop the ledger; drop the database")
