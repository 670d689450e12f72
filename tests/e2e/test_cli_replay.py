"""A file through the whole product by one command on a machine where nothing runs; and the same again."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import psutil

ROWS, RING = 300, 24


def command(data_dir: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `pointguard ARGUMENTS` on that data directory."""
    words = [sys.executable, "-m", "cli.main", *map(str, arguments), "--data-dir", str(data_dir)]
    return subprocess.run(words, capture_output=True, text=True, timeout=150, check=False)


def processes_of(data_dir: Path) -> list[str]:
    """Processes that were started for a data directory and still run."""
    return [
        " ".join(line)
        for process in psutil.process_iter(["cmdline"])
        if (line := process.info["cmdline"] or []) and str(data_dir) in " ".join(line)
    ]


def write_file(path: Path) -> None:
    """Sign-ups and purchases a day later, one an hour; a ring of one device buys at once; one row has no amount."""
    header = "user_id,signup_time,purchase_time,purchase_value,device_id,ip_address,class\n"
    lines = []
    for number in range(ROWS):
        day, hour = divmod(number, 24)
        signup = f"2026-{day // 28 + 1:02d}-{day % 28 + 1:02d} {hour:02d}:00:00"
        if number % (ROWS // RING) == 0:
            lines.append(f"{number},{signup},{signup},30,ring,{16_909_060 + number},1\n")
        else:
            later = f"2026-{(day + 1) // 28 + 1:02d}-{(day + 1) % 28 + 1:02d} {hour:02d}:30:00"
            lines.append(f"{number},{signup},{later},30,d{number},{16_909_060 + number},0\n")
    lines.append("none,2026-01-01 00:00:00,2026-01-01 00:00:00,,d,1,0\n")
    path.write_text(header + "".join(lines))


def test_one_command_replays_a_file_and_a_second_time_changes_nothing(tmp_path: Path) -> None:
    """Every row has exactly one outcome, the ring is held, the report is the same again, the ledger is clean."""
    data_dir, file = tmp_path / "data", tmp_path / "rows.csv"
    write_file(file)
    first = command(data_dir, "replay", file, "--map", "ecom")
    assert first.returncode == 0, first.stderr
    assert "row 301, column purchase_value: is empty" in first.stderr
    counts = {name: int(count) for name, count in re.findall(r"│ (\w[\w-]*) +│ +(\d+) ", first.stdout)}
    assert counts == {"approved": ROWS - RING - 1, "held": RING + 1, "rejected": 0, "dead-lettered": 0, "unmapped": 1}
    assert re.search(r"as decided +│ +100.0% │ +100.0% │", first.stdout)
    assert "without same_minute_signup" in first.stdout
    assert processes_of(data_dir) == []

    second = command(data_dir, "replay", file, "--map", "ecom")
    assert second.returncode == 0, second.stderr
    repeated = f"{2 * ROWS} of these were decided by an earlier run; sent again, they move nothing.\n"
    assert second.stdout == first.stdout + repeated

    assert "The ledger is clean" in command(data_dir, "verify").stdout
    holds = command(data_dir, "holds", "list", "--limit", 50)
    assert f"{RING + 1} of {RING + 1} open holds" in holds.stdout
    assert processes_of(data_dir) == []
