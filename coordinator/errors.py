"""What goes wrong for a user: a call that cannot be served, an item that failed."""

from dataclasses import dataclass


class CarpoolError(Exception):
    """Why a command cannot go on and what to do about it, in one line; `exit_code` is the process's.

    2 is for what the user can mend (input, flags, address), 1 for what failed on the other side.
    """

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one item has no result."""

    code: str  # "bad_input", "out_of_memory", "device", "model", "internal", "node_died"
    message: str  # one sentence for people
