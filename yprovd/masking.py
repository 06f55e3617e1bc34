"""Frames of the job's processes without secrets, before anybody keeps them: what a script logs is the user's, and may
hold a token as a parameter's value, in a name, in a path.
"""

from __future__ import annotations

import struct
from typing import Any

from yprovd.errors import WireError
from yprovd.secrets import Masker, hidden, known_values
from yprovd.shapes import is_secret
from yprovd.wire import Frame, Kind, from_json, pack, to_json

_METRICS = struct.Struct("<II")
#: Bytes of a row's columns in a METRICS payload, and of what stands before them (`yprovd.wire`).
_ROW, _HEAD = 28, 8
_JSON = (Kind.SOURCE, Kind.EVENTS, Kind.FILE, Kind.LOSS)


def masked_frames(frames: list[Frame], data: bytes, masker: Masker) -> bytes:
    """`data`, a message that holds these frames, without secrets; the very same object where there is none, which is
    found by a look at its bytes. Raises WireError for a payload that is not what its kind promises."""
    payloads = [_masked_payload(frame, masker) for frame in frames]
    if all(p is None for p in payloads):
        return data
    return b"".join(
        pack(f.kind, f.source, f.seq, f.wall_ns, f.mono_ns, bytes(f.payload) if payload is None else payload)
        for f, payload in zip(frames, payloads, strict=True))


def _masked_payload(frame: Frame, masker: Masker) -> bytes | None:
    """The payload without secrets, None where it may stay."""
    text = bytes(frame.payload)
    begin = 0
    if frame.kind == Kind.METRICS:
        if len(text) < _HEAD:
            raise WireError("a metrics block is cut short")
        begin = _HEAD + _ROW * _METRICS.unpack_from(text)[0]
    elif frame.kind not in _JSON:
        return None
    if not masker.suspects(text[begin:]):
        return None
    before = from_json(text[begin:])
    after = [_event(row, masker) for row in before] if frame.kind == Kind.EVENTS else masker.document(before)
    table = to_json(after)
    if table == to_json(before):
        return None
    if frame.kind == Kind.METRICS:
        return _METRICS.pack((begin - _HEAD) // _ROW, len(table)) + text[_HEAD:begin] + table
    return table


def _event(row: Any, masker: Masker) -> Any:
    """A parameter's name tells of its value, as the key of a mapping does."""
    out = masker.document(row)
    if isinstance(row, dict) and row.get("e") == "param" and is_secret(str(row.get("name", ""))):
        out["value"] = hidden(str(row["name"]), row.get("value"))
    return out


def values_of_process(environ: bytes) -> set[str]:
    """The secrets in a process's environment, as /proc/<pid>/environ has it."""
    pairs = (one.partition("=") for one in environ.decode("utf-8", "surrogateescape").split("\0"))
    return known_values({name: value for name, _, value in pairs})
