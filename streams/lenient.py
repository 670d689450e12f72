"""Reads records with header names that are no UTF-8: to aiokafka the first of them is the end of its partition.

Kafka takes any bytes for a name, brokers do not look, and clients in C send what they are given. aiokafka decodes names
while it unpacks a fetch and raises, again after every restart. Here a batch with such a name is unpacked once more with
the bytes that are none replaced. No header that is read can be meant by one of these: their names are plain ASCII.

It leans on private parts of aiokafka; tests/contract/test_lenient.py names them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatch, _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy


class _Bytes(bytearray):
    """A buffer whose slices decode whatever they hold."""

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        return _Bytes(found) if isinstance(key, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        """Replace what cannot be decoded."""
        del errors
        return super().decode(encoding, "replace")


class _LenientBatch(_DefaultRecordBatchPy):  # type: ignore[misc]  # final, as nobody else replaces it
    """aiokafka's batch in Python: slow, so only for a batch that its twin in C cannot read."""

    _buffer: bytearray

    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        self._buffer = _Bytes(self._buffer)


class Batch:
    """A batch as the fetcher uses it. Iterated, it may begin anew: the fetcher passes over offsets that it has had."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._batch: Any = DefaultRecordBatch(raw)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._batch
        except UnicodeDecodeError:
            yield from _LenientBatch(self._raw)

    def __next__(self) -> Any:
        return next(self._batch)


class Records(_MemoryRecordsPy):  # type: ignore[misc]  # final, as above
    """What a fetch brought of a partition, batch by batch."""

    def next_batch(self, *_: Any) -> Any:
        """The next batch, or None; one of the formats before headers as aiokafka has it."""
        raw = self._next_slice
        batch = super().next_batch()
        return Batch(raw) if isinstance(batch, DefaultRecordBatch) else batch


def install() -> None:
    """Let aiokafka's fetcher, in all of this process, read so."""
    fetcher.MemoryRecords = Records
