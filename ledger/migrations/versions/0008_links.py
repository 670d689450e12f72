"""Links between accounts: what they share, the clusters that makes, and which accounts were rejected."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

LINKS = """
CREATE TABLE link_entity (
    entity_id bigint GENERATED ALWAYS AS IDENTITY (CACHE 100) PRIMARY KEY,
    program   text NOT NULL,
    kind      text NOT NULL,
    value     bytea NOT NULL,
    hub_since timestamptz,
    CONSTRAINT link_entity_program_kind_value_key UNIQUE (program, kind, value),
    CONSTRAINT link_entity_kind_check CHECK (kind IN ('device', 'ip', 'payment', 'referrer'))
);
CREATE INDEX link_entity_hub_idx ON link_entity (kind) WHERE hub_since IS NOT NULL;

CREATE TABLE link (
    entity_id  bigint NOT NULL,
    account_id bigint NOT NULL,
    since      timestamptz NOT NULL,
    PRIMARY KEY (entity_id, account_id)
);
CREATE INDEX link_account_idx ON link (account_id, entity_id);
"""

CLUSTERS = """
CREATE TABLE link_member (
    account_id bigint PRIMARY KEY,
    cluster_id bigint NOT NULL
);
CREATE INDEX link_member_cluster_idx ON link_member (cluster_id);

-- Apart from its members, because this row is the cluster's lock: whoever changes who belongs to it holds it.
CREATE TABLE link_cluster (
    cluster_id bigint PRIMARY KEY,
    size       integer NOT NULL,
    CONSTRAINT link_cluster_size_check CHECK (size >= 1)
);
CREATE INDEX link_cluster_size_idx ON link_cluster (size) WHERE size > 1;

CREATE TABLE link_flag (
    account_id bigint PRIMARY KEY,
    origin     text NOT NULL,
    flagged_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT link_flag_origin_check CHECK (origin IN ('policy', 'review'))
);
"""

# Who was rejected before there was this table: by a person who voided a hold, or by the policy.
REJECTED = """
INSERT INTO link_flag (account_id, origin, flagged_at)
SELECT h.account_id, 'review', min(r.resolved_at)
  FROM hold_resolution r JOIN review_decision d ON d.decision_id = r.decision_id JOIN hold h ON h.hold_id = r.hold_id
 WHERE r.verdict = 'void' AND NOT starts_with(d.actor, 'policy:')
   AND NOT starts_with(d.actor, 'pointguard:') GROUP BY h.account_id;
INSERT INTO link_flag (account_id, origin, flagged_at)
SELECT a.account_id, 'policy', min(d.decided_at)
  FROM decision d JOIN account a ON a.program = d.program AND a.kind = 'member' AND a.name = d.account
 WHERE d.code = 'rejected' GROUP BY a.account_id
ON CONFLICT (account_id) DO NOTHING;
"""


def upgrade() -> None:
    """Create the tables, and flag who was rejected before."""
    for part in (LINKS, CLUSTERS, REJECTED):
        op.execute(part)


def downgrade() -> None:
    """Drop the tables; links grow again from the events to come."""
    for table in ("link_flag", "link_cluster", "link_member", "link", "link_entity"):
        op.execute(f"DROP TABLE {table}")
