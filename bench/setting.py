"""What every run finds in its database: both schemas, a live programme, the default policy, a trained model."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import create_engine

from bench import workload
from bench.naive_parts import Base
from bench.stack import Stack
from config.settings import Settings
from detectors.entity import Keys
from detectors.event import decode, milliseconds
from detectors.event_refusal import Invalid
from detectors.event_types import Event
from detectors.features import AccountTimes, account_times, assemble, moments
from detectors.layout import by_name, layout_of
from detectors.models import INPUT_NAMES
from detectors.models_learned import ModelParams
from detectors.models_learner import LabelRow, Learner, LearnerParams
from detectors.models_snapshot import Sealed, seal
from detectors.velocity import Observed, observations
from detectors.velocity_names import demand_of
from ledger.migrate import migrate
from ledger.programs import create_program
from streams import model_store
from streams.keys import model_key
from streams.setup import seed as seed_defaults
from streams.velocity_store import MemoryVelocityStore

PROGRAM: Final = "bench"
TRAINING_EVENTS: Final = 5_000
TRAINING_ACCOUNTS: Final = 2_000
CHUNK: Final = 500


def prepare(stack: Stack, seed: int) -> None:
    """Make the template database that the runs' are copied from."""
    url = stack.create_template()
    settings = Settings(database_url=url, secret_file=stack.secret_file)
    migrate(url)
    seed_defaults(settings)
    engine = create_engine(url)
    try:
        Base.metadata.create_all(engine)
        with engine.begin() as conn:
            create_program(conn, PROGRAM, "live")
            model_store.publish(conn, asyncio.run(trained(settings.secret(), seed)))
            model_store.give(conn, model_store.Verdict(1, "promoted", "bench", "the model of every run"))
    finally:
        engine.dispose()


async def trained(secret: bytes, seed: int) -> Sealed:
    """A snapshot that learned from a few thousand events of the workload's kind, signed for the workers."""
    keys, learner = Keys(secret), Learner(LearnerParams(models=ModelParams(seed=seed)))
    events, layout = list(_events(seed)), layout_of(INPUT_NAMES)
    demand, store = demand_of(layout.velocity), MemoryVelocityStore(None)
    stored: dict[tuple[str, str], AccountTimes] = {}
    for start in range(0, len(events), CHUNK):
        chunk = events[start : start + CHUNK]
        times = [milliseconds(event.occurred_at) for event in chunk]
        observed = [Observed(event, time_ms) for event, time_ms in zip(chunk, times, strict=True)]
        velocity = await store.observe(observations(observed, keys, demand.coverage.kinds), demand)
        before, changed = account_times(chunk, times, stored)
        stored |= changed
        features = assemble(layout, velocity.values, moments(chunk, times, before))
        inputs = by_name(features, layout, INPUT_NAMES)
        for row, event in enumerate(chunk):
            device = keys.device(event.device) if event.device else None
            learner.learn(LabelRow(learner.seq + 1, 0, event.program, event.account, device, inputs[row]))
    return seal(learner.snapshot(1), model_key(secret), {"origin": "bench"})


def _events(seed: int) -> Iterator[Event]:
    traffic = workload.Workload(
        end=datetime.now(UTC), seed=seed + 1_000, events=TRAINING_EVENTS, accounts=TRAINING_ACCOUNTS, tag="train"
    )
    for record in workload.generate(traffic):
        event = decode(record.value)
        if isinstance(event, Invalid):
            raise TypeError(f"the workload makes an event that is refused: {event}")
        if event.moves:
            yield event
