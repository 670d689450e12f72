"""The life of a policy: steps, approval by a second person, backtests, pauses; and lists and snoozes beside it."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

POLICY = """
-- A version without an author came with the installation. Any other goes into force only with the approval of somebody
-- else than its author; names are compared without case and surrounding blanks.
ALTER TABLE policy
    ADD COLUMN author      text,
    ADD COLUMN drafted_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    ADD COLUMN note        text NOT NULL DEFAULT '',
    ADD COLUMN approved_by text,
    ADD COLUMN approved_at timestamptz,
    ADD CONSTRAINT policy_author_check CHECK (length(btrim(author)) BETWEEN 1 AND 128),
    ADD CONSTRAINT policy_four_eyes_check CHECK (
        approved_by IS NULL OR (author IS NOT NULL AND lower(btrim(approved_by)) <> lower(btrim(author)))),
    ADD CONSTRAINT policy_approved_check CHECK ((approved_by IS NULL) = (approved_at IS NULL)),
    ADD CONSTRAINT policy_in_force_check CHECK (NOT active OR author IS NULL OR approved_by IS NOT NULL);

CREATE FUNCTION policy_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.version, NEW.document, NEW.drafted_at) IS DISTINCT FROM (OLD.version, OLD.document, OLD.drafted_at)
       OR NEW.author IS DISTINCT FROM OLD.author
       OR (OLD.approved_by IS NOT NULL AND NEW.approved_by IS DISTINCT FROM OLD.approved_by) THEN
        RAISE EXCEPTION 'a version of the policy never changes: draft another one'
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER policy_unchanged BEFORE UPDATE ON policy FOR EACH ROW EXECUTE FUNCTION policy_guard();
CREATE TRIGGER policy_kept BEFORE DELETE OR TRUNCATE ON policy
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();

CREATE TABLE policy_step (
    step_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    version bigint NOT NULL REFERENCES policy,
    step    text NOT NULL,
    actor   text NOT NULL,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    reason  text NOT NULL,
    CONSTRAINT policy_step_step_check CHECK (
        step IN ('drafted', 'validated', 'refused', 'backtested', 'approved', 'activated', 'rolled_back')),
    CONSTRAINT policy_step_actor_check CHECK (length(btrim(actor)) BETWEEN 1 AND 128)
);
CREATE INDEX policy_step_version_idx ON policy_step (version, step_id);
CREATE TRIGGER policy_step_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON policy_step
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();

CREATE TABLE backtest (
    backtest_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    version     bigint NOT NULL REFERENCES policy,
    made_by     text NOT NULL,
    made_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    program     text,
    since       timestamptz NOT NULL,
    until       timestamptz NOT NULL,
    events      bigint NOT NULL,
    report      json NOT NULL,
    CONSTRAINT backtest_period_check CHECK (since < until)
);
CREATE INDEX backtest_version_idx ON backtest (version, backtest_id);
CREATE TRIGGER backtest_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON backtest
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();

-- What each worker uses, and what it refused: "active" is what should be used.
CREATE TABLE policy_loaded (
    worker  text PRIMARY KEY,
    version bigint NOT NULL,
    refused bigint,
    why     text,
    at      timestamptz NOT NULL DEFAULT clock_timestamp()
);
"""

RULES = """
-- How often each rule spoke, by day; events is how many the policy saw. Workers add to it every few seconds.
CREATE TABLE rule_use (
    day     date NOT NULL,
    version bigint NOT NULL,
    rule    text NOT NULL,
    events  bigint NOT NULL,
    hits    bigint NOT NULL,
    shadow  bigint NOT NULL,
    snoozed bigint NOT NULL,
    points  numeric NOT NULL,
    PRIMARY KEY (day, version, rule)
);

CREATE TABLE rule_pause (
    pause_id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    version        bigint NOT NULL REFERENCES policy,
    rule           text NOT NULL,
    since          timestamptz NOT NULL DEFAULT clock_timestamp(),
    worker         text NOT NULL,
    hits           bigint NOT NULL,
    events         bigint NOT NULL,
    expected       double precision NOT NULL,
    why            text NOT NULL,
    resumed_at     timestamptz,
    resumed_by     text,
    resumed_reason text,
    CONSTRAINT rule_pause_resumed_check CHECK (
        (resumed_at IS NULL) = (resumed_by IS NULL) AND (resumed_at IS NULL) = (resumed_reason IS NULL))
);
CREATE UNIQUE INDEX rule_pause_open_key ON rule_pause (version, rule) WHERE resumed_at IS NULL;

CREATE TABLE rule_snooze (
    snooze_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    rule         text NOT NULL,
    program      text NOT NULL,
    kind         text NOT NULL,
    value        bytea NOT NULL,
    shown        text NOT NULL,
    until        timestamptz NOT NULL,
    reason       text NOT NULL,
    made_by      text NOT NULL,
    made_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at     timestamptz,
    ended_by     text,
    ended_reason text,
    CONSTRAINT rule_snooze_kind_check CHECK (kind IN ('account', 'device', 'ip', 'store', 'staff')),
    CONSTRAINT rule_snooze_until_check CHECK (until > made_at AND until <= made_at + interval '180 days'),
    CONSTRAINT rule_snooze_reason_check CHECK (length(btrim(reason)) BETWEEN 1 AND 500),
    CONSTRAINT rule_snooze_made_by_check CHECK (length(btrim(made_by)) BETWEEN 1 AND 128)
);
CREATE INDEX rule_snooze_open_idx ON rule_snooze (until) WHERE ended_at IS NULL;
"""

LISTS = """
CREATE TABLE list (
    name    text PRIMARY KEY,
    tier    text NOT NULL,
    note    text NOT NULL,
    made_by text NOT NULL,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT list_name_check CHECK (name ~ '^[a-z][a-z0-9_]{0,40}$'),
    CONSTRAINT list_tier_check CHECK (tier IN ('allow', 'block', 'final', 'watch', 'plain'))
);
INSERT INTO list (name, tier, note, made_by) VALUES
    ('allow', 'allow', 'lifts ordinary blocks and what rules and models add', 'pointguard migrate'),
    ('block', 'block', 'an ordinary block: an allow-list lifts it', 'pointguard migrate'),
    ('final', 'final', 'a block that nothing lifts', 'pointguard migrate'),
    ('watch', 'watch', 'adds weight', 'pointguard migrate');

-- Devices and addresses stand here as pseudonyms only; prefix is the length of a network, 0 for an exact value.
CREATE TABLE list_entry (
    entry_id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    list           text NOT NULL REFERENCES list,
    program        text NOT NULL,
    kind           text NOT NULL,
    prefix         smallint NOT NULL,
    value          bytea NOT NULL,
    shown          text NOT NULL,
    until          timestamptz,
    reason         text NOT NULL,
    added_by       text NOT NULL,
    added_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    removed_at     timestamptz,
    removed_by     text,
    removed_reason text,
    CONSTRAINT list_entry_kind_check CHECK (
        kind IN ('account', 'device', 'ip', 'payment', 'referrer', 'store', 'staff', 'campaign', 'channel', 'source')),
    CONSTRAINT list_entry_prefix_check CHECK (prefix BETWEEN 0 AND 128 AND (prefix = 0 OR kind = 'ip')),
    CONSTRAINT list_entry_reason_check CHECK (length(btrim(reason)) BETWEEN 1 AND 500),
    CONSTRAINT list_entry_added_by_check CHECK (length(btrim(added_by)) BETWEEN 1 AND 128),
    CONSTRAINT list_entry_until_check CHECK (until > added_at)
);
CREATE UNIQUE INDEX list_entry_open_key ON list_entry (list, program, kind, prefix, value) WHERE removed_at IS NULL;

CREATE FUNCTION list_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (to_jsonb(NEW) - ARRAY['removed_at', 'removed_by', 'removed_reason', 'ended_at', 'ended_by', 'ended_reason',
                              'resumed_at', 'resumed_by', 'resumed_reason'])
       IS DISTINCT FROM (to_jsonb(OLD) - ARRAY['removed_at', 'removed_by', 'removed_reason', 'ended_at', 'ended_by',
                              'ended_reason', 'resumed_at', 'resumed_by', 'resumed_reason']) THEN
        RAISE EXCEPTION 'a row of % is only ever ended: end it and make another one', TG_TABLE_NAME
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

-- Goes up with every change of what workers keep in memory, so that a look at one row tells whether to read again.
CREATE TABLE catalog_version (
    singleton boolean PRIMARY KEY DEFAULT true,
    version   bigint NOT NULL,
    CONSTRAINT catalog_version_singleton_check CHECK (singleton)
);
INSERT INTO catalog_version (version) VALUES (1);

CREATE FUNCTION catalog_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE catalog_version SET version = version + 1;
    RETURN NULL;
END $$;
"""
GUARDS = "".join(
    f"""
CREATE TRIGGER {table}_ended BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION list_guard();
CREATE TRIGGER {table}_kept BEFORE DELETE OR TRUNCATE ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER {table}_told AFTER INSERT OR UPDATE ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION catalog_changed();"""
    for table in ("list_entry", "rule_snooze", "rule_pause")
)


def upgrade() -> None:
    """Create what a policy's life, lists and snoozes are kept in."""
    for part in (POLICY, RULES, LISTS, GUARDS):
        op.execute(part)


def downgrade() -> None:
    """Refused: going back would drop who approved which policy."""
    raise NotImplementedError("this migration cannot be undone: it would drop approvals; drop the database")
