"""What a velocity store is known to hold: a token that a flushed store can't show, and how far its logs reach.

Store and PostgreSQL both keep the text form, `token kind:milliseconds kind:milliseconds …`. As long as both say the
same, the store holds all that happened within these times; what a demand reaches beyond is cold.
"""

from __future__ import annotations

from dataclasses import dataclass

from detectors.velocity_names import KINDS, Coverage


@dataclass(frozen=True)
class Epoch:
    """One life of the store, and the coverage it has in it."""

    token: str
    coverage: Coverage

    @property
    def text(self) -> str:
        """As it is stored."""
        reaches = [f"{KINDS[kind]}:{self.coverage.memory_ms[kind]}" for kind in self.coverage.kinds]
        return " ".join((self.token, *reaches))

    @staticmethod
    def parse(text: str) -> Epoch:
        """Read the stored form; a token alone, as older releases wrote it, covers nothing. ValueError for any other."""
        token, *reaches = text.split()
        memory_ms = [0] * len(KINDS)
        for reach in reaches:
            kind, _, milliseconds = reach.partition(":")
            memory_ms[KINDS.index(kind)] = int(milliseconds)
        return Epoch(token, Coverage(tuple(memory_ms)))

    def grown_since(self, earlier: Epoch) -> Coverage:
        """The kinds that were made anew since `earlier`: all in another life, else those that reach farther back."""
        kinds = self.coverage.kinds if self.token != earlier.token else earlier.coverage.lacks(self.coverage)
        return self.coverage.of(kinds)
