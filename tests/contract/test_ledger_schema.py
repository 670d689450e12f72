"""The migrations make exactly the schema that the code describes, however often and by however many they are run."""

from concurrent.futures import ThreadPoolExecutor

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, text

from ledger import (  # noqa: F401 -- define their tables on the metadata
    schema_adjust,
    schema_audit,
    schema_delivery,
    schema_links,
    schema_lots,
    schema_policy,
    schema_reports,
)
from ledger.migrate import migrate
from ledger.schema import metadata

HEAD = "0010"

# Everything of a table that a person could look up: columns, constraints, indexes, storage.
CATALOGUE = text("""
SELECT 'column', c.relname, a.attname,
       format('%s %s %s %s', format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
              pg_get_expr(d.adbin, d.adrelid))
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
  LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (c.oid, a.attnum)
 WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND a.attnum > 0
UNION ALL
SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
 WHERE connamespace = 'public'::regnamespace
UNION ALL
SELECT 'index', tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL
SELECT 'storage', relname, '', reloptions::text FROM pg_class
 WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
UNION ALL
SELECT 'sequence', sequencename, start_value::text, format('%s %s', increment_by, cache_size) FROM pg_sequences
 WHERE schemaname = 'public'""")


def catalogue(conn: Connection) -> set[tuple[str, ...]]:
    """What the database says of its tables, alembic's own left out."""
    return {tuple(row) for row in conn.execute(CATALOGUE) if row[1] != "alembic_version"}


def test_autogenerate_finds_nothing_to_do(database: str) -> None:
    """Alembic sees no difference between the metadata and the migrated database."""
    engine = create_engine(database)
    with engine.connect() as conn:
        assert compare_metadata(MigrationContext.configure(conn), metadata) == []
    engine.dispose()


def test_the_metadata_describes_the_migrated_database_to_the_letter(database: str, empty_database: str) -> None:
    """Checks, predicates, defaults, identities and fill factors are the same, which autogenerate does not compare."""
    migrated, described = create_engine(database), create_engine(empty_database)
    with described.begin() as conn:
        metadata.create_all(conn)
    with migrated.connect() as one, described.connect() as other:
        assert catalogue(one) == catalogue(other)
    migrated.dispose()
    described.dispose()


def test_migrating_again_changes_nothing(empty_database: str) -> None:
    """A second run finds the head revision and leaves the schema as it is."""
    engine = create_engine(empty_database)
    assert migrate(empty_database) == HEAD
    with engine.connect() as conn:
        before = catalogue(conn)
    assert migrate(empty_database) == HEAD
    with engine.connect() as conn:
        assert catalogue(conn) == before
    engine.dispose()


def test_concurrent_migrations_wait_for_each_other(empty_database: str) -> None:
    """Eight processes that start at once on an empty database all end at the head revision, none with an error."""
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(migrate, [empty_database] * 8)) == [HEAD] * 8
