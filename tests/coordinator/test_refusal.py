"""Why a call is refused whose item failed."""

import pytest

from coordinator.errors import Failure
from coordinator.refusal import Refusal, refused


@pytest.mark.parametrize(
    ("code", "alone", "refusal", "told"),
    [
        ("bad_input", True, Refusal.BAD_INPUT, "the item is empty"),
        ("bad_input", False, Refusal.BAD_INPUT, "row 3 failed (bad_input): the item is empty"),
        ("device", True, Refusal.FAILED, "row 3 failed (device): the item is empty"),
        ("device", False, Refusal.FAILED, "row 3 failed (device): the item is empty"),
    ],
)
def test_a_caller_is_told_what_failed_and_whether_that_is_to_be_mended(
    code: str, alone: bool, refusal: Refusal, told: str
) -> None:
    why = refused(Failure(code, "the item is empty"), "row 3", alone=alone)
    assert (why.refusal, str(why)) == (refusal, told)
