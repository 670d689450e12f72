"""Starts PointGuard's processes, watches them and starts again the ones that end.

Every process runs under a guardian of `embedded`, so that it ends when the supervisor ends, in whatever way. A process
that gives up on itself (a hang, a lost connection that does not heal, another owner of its partition) is started again
with a growing pause; one that says that going on would lose records stays down, loudly.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import structlog

from embedded.process import Command, Guarded
from streams.exits import STAY_DOWN

PAUSE_SECONDS_MAX = 30.0
STEADY_SECONDS = 60.0

log = structlog.get_logger()


@dataclass
class _Child:
    command: Command
    process: Guarded
    started: float
    failures: int = 0
    start_at: float | None = None


@dataclass
class Supervisor:
    """The processes of one stack. Use it as a context: on leaving, all of them are stopped."""

    data_dir: Path
    clock: Callable[[], float] = time.monotonic
    _children: dict[str, _Child] = field(default_factory=dict)

    def start(self, name: str, arguments: Sequence[str]) -> None:
        """Start `pointguard ARGUMENTS` under the name `name`, which also names its log."""
        argv = [sys.executable, "-m", "cli.main", *arguments, "--data-dir", str(self.data_dir)]
        command = Command(name=name, argv=argv, grace_seconds=15.0)
        self._children[name] = _Child(command, Guarded(command, self.data_dir), self.clock())

    def look(self) -> list[str]:
        """Start again what ended and is due; the names of processes that are down for good."""
        now, lost = self.clock(), []
        for name, child in self._children.items():
            if child.process.running:
                if now - child.started > STEADY_SECONDS:
                    child.failures = 0
                continue
            code = child.process.exit_code
            if code in STAY_DOWN:
                lost.append(name)
            elif child.start_at is None:
                child.failures += 1
                pause = min(PAUSE_SECONDS_MAX, 0.5 * 2 ** (child.failures - 1))
                child.start_at = now + pause
                log.warning("process ended, starting it again", service=name, code=code, seconds=pause)
            elif now >= child.start_at:
                child.process.stop()
                child.process, child.started, child.start_at = Guarded(child.command, self.data_dir), now, None
        return lost

    def stop(self) -> None:
        """Stop every process: all are asked at once, then waited for."""
        for child in self._children.values():
            child.process.let_go()
        for child in self._children.values():
            child.process.stop()
        self._children.clear()

    def __enter__(self) -> Self:
        """Nothing is started yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop every process."""
        self.stop()
