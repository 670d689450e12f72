"""`pointguard trainer`: learns the models from the label log and publishes snapshots."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from config.settings import load


def trainer(
    metrics_port: Annotated[int | None, typer.Option(help="Port of /metrics (0: a free one).")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where run.json and secrets are.")] = None,
) -> None:
    """Learn from labels in their order until stopped; one trainer works at a time, others wait."""
    from streams.trainer import run_trainer

    run_trainer(load(data_dir=data_dir, metrics_port=metrics_port))
