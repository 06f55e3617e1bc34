"""Where the collector is met: its addresses, its keys, and nobody else."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import eventually
from yprovd.config import COLLECTOR_FILE, KEY_FILE
from yprovd.errors import YprovError
from yprovd.rendezvous import (
    addresses,
    announce,
    endpoint,
    lookup,
    read_keys,
    write_keys,
)
from yprovd.transport import DATA, QUESTION, REPLY, Keys, Receiver, Sender, new_keys


@contextlib.contextmanager
def listening(run_dir: Path, keys: Keys) -> Iterator[Receiver]:
    receiver = Receiver("tcp://127.0.0.1:0", keys=keys)
    announce(run_dir, receiver.port, ["127.0.0.1"])
    try:
        yield receiver
    finally:
        receiver.close()


@contextlib.contextmanager
def sending(run_dir: Path, keys: Keys | None, name: bytes = b"node-1") -> Iterator[Sender]:
    sender = Sender(functools.partial(endpoint, run_dir), limit=1 << 20, identity=name, keys=keys)
    try:
        yield sender
    finally:
        sender.close()


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    made = new_keys()
    write_keys(tmp_path, made)
    return made


def heard(receiver: Receiver) -> list[bytes]:
    return [m.kind for m in receiver.receive()]


def test_with_the_run_s_keys_frames_arrive_and_are_acknowledged(tmp_path: Path, keys: Keys) -> None:
    with listening(tmp_path, keys) as receiver, sending(tmp_path, read_keys(tmp_path)) as sender:
        number = sender.send([b"frame"])
        (message,) = eventually(receiver.receive)
        assert (message.kind, message.frames) == (DATA, [b"frame"])
        receiver.ack(message.peer, [message.number])
        assert eventually(lambda: sender.receive(50)[0]) == [number]


@pytest.mark.parametrize("wrong", ["other keys", "no keys", "plain bytes"])
def test_without_them_nothing_arrives_and_the_others_are_not_disturbed(
    tmp_path: Path, keys: Keys, wrong: str
) -> None:
    with contextlib.ExitStack() as stack:
        receiver = stack.enter_context(listening(tmp_path, keys))
        if wrong == "plain bytes":
            client = stack.enter_context(socket.create_connection(("127.0.0.1", receiver.port)))
            client.sendall(b"GET / HTTP/1.1\r\n\r\n" + os.urandom(4096))
        else:
            stranger = stack.enter_context(
                sending(tmp_path, new_keys() if wrong == "other keys" else None, b"stranger"))
            stranger.send([b"frame"])
        friend = stack.enter_context(sending(tmp_path, keys, b"friend"))
        kinds: list[bytes] = []
        for _ in range(3):  # three round trips of the friend: the stranger had its time
            friend.control(QUESTION, {})
            message = eventually(receiver.receive)[0]
            assert message.peer == b"friend"
            kinds.append(message.kind)
            receiver.control(message.peer, REPLY, {})
            eventually(lambda: friend.receive(50)[1])
        assert kinds == [QUESTION] * 3


def test_a_collector_that_comes_back_on_another_port_is_found(tmp_path: Path, keys: Keys) -> None:
    with sending(tmp_path, keys) as sender:
        assert not sender.connected
        sender.send([b"kept"])
        with listening(tmp_path, keys) as first:
            sender.reconnect()
            assert eventually(first.receive)[0].frames == [b"kept"]
            before = first.port
        with listening(tmp_path, keys) as second:
            assert second.port != before
            sender.reconnect()
            assert eventually(second.receive)[0].frames == [b"kept"]


def test_the_keys_are_the_owner_s_only(tmp_path: Path, keys: Keys) -> None:
    assert read_keys(tmp_path) == keys
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [None, b"", b"one line", b"a\nb\nc"])
def test_keys_that_cannot_be_read_are_an_error_with_a_hint(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / KEY_FILE).write_bytes(content)
    with pytest.raises(YprovError, match="keys") as e:
        read_keys(tmp_path)
    assert "shared" in e.value.hint or "share" in e.value.hint


@pytest.mark.parametrize("content", [None, "", '{"port": 1', '{"port": 1, "addresses": []}', "nonsense\n"])
def test_a_collector_that_is_not_announced_yet_has_no_endpoint(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / COLLECTOR_FILE).write_text(content)
    assert lookup(tmp_path) is None
    assert endpoint(tmp_path) == ""


def test_the_first_address_that_answers_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.2", 0)) as other:
        port = server.getsockname()[1]
        announce(tmp_path, port, ["127.0.0.2", "127.0.0.1"])
        assert other.getsockname()[1] != port
        assert endpoint(tmp_path) == f"tcp://127.0.0.1:{port}"


def test_nobody_answers_no_endpoint(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    announce(tmp_path, port, ["127.0.0.1"])
    assert endpoint(tmp_path) == ""


def test_an_unknown_interface_is_an_error_that_names_the_known() -> None:
    with pytest.raises(YprovError, match="`hsn7`") as e:
        addresses("hsn7")
    assert "lo" in e.value.hint


def test_a_named_interface_gives_its_own_addresses() -> None:
    assert "127.0.0.1" in addresses("lo")


def test_the_loopback_is_announced_only_where_there_is_nothing_else() -> None:
    found = addresses()
    assert found
    assert "127.0.0.1" not in found or all(a.startswith("127.") or a == "::1" for a in found)


def test_the_fabric_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    from yprovd import rendezvous

    monkeypatch.setattr(rendezvous, "_ipv4", lambda: [
        ("docker0", "172.17.0.1"), ("eth0", "10.0.0.1"), ("lo", "127.0.0.1"), ("hsn0", "10.1.0.1"),
        ("bond0", "10.2.0.1")])
    monkeypatch.setattr(rendezvous, "_ipv6", lambda root: [("hsn0", "fd00::1")])
    monkeypatch.setattr(rendezvous, "_of_host_name", lambda: {"10.2.0.1"})
    assert addresses() == ["10.1.0.1", "fd00::1", "10.2.0.1", "10.0.0.1", "172.17.0.1"]
