"""The programs whose whole pipelines are compared, and how each is started."""

import os
import subprocess
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from bench.stack import Site

OURS_ROWS: Final = "SELECT part, last_offset FROM partition_progress WHERE topic = :topic"
NAIVE_ROWS: Final = """
SELECT part, (SELECT max("offset") FROM naive_verdict AS v WHERE v.part = p.part) AS last_offset
  FROM generate_series(0, 3) AS p (part)"""
OURS_OUTCOMES: Final = "SELECT outcome, count(*) AS events FROM decision GROUP BY outcome ORDER BY outcome"
NAIVE_OUTCOMES: Final = "SELECT outcome, count(*) AS events FROM naive_verdict GROUP BY outcome ORDER BY outcome"


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One pipeline: what it is, the module that runs it, how its committed rows show how far it is.

    `share` is the part of the backlog it gets, since the slow ones would need hours for all of it; `streams` is False
    for the floor, which reads the backlog into memory first and so has no latency to measure.
    """

    name: str
    module: str
    progress: str
    outcomes: str
    share: float = 1.0
    streams: bool = True

    def start(self, site: Site, topic: str) -> "subprocess.Popen[bytes]":
        """Run the program on `site`, reading `topic` from its beginning."""
        group = f"bench-{uuid.uuid4().hex[:12]}"
        if self.module == "cli.main":
            arguments = ["worker", "--data-dir", str(site.data_dir)]
        else:
            arguments = ["--bootstrap", site.bootstrap, "--topic", topic, "--group", group]
            arguments += ["--database", site.database_url, "--redis", site.redis_url, "--scratch", str(site.data_dir)]
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", self.module, *arguments],
            env=os.environ | _settings(site, topic, group),
            stdout=subprocess.DEVNULL,
            stderr=(site.data_dir / "log").open("wb"),
        )


def _settings(site: Site, topic: str, group: str) -> Mapping[str, str]:
    """PointGuard's settings for a run."""
    return {
        "POINTGUARD_DATA_DIR": str(site.data_dir),
        "POINTGUARD_DATABASE_URL": site.database_url,
        "POINTGUARD_REDIS_URL": site.redis_url,
        "POINTGUARD_KAFKA_URL": site.bootstrap,
        "POINTGUARD_LOG_ID": site.log_id,
        "POINTGUARD_EVENTS_TOPIC": topic,
        "POINTGUARD_GROUP": group,
        "POINTGUARD_SECRET_FILE": str(site.secret_file),
        "POINTGUARD_METRICS_PORT": str(site.metrics_port),
        "POINTGUARD_LOG_LEVEL": "warning",
    }


OURS: Final = Program(name="PointGuard", module="cli.main", progress=OURS_ROWS, outcomes=OURS_OUTCOMES)
NAIVE: Final = Program(
    name="(a) naive Faust agent",
    module="bench.naive_faust",
    progress=NAIVE_ROWS,
    outcomes=NAIVE_OUTCOMES,
    share=0.02,
)
QUIX_STAGES: Final = Program(
    name="(b1) our stages fed by Quix Streams", module="bench.quix_stages", progress=OURS_ROWS, outcomes=OURS_OUTCOMES
)
QUIX_GUIDE: Final = Program(
    name="(b2) Quix Streams as its guide has it",
    module="bench.quix_guide",
    progress=NAIVE_ROWS,
    outcomes=NAIVE_OUTCOMES,
    share=0.2,
)
FLOOR: Final = Program(
    name="(c) floor: the stages alone, serial",
    module="bench.floor",
    progress=OURS_ROWS,
    outcomes=OURS_OUTCOMES,
    streams=False,
)
PROGRAMS: Final = (OURS, NAIVE, QUIX_STAGES, QUIX_GUIDE, FLOOR)
