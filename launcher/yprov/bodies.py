"""What is sent to a service: JSON, or one file as `multipart/form-data` (RFC 7578)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from yprovd.errors import YprovError

_BLOCK = 1 << 20


class Body(Protocol):
    """What is sent; each iteration begins anew, so that it can be sent again. `kind`: its `Content-Type`."""

    kind: str
    size: int

    def __iter__(self) -> Iterator[bytes]: ...


class Json:
    """A JSON document, as bytes or as a value."""

    kind = "application/json"

    def __init__(self, value: Any) -> None:
        self._data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.size = len(self._data)

    def __iter__(self) -> Iterator[bytes]:
        yield self._data


class Multipart:
    """One file as `multipart/form-data`, from memory or, in blocks, from the disk."""

    def __init__(self, field: str, name: str, kind: str, source: bytes | Path, boundary: str) -> None:
        quoted = name.translate({ord('"'): "%22", ord("\r"): "%0D", ord("\n"): "%0A"}).encode("utf-8", "replace")
        self._head = (f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="'.encode() + quoted
                      + f'"\r\nContent-Type: {kind}\r\n\r\n'.encode())
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self._source = source
        length = len(source) if isinstance(source, bytes) else source.stat().st_size
        self._length = length
        self.size = len(self._head) + length + len(self._tail)
        self.kind = f"multipart/form-data; boundary={boundary}"

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        if isinstance(self._source, bytes):
            yield self._source
        else:
            yield from self._blocks(self._source)
        yield self._tail

    def _blocks(self, path: Path) -> Iterator[bytes]:
        left = self._length  # a file that grows meanwhile would break the request
        try:
            with open(path, "rb") as f:
                while left and (block := f.read(min(left, _BLOCK))):
                    left -= len(block)
                    yield block
        except OSError as e:
            raise YprovError(f"cannot read `{path}`: {e.strerror}") from None
        if left:
            raise YprovError(f"`{path}` became shorter while it was sent")
