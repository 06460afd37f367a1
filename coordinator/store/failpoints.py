"""Places where a test may have the process die. CARPOOL_FAILPOINT=NAME:N ends it at the Nth time it gets to NAME.

A kill at a random moment rarely meets the few microseconds that matter; these do each time.
"""

import os
import signal

NAMES = (
    *("before_commit", "after_commit", "before_answer", "in_checkpoint", "after_checkpoint"),
    "between_segment_and_row",
    "after_content",
)

_name, _, _turns = os.environ.get("CARPOOL_FAILPOINT", "").partition(":")
_left = int(_turns or 1)
if _name and _name not in NAMES:
    raise ValueError(f"CARPOOL_FAILPOINT names {_name!r}; there are {', '.join(NAMES)}")


def reach(name: str) -> None:
    """The process is at this place now."""
    global _left
    if name == _name:
        _left -= 1
        if not _left:
            os.kill(os.getpid(), signal.SIGKILL)
