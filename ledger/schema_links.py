"""The tables of links between accounts, on the ledger's metadata; their rows are written by `streams.link_store`.

`link_entity` is what accounts may share, under its pseudonym; `link` the first sighting of an account with one;
`link_member` the cluster of every account that was ever linked, named by the lowest account in it; `link_cluster` a row
for each cluster, which is its lock. `link_flag` names accounts of which an event was rejected.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Identity,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from ledger.schema import metadata, moment

link_entity = Table(
    "link_entity",
    metadata,
    Column("entity_id", BigInteger, Identity(always=True, cache=100), primary_key=True),
    Column("program", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("value", LargeBinary, nullable=False),
    moment("hub_since", nullable=True),
    UniqueConstraint("program", "kind", "value"),
    CheckConstraint("kind IN ('device', 'ip', 'payment', 'referrer')", name="kind"),
    Index("link_entity_hub_idx", "kind", postgresql_where=text("hub_since IS NOT NULL")),
)

link = Table(
    "link",
    metadata,
    Column("entity_id", BigInteger, nullable=False),
    Column("account_id", BigInteger, nullable=False),
    moment("since"),
    PrimaryKeyConstraint("entity_id", "account_id"),
    Index("link_account_idx", "account_id", "entity_id"),
)

link_member = Table(
    "link_member",
    metadata,
    Column("account_id", BigInteger, primary_key=True, autoincrement=False),
    Column("cluster_id", BigInteger, nullable=False),
    Index("link_member_cluster_idx", "cluster_id"),
)

link_cluster = Table(
    "link_cluster",
    metadata,
    Column("cluster_id", BigInteger, primary_key=True, autoincrement=False),
    Column("size", Integer, nullable=False),
    CheckConstraint("size >= 1", name="size"),
    Index("link_cluster_size_idx", "size", postgresql_where=text("size > 1")),
)

link_flag = Table(
    "link_flag",
    metadata,
    Column("account_id", BigInteger, primary_key=True, autoincrement=False),
    Column("origin", Text, nullable=False),
    moment("flagged_at", now=True),
    CheckConstraint("origin IN ('policy', 'review')", name="origin"),
)
