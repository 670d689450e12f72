"""The names of stored features, one row a layout, and what velocity is rebuilt from: address prefix, payment token."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

LAYOUTS = """
-- A decision's features are numbers in the order of these names. A version is a hash of its names: no row ever changes.
CREATE TABLE feature_layout (
    version text PRIMARY KEY,
    names   text[] NOT NULL
);
CREATE TRIGGER feature_layout_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON feature_layout
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
"""

ENTITIES = """
-- Pseudonyms, as device and ip. Not in the audit chain: nothing but the rebuilding of velocity reads them.
ALTER TABLE decision
    ADD COLUMN ip_prefix bytea,
    ADD COLUMN payment bytea;
"""

# Until here every decision was stored with the same 50 features, under this version.
FIRST = """
INSERT INTO feature_layout (version, names)
SELECT '34c4f2895e69e597', array(
    SELECT 'velocity.' || counted.kind || '.' || counted.aggregate || '_' || span.name
      FROM (VALUES (1, 'account', 'count'), (2, 'account', 'sum'), (3, 'account', 'devices'), (4, 'account', 'ips'),
                   (5, 'account', 'peers'), (6, 'device', 'count'), (7, 'device', 'sum'), (8, 'device', 'accounts'),
                   (9, 'ip', 'count'), (10, 'ip', 'sum'), (11, 'ip', 'accounts')) counted (place, kind, aggregate),
           (VALUES (1, '1m'), (2, '1h'), (3, '24h'), (4, '7d')) span (place, name)
     ORDER BY counted.place, span.place
) || ARRAY['account.age_seconds', 'account.seconds_since_signup', 'account.seconds_since_credential_change',
           'event.points', 'event.hour', 'event.outflow'];
"""


def upgrade() -> None:
    """Create the table, name what is stored already, and add the columns."""
    for part in (LAYOUTS, FIRST, ENTITIES):
        op.execute(part)


def downgrade() -> None:
    """Refused: going back would leave stored features without names."""
    raise NotImplementedError("this migration cannot be undone: stored features would lose their names")
