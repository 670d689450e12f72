"""What a fresh database needs besides its schema: the default policy and the default programme."""

from __future__ import annotations

from sqlalchemy import create_engine, text

from config.policy import default_policy_text, load_policy
from config.settings import Settings
from ledger.programs import create_program
from streams.acts import policy_activated, program_created

DEFAULT_PROGRAM = "default"
ACTOR = "pointguard migrate"

_ANY_POLICY = text("SELECT 1 FROM policy LIMIT 1")
_ANY_PROGRAM = text("SELECT 1 FROM program LIMIT 1")
_INSTALL = text("""
INSERT INTO policy (version, document, active, activated_at) VALUES (:version, :document, true, clock_timestamp())
ON CONFLICT DO NOTHING""")

_STEP = text("""
INSERT INTO policy_step (version, step, actor, reason)
VALUES (:version, 'activated', :actor, 'came with the installation')""")


def seed(settings: Settings) -> None:
    """Install the default policy and a live programme called `default` where there is none; safe to call again."""
    engine = create_engine(settings.required("database_url"))
    try:
        with engine.begin() as conn:
            if conn.execute(_ANY_POLICY).first() is None:
                document = default_policy_text()
                version = load_policy(document).policy.version
                if conn.execute(_INSTALL, {"version": version, "document": document}).rowcount:
                    conn.execute(_STEP, {"version": version, "actor": ACTOR})
                    policy_activated(conn, ACTOR, version, document)
            if conn.execute(_ANY_PROGRAM).first() is None:
                program_created(conn, ACTOR, create_program(conn, DEFAULT_PROGRAM, "live"))
    finally:
        engine.dispose()
