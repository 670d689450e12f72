"""Write the committed schemas anew: `python docs/schema/generate.py` from the project's folder."""  # noqa: INP001 - a script beside what it writes, not a package

import json
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parents[1]))

from detectors.event_schema import asyncapi, json_schema  # noqa: E402 - found on the path set above

FILES = {"events.schema.json": json_schema, "asyncapi.json": asyncapi}


def text_of(name: str) -> str:
    """Give what a file has to hold."""
    return json.dumps(FILES[name](), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for file in FILES:
        (FOLDER / file).write_text(text_of(file), encoding="utf-8")
