"""Seeded loyalty traffic, and the fast way of getting it into a Kafka topic.

The same `Workload` always gives the same records, byte for byte. A record is the JSON of one event, about 350 bytes:
sign-ups, earnings and redemptions of members that are picked Zipf-like, each with a device or two of their own; two in
five come from one of a few thousand carrier addresses that many members share; one member in a hundred belongs to a
sign-up farm on twenty devices. Redemptions are drawn within the balance the traffic itself has built up, so that they
fail as rarely as those of real members do.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple
from zlib import crc32

import msgspec
import numpy as np
import numpy.typing as npt
from confluent_kafka import Producer  # type: ignore[import-untyped]  # ships no types
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[import-untyped]  # ships no types

PARTITIONS: Final = 4
FARM_DEVICES: Final = 20
CARRIER_ADDRESSES: Final = 3_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What traffic to make: `events` of them, ending at `end` and spread evenly over `span_seconds` before it.

    `tag` goes into every event id, so that two workloads in one programme do not repeat each other's ids.
    """

    end: datetime
    seed: int = 7
    events: int = 200_000
    accounts: int = 60_000
    span_seconds: int = 72_000
    program: str = "bench"
    tag: str = "b"


class Record(NamedTuple):
    """One Kafka record: the partition it belongs to, its key (the account) and its value (the event as JSON)."""

    partition: int
    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class _Draws:
    """The random part of a workload, one row an event, drawn at once so that the seed alone fixes it."""

    account: npt.NDArray[np.int64]
    kind: npt.NDArray[np.float64]
    points: npt.NDArray[np.int64]
    second_device: npt.NDArray[np.bool_]
    carrier: npt.NDArray[np.bool_]
    address: npt.NDArray[np.int64]
    store: npt.NDArray[np.int64]


def generate(workload: Workload) -> list[Record]:
    """All records of `workload`, in the order of their times; the records of an account share one partition."""
    draws = _draw(workload)
    balances: dict[int, int] = {}
    end_ms = int(workload.end.timestamp() * 1000)
    step_ms = workload.span_seconds * 1000 / workload.events
    encode = msgspec.json.encode
    records = []
    for index in range(workload.events):
        account = int(draws.account[index])
        body = _common(workload, draws, index, account)
        occurred_ms = int(end_ms - (workload.events - index) * step_ms)
        body["occurred_at"] = _rfc3339(occurred_ms)
        body |= _movement(account, float(draws.kind[index]), int(draws.points[index]), balances)
        key = f"m-{account:07d}".encode()
        records.append(Record(crc32(key) % PARTITIONS, key, encode(body)))
    return records


def _draw(workload: Workload) -> _Draws:
    random = np.random.default_rng(workload.seed)
    n = workload.events
    weights = 1.0 / (np.arange(workload.accounts) + 300.0) ** 0.6
    addresses = 1.0 / (np.arange(CARRIER_ADDRESSES) + 10.0)
    return _Draws(
        account=random.choice(workload.accounts, size=n, p=weights / weights.sum()),
        kind=random.random(n),
        points=np.clip(random.lognormal(4.5, 0.9, n), 5, 5_000).astype(np.int64),
        second_device=random.random(n) < 0.03,
        carrier=random.random(n) < 0.4,
        address=random.choice(CARRIER_ADDRESSES, size=n, p=addresses / addresses.sum()),
        store=random.integers(0, 200, n),
    )


def _common(workload: Workload, draws: _Draws, index: int, account: int) -> dict[str, object]:
    """The fields every event has, whatever its type."""
    if account % 100 == 99:
        device = f"farm-{account % FARM_DEVICES:04d}-5d0e8a7c41b29f63c8a4e7d2"
    else:
        device = f"dev-{account:07d}-{int(draws.second_device[index])}-9c1f27ab5d0e8a7c41b29f63"
    if draws.carrier[index]:
        shared = int(draws.address[index])
        ip = f"100.64.{shared // 250}.{shared % 250 + 1}"
    else:
        ip = f"10.{account // 62_500}.{account // 250 % 250}.{account % 250 + 1}"
    store = int(draws.store[index])
    return {
        "id": f"{workload.tag}{workload.seed}-{index:010d}",
        "source": f"//pos.shop.example/region-{store % 8}",
        "program": workload.program,
        "account": f"m-{account:07d}",
        "store": f"store-{store:04d}",
        "channel": "app" if draws.carrier[index] else "pos",
        "device": device,
        "ip": ip,
    }


def _movement(account: int, kind: float, points: int, balances: dict[int, int]) -> dict[str, object]:
    """What the event does: one new member in ten signs up first, one event in five redeems if the balance allows."""
    if account not in balances:
        balances[account] = 0
        if kind < 0.1:
            return {"type": "account.created", "campaign": "welcome-autumn"}
    if kind > 0.75 and balances[account] >= points:
        balances[account] -= points
        return {"type": "redeem", "points": points, "order": f"order-{points:06d}-{account:07d}"}
    balances[account] += points
    return {
        "type": "earn",
        "points": points,
        "order": f"order-{points:06d}-{account:07d}",
        "campaign": "base-rate-one-point-per-euro",
    }


def _rfc3339(ms: int) -> str:
    moment = datetime.fromtimestamp(ms / 1000, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + f".{ms % 1000:03d}Z"


def create_topic(bootstrap: str, topic: str, partitions: int = PARTITIONS) -> None:
    """Make `topic`, stamped by the broker (as production is told to); a topic that exists is an error."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 3})
    wanted = NewTopic(topic, num_partitions=partitions, config={"message.timestamp.type": "LogAppendTime"})
    for created in admin.create_topics([wanted]).values():
        created.result(30)


def delete_topics(bootstrap: str, topics: Sequence[str]) -> None:
    """Drop topics that a run is through with, so that five runs do not fill the disk."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 3})
    for deleted in admin.delete_topics(list(topics)).values():
        deleted.result(30)


def preload(bootstrap: str, topic: str, records: Iterable[Record]) -> int:
    """Write `records` to `topic` in big batches and wait until the broker has them all; how many they were.

    Every record goes to the partition it names, in order, so its offset is its index among those of that partition.
    """
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "log_level": 3,
            "enable.idempotence": True,
            "linger.ms": 50,
            "batch.size": 1_000_000,
            "queue.buffering.max.messages": 1_000_000,
            "queue.buffering.max.kbytes": 1_000_000,
        }
    )
    count = 0
    for record in records:
        while True:
            try:
                producer.produce(topic, record.value, record.key, record.partition)
                break
            except BufferError:
                producer.poll(0.1)
        count += 1
    if left := producer.flush(120):
        raise TimeoutError(f"{left} of {count} records of {topic} were not written within two minutes")
    return count
