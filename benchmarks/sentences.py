"""English sentences that every Python has: the reference manual, as `pydoc` carries it.

Benchmarks and the demo embed them, so that nothing needs to be downloaded. The count differs a little from one
version of Python to the next; what is said of a number of sentences holds for the first so many of any.
"""

import re
from pydoc_data.topics import topics

_FEWEST_WORDS, _MOST_WORDS = 3, 80


def sentences(count: int) -> list[str]:
    """So many distinct sentences, always the same; beyond what the manual has, sentences with those that follow."""
    singles = _manual()
    chosen = dict.fromkeys(singles)
    together = 2
    while len(chosen) < count:
        chosen |= dict.fromkeys(" ".join(singles[at : at + together]) for at in range(len(singles) - together + 1))
        together += 1
    return list(chosen)[:count]


def _manual() -> list[str]:
    """The distinct sentences of the manual's prose, in its order."""
    found: dict[str, None] = {}
    for name in sorted(topics):
        for paragraph in re.split(r"\n\s*\n", topics[name]):
            for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z\"'*])", " ".join(paragraph.split())):
                if _is_prose(sentence) and _FEWEST_WORDS <= len(sentence.split()) <= _MOST_WORDS:
                    found.setdefault(sentence)
    return list(found)


def _is_prose(text: str) -> bool:
    """Whether it reads as a sentence, and is no table, rule of grammar or listing of code."""
    whole = text[:1].isupper() and text[-1:] in (".", "!", "?")
    return whole and not any(mark in text for mark in ("| ", "+-", "::=", ">>>", "....", "======"))
