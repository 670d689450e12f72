"""`pointguard relay`: publishes decisions and alerts, decides holds that are due."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from config.settings import load


def relay(
    metrics_port: Annotated[int | None, typer.Option(help="Port of /metrics (0: a free one).")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where run.json and secrets are.")] = None,
) -> None:
    """Publish the outbox and keep house until stopped; several relays may run beside each other."""
    from streams.processes import run_relay

    run_relay(load(data_dir=data_dir, metrics_port=metrics_port))
