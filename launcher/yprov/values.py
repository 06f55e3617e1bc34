"""What a script may log, as plain values: numbers, whole numbers, and what JSON can hold. Loaded with `import yprov`.

What is none raises TypeError or ValueError, whose text the user reads: it says what was given.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

TYPE_CHECKING = False  # importing typing is slow
if TYPE_CHECKING:
    from typing import Any

#: Whole numbers are kept in 64 bits; the least of them stands for "no step" (`yprovd.wire.NO_STEP`).
INT64 = 1 << 63
#: types.SimpleNamespace, without loading `types`.
_NAMESPACE = type(sys.implementation)


def number_of(value: Any) -> float:
    """Anything that is one number, as a float; numpy and torch scalars by their `item()`. Raises TypeError."""
    if not isinstance(value, (int, float)) and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, (str, bytes, bytearray)):
        raise TypeError(f"not a number: {value!r}")
    return float(value)


def index_of(value: Any) -> int:
    """A whole number of 64 bits; also 3.0 and numpy's and torch's. Raises TypeError or ValueError."""
    number = number_of(value)
    if number != number // 1:
        raise ValueError(f"not a whole number: {value!r}")
    whole = int(value)
    if not -INT64 < whole < INT64:
        raise ValueError(f"too large: {number:g}")
    return whole


def plain(value: Any, depth: int = 0) -> Any:
    """A value as JSON can hold it: scalars and containers of them as they are, arrays as lists, anything else as its
    text."""
    if value is None or isinstance(value, (bool, int, float, str)):
        value = value if type(value) in (bool, int, float, str, type(None)) else _base(value)
        # Python refuses to write an integer of more than 4300 digits as a decimal number.
        return hex(value) if type(value) is int and value.bit_length() > 4096 else value
    if depth < 8:
        if isinstance(value, Mapping):
            return {str(k): plain(v, depth + 1) for k, v in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [plain(v, depth + 1) for v in value]
        if hasattr(value, "item") and getattr(value, "size", None) == 1:
            return plain(value.item(), depth + 1)
        if callable(getattr(value, "tolist", None)) and getattr(value, "nbytes", 1 << 20) <= 65536:
            return plain(value.tolist(), depth + 1)
    return str(value)


def _base(value: Any) -> Any:
    """An enum, a numpy float64 (which is a float) and other subclasses, as the plain type below them."""
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value) if kind is not str else str.__str__(value)
    return str(value)


def flat(params: Any) -> list[tuple[str, Any]]:
    """(name, value) of each parameter in a mapping, a dataclass instance, a namespace (argparse's) or any object with
    attributes of its own; what is below a name gets dotted names. Raises TypeError for what holds no parameters."""
    held = _held(params)
    if held is None and not isinstance(params, type) and callable(getattr(params, "items", None)):
        held = dict(params.items())
    if held is None:
        own = None if isinstance(params, type) else getattr(params, "__dict__", None)
        if not isinstance(own, dict) or callable(params):  # a function, a module of a network: settings of nobody
            raise TypeError(f"not a mapping, a namespace or a dataclass instance: {params!r:.100}")
        held = _public(own)
    return _flat(held, "")


def _flat(held: Mapping[Any, Any], prefix: str) -> list[tuple[str, Any]]:
    out: list[tuple[str, Any]] = []
    for name, value in held.items():
        if below := _held(value):
            out += _flat(below, f"{prefix}{name}.")
        else:
            out.append((f"{prefix}{name}", value))
    return out


def _held(value: Any) -> Mapping[Any, Any] | None:
    """What is certain to be nothing but a holder of names and values, as a mapping; None for anything else."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, type):
        return None
    if (fields := getattr(value, "__dataclass_fields__", None)) is not None:
        return {name: getattr(value, name) for name in fields if hasattr(value, name)}
    argparse = sys.modules.get("argparse")
    if isinstance(value, _NAMESPACE) or (argparse is not None and isinstance(value, argparse.Namespace)):
        return _public(vars(value))
    return None


def _public(own: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in own.items() if not name.startswith("_")}
