"""`pointguard simulate`: seeded traffic of a loyalty programme, honest and not; what was caught, with `--wait`."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cli.context import DataDir, engine_of, err, settings_of
from cli.outcomes import Outcomes
from cli.produce import Limits, Record, Sent, deliver, kafka_bus, send_paced
from cli.running import await_workers, running, simulation_programme
from cli.scenarios import HOUR, SECOND
from cli.simulate_report import print_caught
from cli.simulation import EVENTS, REQUESTS, START_MS, Scene, Simulated, stream
from config.settings import Settings


def simulate(
    seed: Annotated[int, typer.Option(help="The same seed gives the same people.")] = 1,
    events: Annotated[
        int | None,
        typer.Option(
            min=1, help="Send so many, wait for all decisions, show what was caught; without, go on until Ctrl-C."
        ),
    ] = None,
    rate: Annotated[float, typer.Option(min=0.01, help="Events a second, as the mean of a simulated day.")] = 50.0,
    program: Annotated[str, typer.Option(help="Simulation programme; created when there is none.")] = "demo",
    speed: Annotated[float, typer.Option(min=0.001, help="Simulated seconds in a real second.")] = 60.0,
    data_dir: DataDir = None,
) -> None:
    """Produce seeded traffic: members and look-alikes; sign-up farms, takeovers, points mules, scripts, slow drips.

    It goes on where the programme's clock stands, so that a second run adds to the same ledger.
    """
    with running(settings_of(data_dir)) as settings:
        await_workers(settings)
        engine = engine_of(settings.required("database_url"))
        clock = simulation_programme(engine, program)
        start_ms = START_MS if clock is None else clock + SECOND
        scene = Scene(seed=seed, program=program, start_ms=start_ms, events_per_hour=rate * HOUR / SECOND / speed)
        if events is None:
            asyncio.run(_send(stream(scene), speed, settings, _Bars(None)))
        else:
            acts = list(itertools.islice(stream(scene), events))
            outcomes = Outcomes(engine, scene.source, str(settings.log_id))
            print_caught(acts, asyncio.run(_send_and_wait(acts, speed, settings, outcomes)))
        engine.dispose()


class _Bars:
    """The bars of a run; only where a person watches, so that a log file does not fill with them."""

    def __init__(self, total: int | None) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.progress = Progress(*columns, console=err, disable=not err.is_terminal)
        self.total = total

    def add(self, name: str) -> Callable[[int], None]:
        """A bar; the function moves it to a number of events."""
        task = self.progress.add_task(f"{name:<9}", total=self.total)
        return lambda completed: self.progress.update(task, completed=completed)


async def _send(acts: Iterable[Simulated], speed: float, settings: Settings, bars: _Bars) -> None:
    """Send everything in its time."""
    async with kafka_bus(settings.required("kafka_url")) as bus:
        with bars.progress:
            await send_paced(_records(acts, settings), bus, speed, bars.add("produced"), keep=False)


async def _send_and_wait(
    acts: Sequence[Simulated], speed: float, settings: Settings, outcomes: Outcomes
) -> dict[str, str]:
    """Send everything in its time, then wait; the outcomes by event id."""
    bars, found = _Bars(len(acts)), dict[str, str]()
    async with kafka_bus(settings.required("kafka_url")) as bus:
        with bars.progress:
            sent = await send_paced(_records(acts, settings), bus, speed, bars.add("produced"), keep=True)
            decided = bars.add("decided")

            def told(_: int, settled: Mapping[str, str]) -> None:
                found.update(settled)
                decided(len(found))

            everything = Limits(in_flight=len(sent) + 1)
            await deliver([record for record, _ in sent], Sent(sent), outcomes.settled, told, everything)
    return found


def _records(acts: Iterable[Simulated], settings: Settings) -> Iterator[Record]:
    topics = {EVENTS: settings.events_topic, REQUESTS: settings.requests_topic}
    return (_record(act, topics[act.topic]) for act in acts)


def _record(act: Simulated, topic: str) -> Record:
    value = json.dumps(act.event, separators=(",", ":")).encode()
    return Record(str(act.event["id"]), act.at_ms, topic, act.key, value)
