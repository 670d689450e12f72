"""`pointguard worker`: one worker process for one topic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from config.settings import load


def worker(
    topic: Annotated[
        Literal["events", "requests"], typer.Option(help="events: facts and notices; requests: outflows that wait.")
    ] = "events",
    worker_id: Annotated[str | None, typer.Option("--id", help="Name of this member; stable over restarts.")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Port of /metrics (0: a free one).")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where run.json and secrets are.")] = None,
) -> None:
    """Consume a topic: score each event, post or hold its points, and publish the decision."""
    from streams.worker import run

    settings = load(data_dir=data_dir, worker_id=worker_id, metrics_port=metrics_port)
    run(settings, settings.events_topic if topic == "events" else settings.requests_topic)
