"""Header names that are no UTF-8, on aiokafka's own fetcher: whatever a producer calls its headers, records come."""

from __future__ import annotations

import inspect
import struct
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c

from streams import lenient

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
_CRC_AT, _CRC_FROM = 17, 21


def batch(first: int, *names: str, codec: int = 0) -> bytearray:
    """A batch of records, each with one header of this name, as a producer makes it."""
    builder = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, 100_000)
    for n, name in enumerate(names):
        builder.append(n, 1_700_000_000_000 + n, b"key", f"{first + n}".encode(), [(name, b"x"), ("ce_id", b"y")])
    made = bytearray(builder.build())
    struct.pack_into(">q", made, 0, first)
    return made


def spoiled(made: bytearray, name: bytes) -> bytearray:
    """The batch with the first byte of a header's name made one that no UTF-8 has."""
    made[made.index(name)] = 0xFF
    struct.pack_into(">I", made, _CRC_AT, calc_crc32c(bytes(made[_CRC_FROM:])))
    return made


def unpacked(data: bytes, records: type[Any]) -> list[tuple[int, Any, Any]]:
    """What the fetcher makes of a fetch: offsets, values and headers."""
    how = {"key_deserializer": None, "value_deserializer": None, "check_crcs": True}
    plain = fetcher.PartitionRecords(
        TopicPartition("points", 0), records(data), [], 0, isolation_level=fetcher.READ_COMMITTED, **how
    )
    return [(record.offset, record.value, record.headers) for record in plain]


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_what_aiokafka_reads_comes_out_the_same(codec: int) -> None:
    """Of several batches, compressed or not, every record with its offset, value and headers."""
    data = bytes(batch(0, "one", "zwei", "三", codec=codec) + batch(7, "vier", codec=codec))
    assert unpacked(data, lenient.Records) == unpacked(data, MemoryRecords)
    assert [offset for offset, _, _ in unpacked(data, lenient.Records)] == [0, 1, 2, 7]


def test_a_name_that_is_no_utf_8_costs_no_record() -> None:
    """By itself aiokafka raises, after every restart again; so read, every record comes, in order and once."""
    data = bytes(batch(0, "good") + spoiled(batch(1, "fine", "evil", "well"), b"evil") + batch(4, "last"))
    with pytest.raises(UnicodeDecodeError):
        unpacked(data, MemoryRecords)
    assert [(offset, value) for offset, value, _ in unpacked(data, lenient.Records)] == [
        (n, str(n).encode()) for n in range(5)
    ]
    assert unpacked(data, lenient.Records)[2][2] == (("�vil", b"x"), ("ce_id", b"y"))


def test_the_fetcher_takes_what_is_installed() -> None:
    """It asks this name of its module for whatever a broker sent, and there alone."""
    lenient.install()
    assert fetcher.MemoryRecords is lenient.Records
    assert inspect.getsource(fetcher).count("MemoryRecords(part_data[-1])") == 1
