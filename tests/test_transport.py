"""What is sent is kept until it is on disk, within a bound; nobody waits for anybody; nonsense harms nobody."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.support import eventually
from yprovd.errors import YprovError
from yprovd.transport import (
    ACK,
    DATA,
    GOODBYE,
    MAX_IPC_PATH,
    QUESTION,
    REPLY,
    STOP,
    Message,
    Receiver,
    Sender,
    ipc,
    wait_readable,
)


@pytest.fixture
def endpoint() -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix="yprov-")
    yield ipc(folder + "/s")
    shutil.rmtree(folder)


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    with zmq.Context(io_threads=1) as shared:
        yield shared


@contextlib.contextmanager
def sender(endpoint: str, *, limit: int = 1 << 20, identity: bytes = b"me") -> Iterator[Sender]:
    one = Sender(endpoint, limit=limit, identity=identity)
    try:
        yield one
    finally:
        one.close()


@contextlib.contextmanager
def receiver(endpoint: str) -> Iterator[Receiver]:
    one = Receiver(endpoint)
    try:
        yield one
    finally:
        one.close()


def taken(end: Receiver, n: int = 1) -> list[Message]:
    got: list[Message] = []
    eventually(lambda: got.extend(end.receive()) or len(got) >= n, 10, f"{n} messages")
    return got


def acknowledged(end: Sender, n: int = 1) -> list[int]:
    got: list[int] = []
    eventually(lambda: got.extend(end.receive(10)[0]) or len(got) >= n, 10, f"{n} acknowledgements")
    return got


def test_frames_arrive_in_order_and_are_forgotten_when_they_are_acknowledged(endpoint: str) -> None:
    with receiver(endpoint) as end, sender(endpoint) as one:
        for k in range(100):
            assert one.send([b"%d" % k, b"x"], sync=k == 7) == k
        assert one.waiting == 100
        assert one.bytes_kept == sum(len(b"%d" % k) + 1 for k in range(100))
        messages = taken(end, 100)
        assert [m.number for m in messages] == list(range(100))
        assert [m.frames for m in messages] == [[b"%d" % k, b"x"] for k in range(100)]
        assert [m.number for m in messages if m.sync] == [7]
        assert {(m.kind, m.peer) for m in messages} == {(DATA, b"me")}
        end.ack(b"me", [1, 0])
        assert acknowledged(one, 2) == [1, 0]
        end.ack(b"me", [0, 99, 12345])  # one twice, one that never was
        assert acknowledged(one) == [99]
        assert one.waiting == 97
        assert one.kept()[:2] == [b"2", b"x"]


def test_everything_waits_for_a_receiver_that_comes_later(endpoint: str) -> None:
    with sender(endpoint) as one:
        one.send([b"early"])
        with receiver(endpoint) as end:
            assert taken(end)[0].frames == [b"early"]


def test_a_receiver_that_was_replaced_gets_what_the_first_never_acknowledged(endpoint: str) -> None:
    with sender(endpoint) as one:
        with receiver(endpoint) as first:
            one.send([b"safe"])
            one.send([b"lost"])
            taken(first, 2)
            first.ack(b"me", [0])
            acknowledged(one)
        with receiver(endpoint) as second:
            messages: list[Message] = []
            eventually(lambda: (one.resend_if_due(), messages.extend(second.receive())) and messages, 10, "a resend")
            assert {m.number for m in messages} == {1}
            assert messages[0].frames == [b"lost"]
            assert messages[0].peer == b"me"  # known again by its name
            second.ack(b"me", [1])
            assert acknowledged(one) == [1]
            assert not one.waiting


def test_nothing_is_sent_again_while_the_receiver_gives_signs_of_life(endpoint: str) -> None:
    with receiver(endpoint) as end, sender(endpoint) as one:
        one.send([b"a"])
        one.send([b"b"])
        taken(end, 2)
        end.ack(b"me", [0])
        acknowledged(one)
        assert not one.resend_if_due()
        assert time.monotonic() - one.heard < 1


def test_a_connection_that_is_made_anew_is_known_by_its_name(endpoint: str) -> None:
    with receiver(endpoint) as end:
        for _ in range(5):  # the new one is there before the receiver has noticed that the old one is gone
            with sender(endpoint, identity=b"node-1") as one:
                one.send([b"x"])
                assert taken(end)[0].peer == b"node-1"
                end.ack(b"node-1", [0])
                assert acknowledged(one) == [0]


def test_the_bound_pushes_out_the_oldest_and_counts_their_frames(endpoint: str) -> None:
    with sender(endpoint, limit=1000) as one:
        for k in range(20):
            one.send([bytes([k]) * 50, bytes([k]) * 50])
        assert one.waiting == 10
        assert one.bytes_kept == 1000
        assert one.pushed_out == 20
        assert one.kept()[0] == bytes([10]) * 50


def test_one_message_beyond_the_bound_is_still_tried(endpoint: str) -> None:
    with sender(endpoint, limit=10) as one:
        one.send([b"a"])
        one.send([b"x" * 100])
        assert (one.waiting, one.pushed_out) == (1, 1)


def test_what_is_safe_elsewhere_is_forgotten(endpoint: str) -> None:
    with sender(endpoint) as one:
        one.send([b"a", b"b"])
        one.send([b"c"])
        assert one.oldest_s() >= 0
        assert one.kept() == [b"a", b"b", b"c"]
        assert one.forget() == [0, 1]
        assert (one.waiting, one.bytes_kept, one.oldest_s(), one.pushed_out) == (0, 0, 0.0, 0)
        assert one.send([b"d"]) == 2


def test_with_nobody_listening_nothing_ever_blocks(endpoint: str) -> None:
    began = time.monotonic()
    one = Sender(endpoint, limit=1 << 20, identity=b"me")
    for _ in range(120_000):  # more than the queue of the socket takes
        one.send([b"0123456789"])
    one.control(GOODBYE)
    assert one.receive() == ([], [])
    one.resend_if_due()
    one.close(linger_ms=0)
    assert time.monotonic() - began < 20
    assert one.pushed_out + one.waiting == 120_000


def test_acknowledging_somebody_who_is_gone_harms_nobody(endpoint: str) -> None:
    with receiver(endpoint) as end:
        end.ack(b"never was", [1])
        end.control(b"never was", STOP)
        with sender(endpoint) as one:
            one.send([b"a"])
            taken(end)
        end.ack(b"me", [0])


def test_questions_answers_and_words_arrive_both_ways(endpoint: str) -> None:
    with receiver(endpoint) as end, sender(endpoint) as one:
        one.control(QUESTION, {"who": "é"})
        (question,) = taken(end)
        assert (question.kind, question.body, question.frames) == (QUESTION, {"who": "é"}, [])
        end.control(question.peer, REPLY, {"role": "node"})
        end.control(question.peer, STOP)
        others: list[Message] = []
        eventually(lambda: others.extend(one.receive(10)[1]) or len(others) == 2, 10, "two words")
        assert [(m.kind, m.body) for m in others] == [(REPLY, {"role": "node"}), (STOP, None)]
        one.control(GOODBYE)
        assert taken(end)[0].kind == GOODBYE


BAD = [[b"D"], [b"D123"], [b"Qnot json"], [b"R\xff"], [b"Q" + b"[" * 100_000]]


@pytest.mark.parametrize("parts", BAD)
def test_what_is_not_ours_is_counted_by_a_receiver_and_harms_nobody(
    endpoint: str, context: zmq.Context[Any], parts: list[bytes]
) -> None:
    with receiver(endpoint) as end, context.socket(zmq.DEALER) as stranger, sender(endpoint) as one:
        stranger.connect(endpoint)
        stranger.send_multipart(parts)
        eventually(lambda: end.receive() or end.malformed == 1, 10, "the malformed message is counted")
        one.send([b"good"])
        assert taken(end)[0].frames == [b"good"]
        assert end.malformed == 1


@pytest.mark.parametrize("parts", [*BAD, [ACK + b"123"]])
def test_what_is_not_ours_is_counted_by_a_sender_and_harms_nobody(
    endpoint: str, context: zmq.Context[Any], parts: list[bytes]
) -> None:
    with context.socket(zmq.ROUTER) as stranger:
        stranger.bind(endpoint)
        with sender(endpoint) as one:
            one.send([b"a"])
            stranger.recv_multipart()
            stranger.send_multipart([b"me", *parts])
            stranger.send_multipart([b"me", ACK + bytes(8)])
            assert acknowledged(one) == [0]
            assert one.malformed == 1


def test_an_unknown_word_is_handed_on_as_it_is(endpoint: str, context: zmq.Context[Any]) -> None:
    with receiver(endpoint) as end, context.socket(zmq.DEALER) as newer:
        newer.connect(endpoint)
        newer.send(b"Z and more")
        assert taken(end)[0].kind == b"Z"
        assert end.malformed == 0


def test_a_receiver_takes_at_most_what_it_is_asked_to(endpoint: str) -> None:
    with receiver(endpoint) as end, sender(endpoint) as one:
        for _ in range(5):
            one.send([b"x"])
        eventually(lambda: wait_readable(end.socket, timeout_ms=10) == {0}, 5)
        got = end.receive(limit=2)
        assert len(got) <= 2
        eventually(lambda: got.extend(end.receive(limit=2)) or len(got) == 5, 5)


def test_a_socket_path_that_cannot_be_bound_is_a_sentence_with_a_hint() -> None:
    with pytest.raises(YprovError, match=f"longer than {MAX_IPC_PATH} bytes") as caught:
        ipc("/" + "x" * MAX_IPC_PATH)
    assert "TMPDIR" in caught.value.hint
    with pytest.raises(YprovError):
        ipc("/" + "é" * (MAX_IPC_PATH // 2 + 1))  # bytes, not letters


def test_the_longest_socket_path_really_binds(tmp_path: Path) -> None:
    folder = tempfile.mkdtemp(prefix="yprov-")
    try:
        with receiver(ipc(folder + "/" + "s" * (MAX_IPC_PATH - len(folder) - 1))):
            pass
    finally:
        shutil.rmtree(folder)
