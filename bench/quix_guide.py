"""A Quix Streams program as its guide writes one: a dataframe of per-message functions, state by key, a batching sink.

Account facts live in the dataframe's state, velocity in Redis (one pipelined round trip a message, because devices and
addresses span the keys of the topic); a sink writes what a checkpoint gathered in one transaction of bulk statements.
"""

import argparse
from collections.abc import Iterable
from typing import Any

import redis
from quixstreams import Application, State
from quixstreams.sinks import BatchingSink, SinkBatch
from sqlalchemy import create_engine, insert, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from bench import naive_parts as parts
from config.policy import default_policy_text, parse_policy

CHECKPOINT_EVENTS = 500
CHECKPOINT_SECONDS = 0.1


class LedgerSink(BatchingSink):
    """Writes the judged events of a checkpoint, partition by partition, each in one transaction."""

    def __init__(self, database_url: str) -> None:
        super().__init__()
        self._engine = create_engine(database_url)

    def write(self, batch: SinkBatch) -> None:
        """Post what was judged; events that are in the database already are left alone."""
        rows = {(row.value["source"], row.value["id"]): (row.offset, row.value) for row in batch}
        with Session(self._engine) as session, session.begin():
            known = select(parts.Verdict.source, parts.Verdict.event_id).where(
                parts.Verdict.event_id.in_([event_id for _, event_id in rows])
            )
            for source, event_id in session.execute(known):
                rows.pop((source, event_id), None)
            if rows:
                self._post(session, batch.partition, list(rows.values()))

    def _post(self, session: Session, part: int, rows: list[tuple[int, parts.Body]]) -> None:
        members = self._members(session, [body for _, body in rows])
        outcomes = []
        for _, body in rows:
            member = members[body["account"]]
            outcome, change = parts.moved(body, body["outcome"], member.balance)
            member.balance += change
            outcomes.append(outcome)
        moving = [i for i, outcome in enumerate(outcomes) if outcome in ("approve", "hold")]
        postings = [
            {"kind": body["type"], "amount": body["points"], "pending": outcomes[i] == "hold"}
            for i, (_, body) in ((i, rows[i]) for i in moving)
        ]
        created = insert(parts.Posting).returning(parts.Posting.posting_id, sort_by_parameter_order=True)
        ids = dict(zip(moving, session.scalars(created, postings), strict=True)) if moving else {}
        if legs := list(_legs(rows, ids)):
            session.execute(insert(parts.Leg), legs)
        session.execute(insert(parts.Verdict), list(_verdicts(part, rows, outcomes, ids)))

    @staticmethod
    def _members(session: Session, bodies: list[parts.Body]) -> dict[str, parts.Member]:
        """The members of a batch, locked in order; those that are new are made."""
        new = {body["account"]: {"program": body["program"], "name": body["account"]} for body in bodies}
        values = [{**row, "balance": 0, "opened_ms": 0} for _, row in sorted(new.items())]
        session.execute(postgresql.insert(parts.Member).on_conflict_do_nothing(), values)
        found = select(parts.Member).where(parts.Member.name.in_(new)).order_by(parts.Member.name).with_for_update()
        return {member.name: member for member in session.scalars(found)}


def _legs(rows: list[tuple[int, parts.Body]], ids: dict[int, int]) -> Iterable[dict[str, Any]]:
    for index, posting_id in ids.items():
        body = rows[index][1]
        signed = body["points"] if body["type"] == "earn" else -body["points"]
        yield {"posting_id": posting_id, "account": body["account"], "amount": signed}
        yield {"posting_id": posting_id, "account": f"control:{body['type']}", "amount": -signed}


def _verdicts(
    part: int, rows: list[tuple[int, parts.Body]], outcomes: list[str], ids: dict[int, int]
) -> Iterable[dict[str, Any]]:
    for index, (offset, body) in enumerate(rows):
        yield {
            "source": body["source"],
            "event_id": body["id"],
            "part": part,
            "offset": offset,
            "posting_id": ids.get(index),
            "outcome": outcomes[index],
            "score": body["score"],
            "features": body["features"],
            "reasons": body["reasons"],
        }


def account_facts(body: parts.Body, state: State[str, int]) -> parts.Body:
    """Remember when the account was first seen and when it signed up."""
    now_ms = parts.occurred_ms(body)
    opened = state.get("opened")
    if opened is None:
        opened = now_ms
        state.set("opened", now_ms)
    if body["type"] == "account.created":
        state.set("signed_up", now_ms)
    return body | {"features": parts.event_features(body, now_ms, opened, state.get("signed_up"))}


def build(options: argparse.Namespace) -> Application:
    """The application."""
    app = Application(
        broker_address=options.bootstrap,
        consumer_group=options.group,
        auto_offset_reset="earliest",
        commit_every=CHECKPOINT_EVENTS,
        commit_interval=CHECKPOINT_SECONDS,
        state_dir=options.scratch,
        loglevel="WARNING",
    )
    client: redis.Redis = redis.Redis.from_url(options.redis, decode_responses=True)
    judge = parts.Judge(parse_policy(default_policy_text()))

    def velocity(body: parts.Body) -> parts.Body:
        counted = parts.count_in_one_trip(client, body, parts.occurred_ms(body))
        return body | {"features": body["features"] | counted}

    def judged(body: parts.Body) -> parts.Body:
        judgement = judge(body, body["features"])
        return body | {"outcome": judgement.outcome, "score": judgement.score, "reasons": judgement.reasons}

    topic = app.topic(options.topic, key_deserializer="str", value_deserializer="json")
    frame = app.dataframe(topic)
    frame = frame.apply(account_facts, stateful=True).apply(velocity).apply(judged)
    frame.sink(LedgerSink(options.database))
    return app


def main() -> None:
    """Run until it is stopped."""
    build(parts.options(__doc__)).run()


if __name__ == "__main__":
    main()
