"""The curves that devices recorded by themselves (TRACE frames), put together from the pieces in which they came. Pure.

A device keeps a buffer, and a daemon reads what is new in it: pieces join without overlap. A daemon that was started
again reads the buffer from its beginning: what an earlier one had delivered already is left out.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from yprovd.errors import WireError
from yprovd.model import Metric, Schema
from yprovd.wire import Frame

_HEAD = struct.Struct("<IH")
_TRACE = struct.Struct("<HI")

#: (source, schema id, position in the schema's `traced`)
Key = tuple[int, int, int]


@dataclass(frozen=True)
class Traced:
    """One gauge of one device, at the device's own rate: times that grow, and the values in the metric's unit."""

    metric: Metric
    mono_ns: npt.NDArray[np.int64]
    wall_ns: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]


class Pieces:
    """What the frames hold, gathered as bytes: an object for each of a million pieces would cost more than they do."""

    def __init__(self) -> None:
        #: of each curve: monotonic times, values, and of each piece how many there are, and wall minus monotonic clock
        self._parts: dict[Key, tuple[bytearray, bytearray, list[int], list[int]]] = {}

    def take(self, frame: Frame) -> None:
        """Add one frame's. Raises WireError or struct.error, and adds nothing then."""
        view = memoryview(frame.payload)
        schema_id, count = _HEAD.unpack_from(view)
        heads = [_TRACE.unpack_from(view, _HEAD.size + i * _TRACE.size) for i in range(count)]
        offset = _HEAD.size + count * _TRACE.size
        if offset + 16 * sum(n for _metric, n in heads) != len(view):
            raise WireError("a block of traces has a wrong length")
        clock = frame.wall_ns - frame.mono_ns
        for metric, n in heads:
            part = self._parts.setdefault((frame.source, schema_id, metric), (bytearray(), bytearray(), [], []))
            part[0].extend(view[offset:offset + 8 * n])
            part[1].extend(view[offset + 8 * n:offset + 16 * n])
            part[2].append(n)
            part[3].append(clock)
            offset += 16 * n

    def curves(
        self, schemas: Mapping[int, Schema], nodes: Mapping[int, tuple[str, str]]
    ) -> dict[tuple[str, str], list[Traced]]:
        """Those of each node, in the order of device and metric. `nodes`: source -> node, of all daemons."""
        found: dict[tuple[str, str], dict[tuple[str, str, str], list[tuple[int, int, Traced]]]] = {}
        for (source, schema_id, at), (times, values, counts, clocks) in self._parts.items():
            node, schema = nodes.get(source), schemas.get(schema_id)
            if node is None or schema is None or at >= len(schema.traced) or not times:
                continue
            mono = np.frombuffer(times, "<i8")
            curve = _in_order(Traced(schema.traced[at], mono, mono + np.repeat(np.array(clocks), counts),
                                    np.frombuffer(values, "<f8")))
            device = curve.metric.device
            key = (device.cls if device else "", device.id if device else "", curve.metric.name)
            found.setdefault(node, {}).setdefault(key, []).append((int(curve.mono_ns[-1]), source, curve))
        return {node: [_joined([curve for _last, _source, curve in sorted(parts, key=lambda p: p[:2])])
                       for _key, parts in sorted(by_key.items())]
                for node, by_key in found.items()}


def _in_order(curve: Traced) -> Traced:
    """By time (frames may stand in several files), each time once."""
    if np.all(curve.mono_ns[1:] > curve.mono_ns[:-1]):
        return curve
    _times, first = np.unique(curve.mono_ns, return_index=True)
    return Traced(curve.metric, curve.mono_ns[first], curve.wall_ns[first], curve.values[first])


def _joined(parts: list[Traced]) -> Traced:
    last = parts[0].mono_ns[-1]
    kept = [parts[0]]
    for part in parts[1:]:
        start = int(np.searchsorted(part.mono_ns, last, "right"))
        kept.append(Traced(part.metric, part.mono_ns[start:], part.wall_ns[start:], part.values[start:]))
        last = max(last, part.mono_ns[-1])
    if len(kept) == 1:
        return kept[0]
    return Traced(parts[-1].metric, *(np.concatenate([getattr(p, name) for p in kept])
                                     for name in ("mono_ns", "wall_ns", "values")))
