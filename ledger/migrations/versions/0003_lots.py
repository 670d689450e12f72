"""Lots, their uses and reservations; pools, stores, merges; reversals and refunds; partial approvals; terms."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

CHANGES = """
ALTER TABLE program ADD COLUMN terms jsonb NOT NULL DEFAULT '{}';

ALTER TABLE account
    ADD COLUMN open_holds integer NOT NULL DEFAULT 0,
    ADD COLUMN merged_into bigint,
    DROP CONSTRAINT account_kind_check,
    DROP CONSTRAINT account_bounds_check,
    DROP CONSTRAINT account_available_check,
    ADD CONSTRAINT account_kind_check CHECK (kind IN ('member', 'arrears', 'control', 'pool', 'store')),
    ADD CONSTRAINT account_bounds_check CHECK (
        kind IN ('control', 'store')
        OR (posted_dr <= 9007199254740991 AND posted_cr + pending_cr <= 9007199254740991)),
    ADD CONSTRAINT account_available_check CHECK (
        kind NOT IN ('member', 'pool') OR posted_cr - posted_dr - pending_dr >= 0),
    ADD CONSTRAINT account_open_holds_check CHECK (open_holds >= 0),
    ADD CONSTRAINT account_merged_into_check CHECK (
        merged_into IS NULL OR (kind = 'member' AND merged_into <> account_id));

ALTER TABLE txn
    ADD COLUMN order_id text,
    DROP CONSTRAINT txn_kind_check,
    ADD CONSTRAINT txn_kind_check CHECK (
        kind IN ('earn', 'redeem', 'transfer', 'adjust', 'post', 'void', 'reverse', 'expire', 'merge'));
CREATE INDEX txn_order_idx ON txn (program, order_id) WHERE order_id IS NOT NULL;

ALTER TABLE hold
    ADD COLUMN replaces bigint,
    ADD COLUMN expires_at timestamptz,
    ADD COLUMN store text,
    ADD COLUMN order_id text;
CREATE UNIQUE INDEX hold_replaces_key ON hold (replaces) WHERE replaces IS NOT NULL;

-- Points posted when a hold ended, without sign: all of them, a part, or none. Until now a post was always of all.
ALTER TABLE hold_resolution ADD COLUMN posted bigint NOT NULL DEFAULT 0;
ALTER TABLE hold_resolution DISABLE TRIGGER hold_resolution_immutable;
UPDATE hold_resolution r SET posted = abs(h.amount) FROM hold h WHERE h.hold_id = r.hold_id AND r.verdict = 'post';
ALTER TABLE hold_resolution ENABLE TRIGGER hold_resolution_immutable;
ALTER TABLE hold_resolution
    ALTER COLUMN posted DROP DEFAULT,
    ADD CONSTRAINT hold_resolution_posted_check CHECK (posted >= 0 AND (posted > 0) = (verdict = 'post'));
"""

LOTS = """
-- `remaining` and `reserved` are updated in place: no index has them, so updates stay on their page (HOT) until the lot
-- is used up and `open` flips. txn_id 0 stands for the balances from before there were lots.
CREATE TABLE lot (
    lot_id     bigint PRIMARY KEY,
    program    text NOT NULL,
    account_id bigint NOT NULL,
    txn_id     bigint NOT NULL,
    parent     bigint,
    issued     bigint NOT NULL,
    remaining  bigint NOT NULL,
    reserved   bigint NOT NULL,
    earned_at  timestamptz NOT NULL,
    expires_at timestamptz,
    store      text,
    open       boolean NOT NULL GENERATED ALWAYS AS (remaining > 0) STORED,
    CONSTRAINT lot_amounts_check CHECK (0 <= reserved AND reserved <= remaining AND remaining <= issued),
    CONSTRAINT lot_issued_check CHECK (issued BETWEEN 1 AND 9007199254740991),
    CONSTRAINT lot_parent_check CHECK (parent <> lot_id)
) WITH (fillfactor = 75);
CREATE INDEX lot_open_idx ON lot (account_id, expires_at, earned_at, lot_id) WHERE open;
CREATE INDEX lot_due_idx ON lot (program, expires_at) WHERE open AND expires_at IS NOT NULL;
CREATE INDEX lot_parent_idx ON lot (parent) WHERE parent IS NOT NULL;

CREATE TABLE lot_use (
    txn_id bigint NOT NULL,
    lot_id bigint NOT NULL,
    amount bigint NOT NULL,
    action text NOT NULL,
    PRIMARY KEY (txn_id, lot_id, action),
    CONSTRAINT lot_use_amount_check CHECK (amount > 0),
    CONSTRAINT lot_use_action_check CHECK (
        action IN ('debit', 'transfer', 'expire', 'clawback', 'repay', 'restore'))
);
CREATE INDEX lot_use_lot_id_idx ON lot_use (lot_id);

CREATE TABLE hold_lot (
    hold_id bigint NOT NULL,
    lot_id  bigint NOT NULL,
    amount  bigint NOT NULL,
    PRIMARY KEY (hold_id, lot_id),
    CONSTRAINT hold_lot_amount_check CHECK (amount > 0)
);
CREATE INDEX hold_lot_lot_id_idx ON hold_lot (lot_id);
"""

REVERSALS = """
-- What a reversal took back of `original_txn` and from where; a reversal that moved posted points is also a transaction
-- of the same id.
CREATE TABLE reversal (
    reversal_id   bigint PRIMARY KEY,
    program       text NOT NULL,
    original_txn  bigint NOT NULL,
    points        bigint NOT NULL,
    from_hold     bigint NOT NULL,
    from_lot      bigint NOT NULL,
    from_reserved bigint NOT NULL,
    from_traced   bigint NOT NULL,
    from_other    bigint NOT NULL,
    to_arrears    bigint NOT NULL,
    forgiven      bigint NOT NULL,
    restored      bigint NOT NULL,
    repaid        bigint NOT NULL,
    order_id      text,
    refund_id     text,
    recorded_at   timestamptz NOT NULL,
    CONSTRAINT reversal_points_check CHECK (points > 0),
    CONSTRAINT reversal_parts_check CHECK (
        from_hold >= 0 AND from_lot >= 0 AND from_reserved >= 0 AND from_traced >= 0 AND from_other >= 0
        AND to_arrears >= 0 AND forgiven >= 0 AND restored >= 0 AND repaid >= 0
        AND points = from_hold + from_lot + from_reserved + from_traced + from_other + to_arrears + forgiven
                     + restored + repaid),
    CONSTRAINT reversal_refund_check CHECK (refund_id IS NULL OR order_id IS NOT NULL)
);
CREATE INDEX reversal_original_txn_idx ON reversal (original_txn);

-- Amounts in the smallest unit of the order's money.
CREATE TABLE order_refund (
    program     text NOT NULL,
    order_id    text NOT NULL,
    refund_id   text NOT NULL,
    amount      bigint NOT NULL,
    order_total bigint NOT NULL,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (program, order_id, refund_id),
    CONSTRAINT order_refund_amount_check CHECK (amount > 0),
    CONSTRAINT order_refund_order_total_check CHECK (order_total > 0)
);
"""

PEOPLE = """
CREATE TABLE account_merge (
    merge_id bigint PRIMARY KEY,
    program  text NOT NULL,
    from_id  bigint NOT NULL UNIQUE,
    into_id  bigint NOT NULL,
    actor    text NOT NULL,
    reason   text NOT NULL,
    at       timestamptz NOT NULL,
    CONSTRAINT account_merge_apart_check CHECK (from_id <> into_id),
    CONSTRAINT account_merge_actor_check CHECK (length(actor) BETWEEN 1 AND 128)
);
CREATE INDEX account_merge_into_id_idx ON account_merge (into_id);

CREATE TABLE pool_member (
    pool_id   bigint NOT NULL,
    member_id bigint NOT NULL,
    since     timestamptz NOT NULL,
    until     timestamptz,
    added_by  text NOT NULL,
    PRIMARY KEY (pool_id, member_id, since),
    CONSTRAINT pool_member_until_check CHECK (until >= since),
    CONSTRAINT pool_member_added_by_check CHECK (length(added_by) BETWEEN 1 AND 128)
);
CREATE UNIQUE INDEX pool_member_now_key ON pool_member (pool_id, member_id) WHERE until IS NULL;
CREATE INDEX pool_member_member_id_idx ON pool_member (member_id);
"""

# One opening lot for all that a member has; the points that open holds set aside are set aside in it. What is owed
# (arrears) and what waits for approval (pending credits) has no lot.
OPENING = """
-- Transactions and holds below this id were written before there were lots: they have no uses and no reservations. No
-- row in a ledger that was empty then.
CREATE TABLE lots_since (
    first_id bigint PRIMARY KEY
);
INSERT INTO lots_since (first_id) SELECT nextval('decision_seq') WHERE EXISTS (SELECT FROM txn);

WITH owners AS (
    SELECT a.account_id, a.program, a.posted_cr - a.posted_dr AS points, a.pending_dr,
           coalesce(p.clock, CASE p.mode WHEN 'live' THEN clock_timestamp() ELSE to_timestamp(0) END) AS earned_at,
           row_number() OVER (ORDER BY a.account_id) - 1 AS n
      FROM account a JOIN program p USING (program)
     WHERE a.kind = 'member' AND a.posted_cr > a.posted_dr),
blocks AS MATERIALIZED (
    SELECT block, nextval('decision_seq') AS start
      FROM generate_series(0, (SELECT (count(*) - 1) / 1000 FROM owners)) AS b(block)
     WHERE EXISTS (SELECT FROM owners))
INSERT INTO lot (lot_id, program, account_id, txn_id, issued, remaining, reserved, earned_at)
SELECT b.start + mod(h.n, 1000), h.program, h.account_id, 0, h.points, h.points, h.pending_dr, h.earned_at
  FROM owners h JOIN blocks b ON b.block = h.n / 1000;

INSERT INTO hold_lot (hold_id, lot_id, amount)
SELECT h.hold_id, l.lot_id, abs(h.amount)
  FROM hold h JOIN lot l USING (account_id)
 WHERE h.resolved_at IS NULL AND (h.kind IN ('redeem', 'transfer') OR h.amount < 0);

UPDATE account a SET open_holds = h.holds
  FROM (SELECT account_id, count(*) AS holds FROM hold WHERE resolved_at IS NULL GROUP BY account_id) h
 WHERE a.account_id = h.account_id;
"""

GUARDS = """
DROP TRIGGER hold_identity ON hold;
CREATE TRIGGER hold_identity BEFORE
    UPDATE OF hold_id, program, account_id, peer_id, kind, amount, opened_at, on_timeout, replaces, expires_at, store,
        order_id OR DELETE OR TRUNCATE ON hold
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER lot_identity BEFORE
    UPDATE OF lot_id, program, account_id, txn_id, parent, issued, earned_at, expires_at, store OR DELETE OR TRUNCATE
    ON lot FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER account_merged_once BEFORE UPDATE OF merged_into ON account
    FOR EACH ROW WHEN (OLD.merged_into IS NOT NULL) EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER pool_member_identity BEFORE
    UPDATE OF pool_id, member_id, since, added_by OR DELETE OR TRUNCATE ON pool_member
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER pool_member_left_once BEFORE UPDATE OF until ON pool_member
    FOR EACH ROW WHEN (OLD.until IS NOT NULL) EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER lot_use_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON lot_use
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER hold_lot_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON hold_lot
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER lots_since_immutable BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON lots_since
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER reversal_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON reversal
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER order_refund_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON order_refund
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER account_merge_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON account_merge
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
"""


def upgrade() -> None:
    """Add the tables, give every balance an opening lot, then guard what must not change."""
    for part in (CHANGES, LOTS, REVERSALS, PEOPLE, OPENING, GUARDS):
        op.execute(part)


def downgrade() -> None:
    """Refused: going back would drop the lots."""
    raise NotImplementedError("this migration cannot be undone: it would drop the lots; drop the database")
