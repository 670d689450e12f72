"""The values that travel through a worker: where a record stands in the log, and what became of it so far."""

from __future__ import annotations

from dataclasses import dataclass

from detectors.event import Event, Invalid


@dataclass(frozen=True, slots=True)
class Log:
    """One topic of one life of the Kafka log.

    `log_id` names the life (the cluster's id, or the start of an embedded broker), so that offsets which begin again
    at 0 are never taken for redelivery.
    """

    log_id: str
    topic: str


@dataclass(frozen=True, slots=True)
class Span:
    """A run of offsets of one partition that one batch covers, and the epoch under which it was fetched.

    `covers_from` is the offset this worker expected next when it fetched the run; it lies below the first record where
    the log has control records or was compacted.
    """

    part: int
    covers_from: int
    last_offset: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Incoming:
    """One Kafka record, decoded. With `invalid` set it is refused; `event` is then what could be read of it.

    `observed_ms` is the record's own time (Unix ms), `source` what is known of the producer, even of a refused record.
    """

    part: int
    offset: int
    key: bytes | None
    raw: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    observed_ms: int
    source: str
    event: Event | None
    invalid: Invalid | None

    @property
    def event_id(self) -> str | None:
        """The event's id, where it could be read."""
        if self.event is not None:
            return self.event.id
        return self.invalid.event_id if self.invalid is not None else None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that is refused: `error`, `field` and `detail` say why and what to do."""

    record: Incoming
    error: str
    field: str
    detail: str


class Fenced(Exception):
    """Another worker has claimed this partition since: nothing was written, the batch is to be dropped."""

    def __init__(self, part: int, mine: int, current: int) -> None:
        super().__init__(f"partition {part}: epoch {mine} is over, the current one is {current}")
        self.part, self.mine, self.current = part, mine, current


class Hole(Exception):
    """The batch begins beyond what is committed: records `first`..`last` were never handed over."""

    def __init__(self, part: int, first: int, last: int) -> None:
        super().__init__(f"partition {part}: offsets {first} to {last} were never handed over")
        self.part, self.first, self.last = part, first, last
