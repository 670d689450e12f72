"""Decisions, delivery (progress, inbox, dead letters, outbox), policies, labels and model snapshots."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

DECISIONS = """
CREATE TABLE decision (
    decision_id      bigint PRIMARY KEY,
    source           text NOT NULL,
    event_id         text NOT NULL,
    program          text NOT NULL,
    account          text NOT NULL,
    type             text NOT NULL,
    points           bigint,
    outcome          text NOT NULL,
    code             text NOT NULL,
    suspicious       boolean NOT NULL DEFAULT false,
    score            double precision,
    features         bytea,
    features_version text,
    event            json NOT NULL,
    reasons          json NOT NULL,
    policy_version   bigint,
    model_version    bigint,
    device           bytea,
    ip               bytea,
    occurred_at      timestamptz NOT NULL,
    observed_at      timestamptz NOT NULL,
    decided_at       timestamptz NOT NULL,
    log_id           text NOT NULL,
    topic            text NOT NULL,
    part             integer NOT NULL,
    "offset"         bigint NOT NULL,
    CONSTRAINT decision_source_event_id_key UNIQUE (source, event_id),
    CONSTRAINT decision_outcome_check CHECK (outcome IN ('approve', 'hold', 'reject', 'expired', 'noted'))
);
CREATE TRIGGER decision_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON decision
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
"""

DELIVERY = """
CREATE TABLE partition_progress (
    log_id      text NOT NULL,
    topic       text NOT NULL,
    part        integer NOT NULL,
    last_offset bigint NOT NULL,
    epoch       bigint NOT NULL,
    owner       text NOT NULL,
    PRIMARY KEY (log_id, topic, part)
) WITH (fillfactor = 50);

CREATE TABLE event_inbox (
    source       text NOT NULL,
    event_id     text NOT NULL,
    log_id       text NOT NULL,
    topic        text NOT NULL,
    part         integer NOT NULL,
    "offset"     bigint NOT NULL,
    received_at  timestamptz NOT NULL,
    payload_hash bytea NOT NULL,
    PRIMARY KEY (source, event_id),
    CONSTRAINT event_inbox_log_id_topic_part_offset_key UNIQUE (log_id, topic, part, "offset")
);

CREATE TABLE event_duplicate (
    log_id   text NOT NULL,
    topic    text NOT NULL,
    part     integer NOT NULL,
    "offset" bigint NOT NULL,
    source   text NOT NULL,
    event_id text NOT NULL,
    PRIMARY KEY (log_id, topic, part, "offset")
);

CREATE TABLE dead_letter (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    log_id     text NOT NULL,
    topic      text NOT NULL,
    part       integer NOT NULL,
    "offset"   bigint NOT NULL,
    key        bytea,
    raw        bytea,
    source     text,
    event_id   text,
    error      text NOT NULL,
    field      text,
    detail     text,
    first_seen timestamptz NOT NULL,
    retried_at timestamptz,
    CONSTRAINT dead_letter_log_id_topic_part_offset_key UNIQUE (log_id, topic, part, "offset")
);

-- No CACHE on this identity: an account's messages leave in the order of their ids, whichever connection wrote them.
CREATE TABLE outbox (
    outbox_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic      text NOT NULL,
    key        bytea,
    value      bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE quarantine (
    source text PRIMARY KEY,
    since  timestamptz NOT NULL DEFAULT clock_timestamp(),
    reason text NOT NULL
);

CREATE TABLE velocity_epoch (
    singleton boolean PRIMARY KEY DEFAULT true,
    token     text NOT NULL,
    since     timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT velocity_epoch_singleton_check CHECK (singleton)
);
"""

MODELS = """
CREATE TABLE policy (
    version      bigint PRIMARY KEY,
    document     text NOT NULL,
    active       boolean NOT NULL DEFAULT false,
    activated_at timestamptz
);
CREATE UNIQUE INDEX policy_active_key ON policy (active) WHERE active;

CREATE TABLE label_pending (
    decision_id bigint PRIMARY KEY,
    program     text NOT NULL,
    label       smallint NOT NULL,
    origin      text NOT NULL,
    due_at      timestamptz NOT NULL,
    CONSTRAINT label_pending_label_check CHECK (label IN (0, 1)),
    CONSTRAINT label_pending_origin_check CHECK (origin IN ('matured', 'review'))
);
CREATE INDEX label_pending_due_at_idx ON label_pending (due_at);

CREATE TABLE label_log (
    seq         bigint PRIMARY KEY,
    decision_id bigint NOT NULL,
    label       smallint NOT NULL,
    origin      text NOT NULL,
    recorded_at timestamptz NOT NULL,
    CONSTRAINT label_log_label_check CHECK (label IN (0, 1)),
    CONSTRAINT label_log_origin_check CHECK (origin IN ('matured', 'review'))
);

CREATE TABLE model_snapshot (
    version    bigint PRIMARY KEY,
    last_seq   bigint NOT NULL,
    manifest   json NOT NULL,
    arrays     bytea NOT NULL,
    signature  bytea NOT NULL,
    created_at timestamptz NOT NULL
);
"""


def upgrade() -> None:
    """Create the tables around the ledger."""
    for part in (DECISIONS, DELIVERY, MODELS):
        op.execute(part)


def downgrade() -> None:
    """Refused: going back would drop decisions and delivery progress."""
    raise NotImplementedError("this migration cannot be undone: it would drop the decisions; drop the database")
