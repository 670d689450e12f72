"""What a command says when it cannot do its work: one line what, one line remedy, and an exit code; never a traceback.

Exit codes of `pointguard`: 0 done; 1 done, and something was found (discrepancies, events that could not be retried); 2
the request is wrong (option, file, map, name); 3 gave up waiting for decisions; 4 a service cannot be reached or is not
set up; 130 Ctrl-C.
"""

from __future__ import annotations

FOUND, USAGE, TIMEOUT, UNREACHABLE, INTERRUPTED = 1, 2, 3, 4, 130


class CommandError(Exception):
    """A command ends here: `what` went wrong, the `remedy`, and the process's exit `code`."""

    def __init__(self, what: str, remedy: str, code: int = USAGE) -> None:
        super().__init__(what)
        self.what, self.remedy, self.code = what, remedy, code
