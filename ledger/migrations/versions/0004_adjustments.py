"""Manual adjustments and bulk imports, with a maker and, above the programme's limit, a different checker."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ADJUSTMENTS = """
-- The txn is written in the transaction that approves. Names are compared without case, width and outer blanks.
CREATE TABLE adjustment (
    adjustment_id bigint PRIMARY KEY,
    program       text NOT NULL REFERENCES program,
    account       text NOT NULL,
    points        bigint NOT NULL,
    reason_code   text NOT NULL,
    reason        text NOT NULL,
    expires_at    timestamptz,
    reference     text,
    maker         text NOT NULL,
    made_at       timestamptz NOT NULL,
    limit_points  bigint NOT NULL,
    verdict       text,
    checker       text,
    checked_at    timestamptz,
    check_reason  text,
    txn_id        bigint UNIQUE REFERENCES txn DEFERRABLE INITIALLY DEFERRED,
    CONSTRAINT adjustment_points_check CHECK (points <> 0 AND points BETWEEN -9007199254740991 AND 9007199254740991),
    CONSTRAINT adjustment_reason_code_check CHECK (reason_code ~ '^[a-z][a-z0-9_]{0,63}$'),
    CONSTRAINT adjustment_reason_check CHECK (length(btrim(reason)) BETWEEN 1 AND 1000),
    CONSTRAINT adjustment_expires_check CHECK (expires_at IS NULL OR points > 0),
    CONSTRAINT adjustment_maker_check CHECK (length(btrim(maker)) BETWEEN 1 AND 128),
    CONSTRAINT adjustment_checker_check CHECK (
        checker IS NULL
        OR (length(btrim(checker)) BETWEEN 1 AND 128
            AND lower(btrim(normalize(checker, NFKC))) <> lower(btrim(normalize(maker, NFKC))))),
    CONSTRAINT adjustment_verdict_check CHECK (verdict IN ('approved', 'rejected')),
    CONSTRAINT adjustment_checked_check CHECK (
        (verdict IS NULL) = (checked_at IS NULL) AND (verdict IS NOT NULL OR checker IS NULL)),
    CONSTRAINT adjustment_posted_check CHECK ((verdict IS NOT DISTINCT FROM 'approved') = (txn_id IS NOT NULL)),
    CONSTRAINT adjustment_limit_check CHECK (
        verdict IS DISTINCT FROM 'approved' OR checker IS NOT NULL OR abs(points) <= limit_points)
);
CREATE INDEX adjustment_open_idx ON adjustment (program, adjustment_id) WHERE verdict IS NULL;
CREATE INDEX adjustment_account_idx ON adjustment (program, account, adjustment_id);
CREATE UNIQUE INDEX adjustment_reference_key ON adjustment (program, reference) WHERE reference IS NOT NULL;
"""

IMPORTS = """
-- A job is one file for one purpose: the same file again is the same job. It is made with all its rows and sealed
-- (`staged_at`, with their number and sum) in one transaction, approved in another, and then posted in batches.
CREATE TABLE import_job (
    job_id       bigint PRIMARY KEY,
    program      text NOT NULL REFERENCES program,
    kind         text NOT NULL,
    system       text NOT NULL,
    label        text NOT NULL,
    digest       bytea NOT NULL,
    file_name    text NOT NULL,
    options      text NOT NULL,
    reason_code  text NOT NULL,
    reason       text NOT NULL,
    maker        text NOT NULL,
    made_at      timestamptz NOT NULL,
    limit_points bigint NOT NULL,
    staged_at    timestamptz,
    line_count   integer,
    points       bigint,
    verdict      text,
    checker      text,
    checked_at   timestamptz,
    check_reason text,
    finished_at  timestamptz,
    CONSTRAINT import_job_identity_key UNIQUE (program, kind, system, label, digest),
    CONSTRAINT import_job_kind_check CHECK (kind IN ('opening', 'credit', 'debit')),
    CONSTRAINT import_job_system_check CHECK (kind <> 'opening' OR system <> ''),
    CONSTRAINT import_job_digest_check CHECK (length(digest) = 32),
    CONSTRAINT import_job_reason_code_check CHECK (reason_code ~ '^[a-z][a-z0-9_]{0,63}$'),
    CONSTRAINT import_job_reason_check CHECK (length(btrim(reason)) BETWEEN 1 AND 1000),
    CONSTRAINT import_job_maker_check CHECK (length(btrim(maker)) BETWEEN 1 AND 128),
    CONSTRAINT import_job_checker_check CHECK (
        checker IS NULL
        OR (length(btrim(checker)) BETWEEN 1 AND 128
            AND lower(btrim(normalize(checker, NFKC))) <> lower(btrim(normalize(maker, NFKC))))),
    CONSTRAINT import_job_staged_check CHECK (
        (staged_at IS NULL) = (line_count IS NULL) AND (staged_at IS NULL) = (points IS NULL)
        AND (staged_at IS NOT NULL OR verdict IS NULL)),
    CONSTRAINT import_job_points_check CHECK (points BETWEEN 0 AND 9007199254740991),
    CONSTRAINT import_job_verdict_check CHECK (verdict IN ('approved', 'rejected')),
    CONSTRAINT import_job_checked_check CHECK (
        (verdict IS NULL) = (checked_at IS NULL) AND (verdict IS NOT NULL OR checker IS NULL)),
    CONSTRAINT import_job_finished_check CHECK (finished_at IS NULL OR verdict IS NOT DISTINCT FROM 'approved'),
    CONSTRAINT import_job_limit_check CHECK (
        verdict IS DISTINCT FROM 'approved' OR checker IS NOT NULL OR points <= limit_points)
);
CREATE INDEX import_job_maker_idx ON import_job (program, checked_at) WHERE verdict = 'approved' AND checker IS NULL;

-- `line` counts as a spreadsheet or an editor does: the header is line 1. A row that cannot be read has its problem.
CREATE TABLE import_row (
    job_id       bigint NOT NULL,
    line         integer NOT NULL,
    account      text NOT NULL,
    points       bigint,
    earned_at    timestamptz,
    expires_at   timestamptz,
    member_since timestamptz,
    store        text,
    external_id  text,
    problem      text,
    PRIMARY KEY (job_id, line),
    CONSTRAINT import_row_line_check CHECK (line > 0),
    CONSTRAINT import_row_points_check CHECK (points BETWEEN 1 AND 9007199254740991),
    CONSTRAINT import_row_problem_check CHECK ((points IS NULL) = (problem IS NOT NULL))
);

-- What became of a row, once. A posted row has its transaction.
CREATE TABLE import_result (
    job_id bigint NOT NULL,
    line   integer NOT NULL,
    code   text NOT NULL,
    txn_id bigint,
    PRIMARY KEY (job_id, line),
    CONSTRAINT import_result_posted_check CHECK ((code = 'posted') = (txn_id IS NOT NULL))
);

-- What another system calls the points that were posted: each only once, whatever files it comes in.
CREATE TABLE import_external (
    program     text NOT NULL,
    system      text NOT NULL,
    external_id text NOT NULL,
    job_id      bigint NOT NULL,
    line        integer NOT NULL,
    PRIMARY KEY (program, system, external_id),
    UNIQUE (job_id, line)
);
"""

MAKING = """
CREATE FUNCTION ledger_adjust_limit(named text) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT coalesce((terms ->> 'adjust_limit')::bigint, 10000) FROM program WHERE program = named
$$;

-- Who makes one does not say under which limit, nor that it is approved already.
CREATE FUNCTION ledger_make_adjustment() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.verdict IS NOT NULL THEN
        RAISE EXCEPTION 'adjustment % cannot be made approved: propose it first', NEW.adjustment_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'adjustment_made_check';
    END IF;
    NEW.limit_points := ledger_adjust_limit(NEW.program);
    RETURN NEW;
END $$;

-- Without a checker, what a maker adjusts of one account within 24 hours stays within the limit: a large adjustment
-- cannot be made of small ones. Whoever approves has locked the account, so nobody else adds to the sum meanwhile.
CREATE FUNCTION ledger_check_adjustment() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE before numeric;
BEGIN
    IF OLD.verdict IS NOT NULL THEN
        RAISE EXCEPTION 'adjustment % is % already', OLD.adjustment_id, OLD.verdict
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.verdict = 'approved' AND NEW.checker IS NULL THEN
        SELECT coalesce(sum(abs(points)), 0) INTO before FROM adjustment
         WHERE program = NEW.program AND account = NEW.account AND verdict = 'approved' AND checker IS NULL
           AND lower(btrim(normalize(maker, NFKC))) = lower(btrim(normalize(NEW.maker, NFKC)))
           AND checked_at > NEW.checked_at - interval '24 hours';
        IF before + abs(NEW.points) > NEW.limit_points THEN
            RAISE EXCEPTION 'adjustment % needs a checker: % of % points within 24 hours, limit %',
                NEW.adjustment_id, NEW.maker, before + abs(NEW.points), NEW.limit_points
                USING ERRCODE = 'check_violation', CONSTRAINT = 'adjustment_limit_check';
        END IF;
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION ledger_make_import() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.staged_at IS NOT NULL OR NEW.verdict IS NOT NULL THEN
        RAISE EXCEPTION 'import job % cannot be made sealed or approved', NEW.job_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'import_job_made_check';
    END IF;
    NEW.limit_points := ledger_adjust_limit(NEW.program);
    RETURN NEW;
END $$;

-- Sealing counts the rows and their points here, so that nobody else says what they sum up to. Without a checker, what
-- a maker's jobs bring in or take out within 24 hours stays within the limit of one.
CREATE FUNCTION ledger_check_import() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE before numeric; total numeric;
BEGIN
    IF OLD.staged_at IS NULL AND NEW.staged_at IS NOT NULL THEN
        SELECT count(*), coalesce(sum(points), 0) INTO NEW.line_count, total FROM import_row WHERE job_id = OLD.job_id;
        IF total > 9007199254740991 THEN
            RAISE EXCEPTION 'import job % sums up to % points, more than can be counted', OLD.job_id, total
                USING ERRCODE = 'check_violation', CONSTRAINT = 'import_job_points_check';
        END IF;
        NEW.points := total;
    ELSIF (NEW.staged_at, NEW.line_count, NEW.points) IS DISTINCT FROM (OLD.staged_at, OLD.line_count, OLD.points) THEN
        RAISE EXCEPTION 'import job % is sealed', OLD.job_id USING ERRCODE = 'restrict_violation';
    END IF;
    IF OLD.verdict IS NOT NULL
       AND (NEW.verdict, NEW.checker, NEW.checked_at, NEW.check_reason)
           IS DISTINCT FROM (OLD.verdict, OLD.checker, OLD.checked_at, OLD.check_reason)
       OR OLD.finished_at IS NOT NULL THEN
        RAISE EXCEPTION 'import job % is % already', OLD.job_id, OLD.verdict USING ERRCODE = 'restrict_violation';
    END IF;
    IF OLD.verdict IS NULL AND NEW.verdict = 'approved' AND NEW.checker IS NULL THEN
        PERFORM pg_advisory_xact_lock(hashtextextended('import:' || NEW.program, 0));
        SELECT coalesce(sum(points), 0) INTO before FROM import_job
         WHERE program = NEW.program AND verdict = 'approved' AND checker IS NULL
           AND lower(btrim(normalize(maker, NFKC))) = lower(btrim(normalize(NEW.maker, NFKC)))
           AND checked_at > NEW.checked_at - interval '24 hours';
        IF before + NEW.points > NEW.limit_points THEN
            RAISE EXCEPTION 'import job % needs a checker: % of % points within 24 hours, limit %',
                NEW.job_id, NEW.maker, before + NEW.points, NEW.limit_points
                USING ERRCODE = 'check_violation', CONSTRAINT = 'import_job_limit_check';
        END IF;
    END IF;
    RETURN NEW;
END $$;

-- A job takes rows until it is sealed; locking it lets nobody seal it meanwhile.
CREATE FUNCTION ledger_check_import_rows() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE named bigint;
BEGIN
    FOR named IN SELECT DISTINCT job_id FROM inserted ORDER BY job_id LOOP
        PERFORM FROM import_job WHERE job_id = named AND staged_at IS NULL FOR SHARE;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'import job % takes no rows: it is sealed, or there is none', named
                USING ERRCODE = 'restrict_violation';
        END IF;
    END LOOP;
    RETURN NULL;
END $$;
"""

POSTING = """
-- No transaction carries one of these two sources without its approved adjustment, or its row of an approved import
-- and that row's only result. Plans are kept for as long as a session lives and were perhaps made when the tables were
-- empty: hence without sequential scans.
CREATE FUNCTION ledger_check_manual() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE wrong bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM inserted WHERE source IN ('pointguard:adjustment', 'pointguard:import')) THEN
        RETURN NULL;
    END IF;
    SELECT i.txn_id INTO wrong FROM inserted i LEFT JOIN adjustment a USING (txn_id)
     WHERE i.source = 'pointguard:adjustment'
       AND (a.verdict IS DISTINCT FROM 'approved' OR a.adjustment_id::text <> i.event_id
            OR (a.program, a.points, 'adjust', false) IS DISTINCT FROM (i.program, i.amount, i.kind, i.pending))
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'transaction % is no adjustment that was approved', wrong
            USING ERRCODE = 'check_violation', CONSTRAINT = 'txn_adjustment_check';
    END IF;
    SELECT i.txn_id INTO wrong
      FROM (SELECT *, split_part(event_id, '/', 1)::bigint AS job_id, split_part(event_id, '/', 2)::integer AS line
              FROM inserted WHERE source = 'pointguard:import') i
      LEFT JOIN import_result r ON (r.job_id, r.line) = (i.job_id, i.line)
      LEFT JOIN import_row w ON (w.job_id, w.line) = (i.job_id, i.line)
      LEFT JOIN import_job j ON j.job_id = i.job_id
     WHERE r.txn_id IS DISTINCT FROM i.txn_id OR j.verdict IS DISTINCT FROM 'approved'
        OR i.event_id <> i.job_id || '/' || i.line
        OR (j.program, CASE j.kind WHEN 'debit' THEN -w.points ELSE w.points END, 'adjust', false)
           IS DISTINCT FROM (i.program, i.amount, i.kind, i.pending)
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'transaction % is no row of an import that was approved', wrong
            USING ERRCODE = 'check_violation', CONSTRAINT = 'txn_import_check';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER txn_manual AFTER INSERT ON txn REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_manual();
"""

GUARDS = """
CREATE TRIGGER adjustment_made BEFORE INSERT ON adjustment
    FOR EACH ROW EXECUTE FUNCTION ledger_make_adjustment();
CREATE TRIGGER adjustment_checked BEFORE UPDATE ON adjustment
    FOR EACH ROW EXECUTE FUNCTION ledger_check_adjustment();
CREATE TRIGGER adjustment_identity BEFORE
    UPDATE OF adjustment_id, program, account, points, reason_code, reason, expires_at, reference, maker, made_at,
        limit_points OR DELETE OR TRUNCATE ON adjustment
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();

CREATE TRIGGER import_job_made BEFORE INSERT ON import_job
    FOR EACH ROW EXECUTE FUNCTION ledger_make_import();
CREATE TRIGGER import_job_checked BEFORE UPDATE ON import_job
    FOR EACH ROW EXECUTE FUNCTION ledger_check_import();
CREATE TRIGGER import_job_identity BEFORE
    UPDATE OF job_id, program, kind, system, label, digest, file_name, options, reason_code, reason, maker, made_at,
        limit_points OR DELETE OR TRUNCATE ON import_job
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER import_row_sealed AFTER INSERT ON import_row REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_import_rows();
CREATE TRIGGER import_row_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON import_row
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER import_result_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON import_result
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER import_external_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON import_external
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
"""


def upgrade() -> None:
    """Create the tables of adjustments and imports, and what keeps them honest."""
    for part in (ADJUSTMENTS, IMPORTS, MAKING, POSTING, GUARDS):
        op.execute(part)


def downgrade() -> None:
    """Refused: going back would drop who adjusted what."""
    raise NotImplementedError("this migration cannot be undone: it would drop adjustments; drop the database")
