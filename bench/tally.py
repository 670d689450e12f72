"""What a measured engine keeps while it runs: when its records were done, and what they cost it.

Every engine program calls `Tally.done` in the same way, so that the counting costs all of them the same. A program ends
itself through the tally: when the records it was told to expect are done, or when its time is up.
"""

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the driver asks of an engine: to read `topic` from its beginning, for so many records or seconds."""

    bootstrap: str
    topic: str
    group: str
    records: int
    seconds: float
    scratch: Path
    marks: Path | None = None

    def arguments(self) -> list[str]:
        """The job as a command line, for `job_from_arguments`."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return [part for name, value in given.items() for part in (f"--{name}", str(value))]


def job_from_arguments() -> Job:
    """The job the driver put on the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--records", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--scratch", type=Path, required=True, help="a directory for what the engine keeps")
    parser.add_argument("--marks", type=Path, help="where the times of what was done go (.npy)")
    return Job(**vars(parser.parse_args()))


@dataclass(slots=True)
class Tally:
    """Counts what is done. The clock starts behind the first batch, whose fetch nobody is charged for."""

    job: Job
    count: int = 0
    first_count: int = 0
    started_ns: int = 0
    started_cpu: float = 0.0
    deadline_ns: int = 0
    marks: list[tuple[int, int, int]] = field(default_factory=list)

    def done(self, partition: int, last_offset: int, records: int) -> None:
        """All records of `partition` up to `last_offset` are done, `records` of them since the last call."""
        now = time.monotonic_ns()
        if not self.started_ns:
            self._start(now, records)
        self.count += records
        if self.job.marks is not None:
            self.marks.append((partition, last_offset, now))
        if self.count >= self.job.records or now > self.deadline_ns:
            self._finish(now)

    def _start(self, now: int, records: int) -> None:
        self.started_ns, self.started_cpu, self.first_count = now, time.process_time(), records
        self.deadline_ns = now + int(self.job.seconds * 1e9)
        say("ready")

    def _finish(self, now: int) -> None:
        """Report and end the process at once: leaving the group in peace is no part of what is measured."""
        cpu = time.process_time() - self.started_cpu
        if self.job.marks is not None:
            np.save(self.job.marks, np.array(self.marks, dtype=np.int64))
        report = {
            "records": self.count - self.first_count,
            "seconds": (now - self.started_ns) / 1e9,
            "cpu_seconds": cpu,
            "all": self.count >= self.job.records,
        }
        say(json.dumps(report))
        os._exit(0)


def say(line: str) -> None:
    """Tell the driver something, on the real standard output: Faust replaces `sys.stdout` by its logger."""
    os.write(1, f"{line}\n".encode())
