"""A shelf gives back what was put on it, to its patient alone."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from auscult.cds_hooks.shelf import Basis, Held, Shelf

BASIS = Basis("lung_nodule", "1", (("brock", "1"),), "female", "60-69")
PUT = st.tuples(
    st.binary(min_size=16, max_size=16).map(lambda raw: bytes([raw[0] % 4]) * 16),
    st.sampled_from([b"a|Patient/1", b"a|Patient/2", b"b|Patient/1"]),
    st.text(min_size=1, max_size=40),
)


def held(shelf: Shelf, whose: bytes, text: str) -> Held:
    """Return what a card that says `text` is held as."""
    dictionary, body = shelf.packed(text.encode(), "lung_nodule")
    return Held(whose, 1, 2**40, 2, 1.5, 2**31, shelf.number(BASIS), dictionary, uuid.uuid4().bytes, body)


@given(st.lists(PUT, max_size=12))
def test_a_shelf_holds_what_was_put_last(puts: list[tuple[bytes, bytes, str]]) -> None:
    """Each key is with one patient, with its newest card, and found by that card's uuid."""
    shelf = Shelf()
    newest = {}
    for key, whose, text in puts:
        put = held(shelf, whose, text)
        shelf.put(key, put)
        newest[key] = put, text
    for whose in (b"a|Patient/1", b"a|Patient/2", b"b|Patient/1"):
        wanted = sorted(text for put, text in newest.values() if put.whose == whose)
        assert sorted(shelf.card(each).decode() for each in shelf.of(whose)) == wanted
    for put, _ in newest.values():
        assert shelf.by_uuid(put.uuid) == put
    assert len(shelf._results) == len(newest)


def test_cards_of_one_pathway_take_little() -> None:
    """The second card of a pathway is kept as what differs from the first."""
    shelf = Shelf()
    text = " ".join(str(number * 7919) for number in range(400))
    shelf.put(b"1" * 16, held(shelf, b"a|Patient/1", text))
    second = held(shelf, b"a|Patient/2", text.replace("7919", "7920"))
    assert len(second.pack()) < len(text) / 10
