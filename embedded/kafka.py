"""A real Apache Kafka, one KRaft node on loopback: for the fault tests, the benches and `up --kafka`.

It needs Java 17; its jars come from Maven Central and are kept in a cache directory. The log survives a stop and a
kill: start it again on the same data directory and port. Its `log_id` is its cluster id.
"""

import contextlib
import re
import shutil
import signal
import subprocess
import time
from importlib import resources
from pathlib import Path

from embedded.broker import answers
from embedded.process import (
    LOOPBACK,
    Command,
    Guarded,
    Service,
    ServiceError,
    clear_leftover,
    free_port,
    private_directory,
)

NAME = "apache-kafka"
VERSION = "4.3.0"
JAVA = 17
START_SECONDS = 60.0
PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
log.dirs={logs}
num.partitions=4
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
log.message.timestamp.type=LogAppendTime
"""


def start(data_dir: Path, cache: Path, port: int | None = None, lock: int | None = None) -> Service:
    """Start Kafka on `data_dir`/apache-kafka, formatted on the first start, and wait until it answers.

    `cache` holds the jars and is filled on the first use. Raises ServiceError when Java or Maven is missing.
    """
    clear_leftover(data_dir, NAME)
    java, jars, port = find_java(), fetch_jars(cache), port or free_port()
    directory = private_directory(data_dir / NAME)
    properties = directory / "server.properties"
    logs = directory / "logs"
    properties.write_text(
        PROPERTIES.format(host=LOOPBACK, port=port, controller=free_port(), logs=logs), encoding="utf-8"
    )
    run = [java, "-cp", f"{jars}/*"]
    if not (logs / "meta.properties").exists():
        format_logs(run, properties)
    argv = [java, "-Xmx1g", "-Xms256m", "-Dlog4j2.level=WARN", *run[1:], "kafka.Kafka", str(properties)]
    process = Guarded(Command(NAME, argv, signal.SIGTERM), data_dir, lock)
    address = f"{LOOPBACK}:{port}"
    process.wait_until(lambda: answers(address), START_SECONDS)
    return Service(process, address, cluster_id(logs))


def format_logs(run: list[str], properties: Path) -> None:
    """Format the log directory under a new cluster id."""
    tool = [*run, "kafka.tools.StorageTool"]
    new = subprocess.run([*tool, "random-uuid"], capture_output=True, text=True, check=True).stdout.split()[-1]
    done = subprocess.run(
        [*tool, "format", "-t", new, "-c", str(properties)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ServiceError(f"Apache Kafka could not format its log directory: {done.stdout[-600:]}{done.stderr[-600:]}")


def cluster_id(logs: Path) -> str:
    """Return the cluster id that the log directory was formatted with."""
    found = re.search(r"^cluster\.id=(\S+)$", (logs / "meta.properties").read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise ServiceError(f"{logs} has no cluster id; remove {logs.parent} to start with an empty log")
    return found[1]


def find_java() -> str:
    """Return the path of a Java that is new enough."""
    java = shutil.which("java")
    if java is None:
        raise ServiceError(f"Apache Kafka needs Java {JAVA} or newer, and there is no java on the PATH; install a JRE")
    told = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', told)
    if version is None or int(version[1]) < JAVA:
        raise ServiceError(f"Apache Kafka needs Java {JAVA} or newer; {java} says: {told.strip()[:200]}")
    return java


def fetch_jars(cache: Path) -> Path:
    """Return the directory of Kafka's jars, copied from Maven Central unless it is there."""
    jars = cache.absolute() / f"kafka-{VERSION}"
    if jars.is_dir():
        return jars
    maven = shutil.which("mvn")
    if maven is None:
        raise ServiceError(
            f"Apache Kafka's jars are not in {jars}, and there is no mvn on the PATH to fetch them; install Maven"
        )
    private_directory(cache)
    coming = jars.with_name(f"{jars.name}.{time.monotonic_ns()}")
    with resources.as_file(resources.files("embedded") / "pom.xml") as pom:
        command = [maven, "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={coming}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        shutil.rmtree(coming, ignore_errors=True)
        raise ServiceError(f"Maven could not fetch Apache Kafka's jars: {(done.stdout + done.stderr)[-1500:]}")
    with contextlib.suppress(OSError):  # somebody else was faster
        coming.rename(jars)
    shutil.rmtree(coming, ignore_errors=True)
    return jars
