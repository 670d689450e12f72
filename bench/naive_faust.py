"""A Faust agent as people write it: per event an ORM insert and commit, a Redis call a counter, models that learn."""

import argparse
import json

import faust
import redis
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

from bench import naive_parts as parts
from config.policy import default_policy_text, parse_policy


class NaiveWorker:
    """Everything the agent does with one event."""

    def __init__(self, database_url: str, redis_url: str) -> None:
        self._session = Session(create_engine(database_url), expire_on_commit=False)
        self._redis: redis.Redis = redis.Redis.from_url(redis_url, decode_responses=True)
        self._judge = parts.Judge(parse_policy(default_policy_text()))

    def handle(self, body: parts.Body, part: int, offset: int) -> None:
        """Count, judge, post and commit one event; one that is known already is left alone."""
        known = select(parts.Verdict).filter_by(source=body["source"], event_id=body["id"])
        if self._session.scalar(known):
            return
        now_ms = parts.occurred_ms(body)
        features = parts.count_one_by_one(self._redis, body, now_ms)
        member = self._member(body, now_ms)
        features |= parts.event_features(body, now_ms, member.opened_ms, member.signed_up_ms)
        judgement = self._judge(body, features)
        outcome, change = parts.moved(body, judgement.outcome, member.balance)
        posting = self._post(body, member, outcome, change)
        self._session.add(
            parts.Verdict(
                source=body["source"],
                event_id=body["id"],
                part=part,
                offset=offset,
                posting_id=posting,
                outcome=outcome,
                score=judgement.score,
                features=features,
                reasons=judgement.reasons,
            )
        )
        self._session.commit()
        self._session.expunge_all()

    def _member(self, body: parts.Body, now_ms: int) -> parts.Member:
        found = select(parts.Member).filter_by(program=body["program"], name=body["account"]).with_for_update()
        member = self._session.scalar(found)
        if member is None:
            member = parts.Member(program=body["program"], name=body["account"], balance=0, opened_ms=now_ms)
            self._session.add(member)
        if body["type"] == "account.created":
            member.signed_up_ms = now_ms
        return member

    def _post(self, body: parts.Body, member: parts.Member, outcome: str, change: int) -> int | None:
        if outcome not in ("approve", "hold"):
            return None
        amount = int(body["points"])
        posting = parts.Posting(kind=body["type"], amount=amount, pending=outcome == "hold")
        self._session.add(posting)
        self._session.flush()
        signed = amount if body["type"] == "earn" else -amount
        self._session.add(parts.Leg(posting_id=posting.posting_id, account=member.name, amount=signed))
        self._session.add(parts.Leg(posting_id=posting.posting_id, account=f"control:{body['type']}", amount=-signed))
        member.balance += change
        return posting.posting_id


def build(options: argparse.Namespace) -> faust.App:
    """The application, with Faust's own settings and its automatic acks."""
    app = faust.App(
        options.group,
        broker=f"kafka://{options.bootstrap}",
        store="memory://",
        datadir=options.scratch,
        web_enabled=False,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
    )
    topic = app.topic(options.topic, value_serializer="raw", value_type=bytes)
    worker = NaiveWorker(options.database, options.redis)

    @app.agent(topic)
    async def handle(stream: faust.StreamT[bytes]) -> None:
        async for event in stream.events():
            worker.handle(json.loads(event.value), event.message.partition, event.message.offset)

    return app


def main() -> None:
    """Run until it is stopped."""
    faust.Worker(build(parts.options(__doc__)), loglevel="WARNING").execute_from_commandline()


if __name__ == "__main__":
    main()
