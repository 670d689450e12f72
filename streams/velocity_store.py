"""Where velocity logs live: Redis or Valkey, one round trip a batch, and a twin in memory under the same contract.

A batch is appended to the log of every entity it touches, and all these logs are read back, by one script on the
server (measured cheaper than the same commands in a MULTI, for the client by far; it also sets each log's expiry).
Counting is done here, by detectors/velocity_count.py. Logs that grew long are folded afterwards: the new content is
only taken when the log still begins and reads on as it did, so two workers never fold one log twice.
"""

import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, Protocol

import hiredis
import numpy as np
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from detectors.velocity import Floats, Hashes, Observations, Truths, Velocity
from detectors.velocity_count import aggregate
from detectors.velocity_log import Appends, Logs, arrange, read, refolded
from detectors.velocity_names import DAY_MS, KINDS, LATE_MS, Coverage, Demand
from streams.velocity_epoch import Epoch

BATCH_MAX: Final = 1_000
"""Events a script call carries at most; larger batches take several."""
REBUILD_BATCH: Final = 500
RENEW_SECONDS: Final = 6 * 3_600
RENEWED_MAX: Final = 200_000
"""A process renews a log's expiry once in so many seconds, remembering so many logs; new logs always get one."""
PREFIX: Final = "v2:"
"""Before every key; logs of another form have another number."""
EPOCH_KEY: Final = f"{PREFIX}epoch".encode()
SCAN_COUNT: Final = 1_000
IN_FLIGHT_BATCHES: Final = 4
"""The events of so many latest batches are not folded, as a crash may bring them again."""
_HEAD_BYTES: Final = 16
_TAIL_BYTES: Final = 56

_APPEND: Final = """
local renew = ARGV[2]
for i = 2, #KEYS do
  local size = redis.call('APPEND', KEYS[i], ARGV[i + 1])
  if string.byte(renew, i - 1) == 49 or size == #ARGV[i + 1] then
    redis.call('PEXPIRE', KEYS[i], ARGV[1])
  end
end
return redis.call('MGET', unpack(KEYS))
"""
_REPLACE: Final = """
local done = 0
for i = 1, #KEYS do
  local at = 4 * i - 2
  local size = tonumber(ARGV[at])
  if redis.call('GETRANGE', KEYS[i], 0, #ARGV[at + 1] - 1) == ARGV[at + 1]
     and redis.call('GETRANGE', KEYS[i], size - #ARGV[at + 2], size - 1) == ARGV[at + 2] then
    local since = redis.call('GETRANGE', KEYS[i], size, -1)
    redis.call('SET', KEYS[i], ARGV[at + 3] .. since, 'PX', ARGV[1])
    done = done + 1
  end
end
return done
"""


class _Packing:
    """Lets hiredis write a command: a batch's has thousands of arguments, on each of which redis-py spends a us."""

    def pack_command(self, *args: Any) -> list[bytes]:
        """Write one command; its name may be of two words."""
        return [hiredis.pack_command((*args[0].split(), *args[1:]))]


class VelocityUnavailableError(Exception):
    """The velocity store can't be reached, or refuses to write. Try the same batch again: nothing counts twice."""


@contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        raise VelocityUnavailableError(f"{type(error).__name__}: {error}") from error


def ttl_ms(coverage: Coverage) -> int:
    """When a log expires that nobody touches: a day after it holds nothing that still counts."""
    return coverage.longest_ms + LATE_MS + DAY_MS


class VelocityStore(Protocol):
    """Keeps velocity logs. `epoch` tells what they are known to hold; None before anything is known."""

    epoch: Epoch | None

    async def observe(self, batch: Observations, demand: Demand) -> Velocity:
        """Add a batch and give what is demanded. Raises VelocityUnavailableError.

        It is added to the logs of the kinds that the epoch or the demand has, and cold if the store carries another
        epoch, or the demand reaches farther. The same batch again, also after others, gets the same values and adds
        nothing, unless one of its logs was folded over it meanwhile (which waits for the next few batches of this
        process).
        """

    async def clear(self, kinds: Sequence[int] | None = None) -> None:
        """Forget the logs of some kinds, or all and the epoch. Raises VelocityUnavailableError.

        To be done before a rebuild: what an interrupted one left may have been folded, and would then count twice.
        """

    async def rebuild(self, past: Observations, coverage: Coverage) -> None:
        """Add past events to the logs of the covered kinds, without asking. Raises VelocityUnavailableError."""

    async def is_cold(self) -> bool:
        """Tell whether the store carries another epoch than `epoch`, or none. Raises VelocityUnavailableError."""

    async def mark_warm(self, epoch: Epoch) -> None:
        """Declare what the logs hold. Raises VelocityUnavailableError."""

    async def close(self) -> None:
        """Let go of connections."""


class Replacement(NamedTuple):
    """New content for the first `size` bytes of a log, if they still begin with `head` and end with `tail`."""

    key: bytes
    size: int
    head: bytes
    tail: bytes
    content: bytes


class _Store(ABC):
    """What both twins do alike: all but reading and writing bytes."""

    def __init__(self, epoch: Epoch | None) -> None:
        self.epoch = epoch
        self._recent: deque[Hashes] = deque(maxlen=IN_FLIGHT_BATCHES)

    async def observe(self, batch: Observations, demand: Demand) -> Velocity:
        """Add a batch and give what is demanded."""
        known = Coverage() if self.epoch is None else self.epoch.coverage
        kept = known.joined(demand.coverage)
        answers = [await self._observe_part(part, demand, kept) for part in _parts(batch, BATCH_MAX)]
        values, approximate, differs = zip(*answers, strict=True)
        cold = any(differs) or bool(known.lacks(demand.coverage))
        return Velocity(np.concatenate(values), np.concatenate(approximate), cold)

    async def rebuild(self, past: Observations, coverage: Coverage) -> None:
        """Add past events in parts."""
        for part in _parts(past, REBUILD_BATCH):
            appends = arrange(part, coverage.kinds)
            keys = _keys(part, appends)
            _, blobs = await self._append(keys, appends.payload, coverage)
            await self._fold(_Fetched(keys, appends, blobs, read(blobs)), coverage)

    async def _observe_part(
        self, batch: Observations, demand: Demand, coverage: Coverage
    ) -> tuple[Floats, Truths, bool]:
        appends = arrange(batch, coverage.kinds)
        keys = _keys(batch, appends)
        self._recent.append(batch.event)
        epoch, blobs = await self._append(keys, appends.payload, coverage)
        logs = read(blobs)
        values, approximate = aggregate(batch, appends, logs, demand)
        await self._fold(_Fetched(keys, appends, blobs, logs), coverage)
        return values, approximate, self._differs(epoch)

    def _differs(self, epoch: bytes | None) -> bool:
        return self.epoch is None or epoch != self.epoch.text.encode()

    async def _fold(self, fetched: "_Fetched", coverage: Coverage) -> None:
        protected = np.concatenate([np.empty(0, dtype=np.uint64), *self._recent])
        keys, blobs = fetched.keys, fetched.blobs
        replacements = [
            Replacement(keys[log], len(blobs[log]), blobs[log][:_HEAD_BYTES], blobs[log][-_TAIL_BYTES:], content)
            for log, content in refolded(fetched.logs, blobs, fetched.appends.kind, protected, coverage)
        ]
        if replacements:
            await self._replace(replacements, coverage)

    @abstractmethod
    async def _append(
        self, keys: Sequence[bytes], payload: Sequence[bytes], coverage: Coverage
    ) -> tuple[bytes | None, list[bytes]]:
        """Append to each log, and give the stored epoch and all of each log, as one step that no other call splits."""

    @abstractmethod
    async def _replace(self, replacements: Sequence[Replacement], coverage: Coverage) -> None:
        """Carry out each replacement that still fits, keeping what was appended since."""


class _Fetched(NamedTuple):
    """The logs of a batch as they are after it was appended."""

    keys: Sequence[bytes]
    appends: Appends
    blobs: Sequence[bytes]
    logs: Logs


class RedisVelocityStore(_Store):
    """Velocity logs in Redis or Valkey, one string each, named v2:{programme}:{kind}:{hash}."""

    def __init__(self, client: Redis, epoch: Epoch | None, clock: Callable[[], float] = time.monotonic) -> None:
        """`client` must not decode answers; `clock` gives seconds."""
        super().__init__(epoch)
        self._client, self._clock = client, clock
        self._scripts: dict[str, str] = {}
        self._renewed: set[bytes] = set()
        self._renewed_until = -math.inf

    @classmethod
    def connect(cls, url: str, epoch: Epoch | None, timeout_seconds: float = 5.0) -> "RedisVelocityStore":
        """Build the store for a URL; connections are made when needed."""
        pool = ConnectionPool.from_url(
            url,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            retry=Retry(NoBackoff(), 1),
            decode_responses=False,
        )
        plain = pool.connection_class
        pool.connection_class = type(f"Packing{plain.__name__}", (_Packing, plain), {})
        return cls(Redis.from_pool(pool), epoch)

    async def is_cold(self) -> bool:
        """Tell whether the store carries another epoch, or none."""
        with _named_errors():
            stored: bytes | None = await self._client.get(EPOCH_KEY)  # type: ignore[assignment]  # str, if it decoded
            return self._differs(stored)

    async def clear(self, kinds: Sequence[int] | None = None) -> None:
        """Forget the logs of some kinds, or all and the epoch."""
        with _named_errors():
            self._renewed.clear()
            cursor = 0
            while True:
                keys: list[bytes]
                cursor, keys = await self._client.scan(  # type: ignore[assignment]  # str, if the client decoded
                    cursor, match=f"{PREFIX}*", count=SCAN_COUNT
                )
                gone = keys if kinds is None else [key for key in keys if _is_of(key, kinds)]
                if gone:
                    await self._client.unlink(*gone)
                if cursor == 0:
                    break

    async def mark_warm(self, epoch: Epoch) -> None:
        """Declare what the logs hold."""
        with _named_errors():
            await self._client.set(EPOCH_KEY, epoch.text)
        self.epoch = epoch

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _append(
        self, keys: Sequence[bytes], payload: Sequence[bytes], coverage: Coverage
    ) -> tuple[bytes | None, list[bytes]]:
        now = self._clock()
        if now >= self._renewed_until or len(self._renewed) > RENEWED_MAX:
            self._renewed.clear()
            self._renewed_until = now + RENEW_SECONDS
        renewed = self._renewed
        renew = "".join(["0" if key in renewed else "1" for key in keys])
        answer = await self._run(_APPEND, [EPOCH_KEY, *keys], [b"%d" % ttl_ms(coverage), renew.encode(), *payload])
        renewed.update(keys)
        return answer[0], answer[1:]

    async def _replace(self, replacements: Sequence[Replacement], coverage: Coverage) -> None:
        arguments = [b"%d" % ttl_ms(coverage)]
        for one in replacements:
            arguments += [b"%d" % one.size, one.head, one.tail, one.content]
        await self._run(_REPLACE, [one.key for one in replacements], arguments)

    async def _run(self, script: str, keys: Sequence[bytes], arguments: Sequence[bytes]) -> list[bytes]:
        with _named_errors():
            if script not in self._scripts:
                self._scripts[script] = await self._client.script_load(script)
            try:
                answer: list[bytes] = await self._client.evalsha(self._scripts[script], len(keys), *keys, *arguments)
            except NoScriptError:
                answer = await self._client.eval(script, len(keys), *keys, *arguments)
        return answer


class MemoryVelocityStore(_Store):
    """Velocity logs in this process, for tests and simulations; several stores may share one `logs`."""

    def __init__(self, epoch: Epoch | None, logs: dict[bytes, bytes] | None = None) -> None:
        """`logs` also holds the epoch, as Redis does."""
        super().__init__(epoch)
        self.logs: dict[bytes, bytes] = {} if logs is None else logs

    async def is_cold(self) -> bool:
        """Tell whether the store carries another epoch, or none."""
        return self._differs(self.logs.get(EPOCH_KEY))

    async def clear(self, kinds: Sequence[int] | None = None) -> None:
        """Forget the logs of some kinds, or all and the epoch."""
        for key in [key for key in self.logs if kinds is None or _is_of(key, kinds)]:
            del self.logs[key]

    async def mark_warm(self, epoch: Epoch) -> None:
        """Declare what the logs hold."""
        self.logs[EPOCH_KEY] = epoch.text.encode()
        self.epoch = epoch

    async def close(self) -> None:
        """Do nothing: there are no connections."""

    async def _append(
        self,
        keys: Sequence[bytes],
        payload: Sequence[bytes],
        coverage: Coverage,  # noqa: ARG002  # nothing expires here
    ) -> tuple[bytes | None, list[bytes]]:
        for key, added in zip(keys, payload, strict=True):
            self.logs[key] = self.logs.get(key, b"") + added
        return self.logs.get(EPOCH_KEY), [self.logs[key] for key in keys]

    async def _replace(
        self,
        replacements: Sequence[Replacement],
        coverage: Coverage,  # noqa: ARG002  # as above
    ) -> None:
        for one in replacements:
            now = self.logs.get(one.key, b"")
            if now.startswith(one.head) and now[: one.size].endswith(one.tail) and len(now) >= one.size:
                self.logs[one.key] = one.content + now[one.size :]


def _keys(batch: Observations, appends: Appends) -> list[bytes]:
    prefixes = [[f"{PREFIX}{program}:{kind}:" for kind in KINDS] for program in batch.programs]
    named = zip(appends.program.tolist(), appends.kind.tolist(), appends.entity.tolist(), strict=True)
    return [f"{prefixes[program][kind]}{entity:016x}".encode() for program, kind, entity in named]


def _is_of(key: bytes, kinds: Sequence[int]) -> bool:
    """Whether a key names a log of one of these kinds; a programme's name may hold colons, a kind's does not."""
    return key != EPOCH_KEY and key.rsplit(b":", 2)[-2].decode() in {KINDS[kind] for kind in kinds}


def _parts(batch: Observations, size: int) -> Iterator[Observations]:
    if len(batch) <= size:
        yield batch
        return
    for start in range(0, len(batch), size):
        yield batch.part(start, start + size)
