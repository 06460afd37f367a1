"""Sentences: distinct, and the same for everybody."""

from benchmarks.sentences import sentences


def test_as_many_distinct_sentences_as_asked_for() -> None:
    assert [len(set(sentences(count))) for count in (1, 2_000, 9_000)] == [1, 2_000, 9_000]


def test_fewer_are_the_first_of_more() -> None:
    assert sentences(3_000)[:100] == sentences(100)


def test_each_fits_on_a_line() -> None:
    assert all(len(text.splitlines()) == 1 and text.strip() == text for text in sentences(5_000))
