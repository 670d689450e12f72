"""Which accounts a rule on partial rollout looks at: a stable choice, the same on every worker and every replay.

The choice hangs on the rule's id, the programme and the account alone, with no key, so whoever has the stored event
can make it again. Two rules choose independently of each other; a growing share keeps the accounts it had.
"""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Hashes = NDArray[np.uint64]

STEPS = 10_000
"""A share is counted in hundredths of a per cent."""


def account_hashes(accounts: Sequence[tuple[str, str]]) -> Hashes:
    """64 bits of BLAKE2b for each (programme, account); the length in front keeps two names from running together."""
    digests = b"".join(
        blake2b(f"{len(program)}:{program}{account}".encode(), digest_size=8).digest() for program, account in accounts
    )
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def salt(rule_id: str) -> int:
    """64 bits of a rule's id."""
    return int.from_bytes(blake2b(rule_id.encode(), digest_size=8, person=b"rollout").digest(), "little")


def chosen(hashes: Hashes, rule_salt: int, percent: float) -> Mask:
    """Which of the accounts belong to the share; all at 100, none at 0."""
    return mixed(hashes ^ np.uint64(rule_salt)) % np.uint64(STEPS) < np.uint64(round(percent * STEPS / 100.0))


def mixed(values: Hashes) -> Hashes:
    """The finaliser of SplitMix64 (Steele, Lea, Flood, 2014): each bit of the input reaches each of the answer."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
