"""A trainer in a process of its own, to be killed: `python -m tests.faults.trainee DATABASE_URL`."""

import sys
import threading
from dataclasses import replace

from sqlalchemy import create_engine

from alerts.metrics import Metrics
from streams.trainer import work
from tests.integration.label_log import KEY, PARAMS

KILLED = replace(PARAMS, chunk_rows=20, publish_rows=90, publish_seconds=0.0, checkpoint_rows=40)
"""Small pieces of work, so that a kill may fall between any two of them."""

if __name__ == "__main__":
    work(create_engine(sys.argv[1]), KEY, Metrics(), KILLED, threading.Event())
