"""A long text is searched for what it can hold only: nothing that is found in it otherwise is missed."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.planted import PLANTED
from yprovd.secrets import Masker
from yprovd.shapes import _ALL, spans_of
from yprovd.sieve import GATES, LONG, WRITTEN, in_bytes, long_words, sieved

#: As logs have it; and what the folding makes of it must not matter.
FILLER = "epoch 3 step 1200: loss=0.12345, acc 0.9876 (tokens/s 12345.6)\n"


def possible(text: str) -> set[str]:
    return sieved(text, long_words(in_bytes(text)), _ALL)


def test_a_log_of_numbers_is_searched_for_nothing() -> None:
    assert possible(FILLER * 2000) == set()


@pytest.mark.parametrize("anchor", sorted({a for behind in GATES.values() for a in behind} | set(WRITTEN.values())))
@pytest.mark.parametrize("around", ["{}=x", "{}: x", "\n{} x", '("{}", x', "x/{}'x"])
def test_every_anchor_behind_a_gate_is_seen(anchor: str, around: str) -> None:
    written = next((w.decode() for w, a in WRITTEN.items() if a == anchor), anchor)
    for form in {written, written.upper() if anchor in _ALL - set(WRITTEN.values()) else written}:
        assert anchor in possible(FILLER + around.format(form) + "\n" + FILLER)


def test_the_gates_are_of_anchors_that_there_are() -> None:
    behind = [a for anchors in GATES.values() for a in anchors]
    assert set(behind) <= _ALL
    assert set(WRITTEN.values()) <= _ALL
    assert len(behind) == len(set(behind))


@pytest.mark.parametrize("form", PLANTED, ids=lambda form: form.name)
@pytest.mark.parametrize("around", ["{}", ".{}", "\u20ac {} \u20ac", "/{}", "\xff{}\xff", "x {}"])
def test_what_is_found_in_a_short_text_is_found_in_a_long_one(form: object, around: str) -> None:
    text = FILLER * 100 + around.format(form.text) + FILLER  # type: ignore[attr-defined]
    assert list(spans_of(text, long_words(in_bytes(text)))) == list(spans_of(text))


_PIECES = st.one_of(
    st.sampled_from(sorted(_ALL) + [w.upper() for w in sorted(_ALL)]),
    st.sampled_from(["=", ": ", " ", "'", '"', "\n", ".", "/", "-", "_", "@", "\u20ac", "\u0130", "\u212a", "\xe9"]),
    st.from_regex(re.compile(r"[A-Za-z0-9_]{1,24}", re.ASCII), fullmatch=True),
    st.sampled_from([f.text for f in PLANTED]))


@given(st.lists(_PIECES, max_size=12).map("".join))
def test_the_sieve_takes_nothing_away(text: str) -> None:
    assert list(spans_of(text, long_words(in_bytes(text)))) == list(spans_of(text))


def test_long_words_have_what_stands_in_front() -> None:
    word = "a" * LONG
    assert long_words(f"short {'b' * (LONG - 1)} x.y hvs.{word} end".encode()) == f"x.y hvs.{word}".encode()[-LONG - 8:]
    assert long_words(word.encode()) == word.encode()


@pytest.mark.parametrize("length", [8, 13, 40])
def test_a_known_value_is_found_in_a_long_text_too(length: int) -> None:
    value = "Qz8-xW3_vM5kR7tY2pL9dF4gH6jS1nB0cV8xZ3aK"[:length]
    log = f"{FILLER * 100}a line with {value}.{FILLER}"
    assert Masker([value]).text(log) == log.replace(value, "***")
