"""Reading what is checked: strict JSON, and checks that never raise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def guarded(problems: list[str], name: str, check: Callable[[], Any]) -> Any:
    """What `check` returns; None, and a problem, when it fails in a way that nobody thought of."""
    try:
        return check()
    except OSError as e:
        problems.append(f"{name}: cannot read {e.filename or 'it'}: {e.strerror or e}")
    except Exception as e:  # noqa: BLE001  damaged files raise anything, and a checker must say so
        problems.append(f"{name}: cannot be checked: {type(e).__name__}: {e}")
    return None


def strict_json(data: bytes) -> Any:
    """JSON as RFC 8259 has it. Raises ValueError for NaN, Infinity and keys that stand twice in one object."""
    def constant(name: str) -> Any:
        raise ValueError(f"`{name}` is no JSON")

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(items)
        if len(out) < len(items):
            seen: set[str] = set()
            twice = next(k for k, _ in items if k in seen or seen.add(k))  # type: ignore[func-returns-value]
            raise ValueError(f"the key `{twice}` stands twice in one object")
        return out

    return json.loads(data.decode("utf-8"), parse_constant=constant, object_pairs_hook=pairs)


def read_json(run_dir: Path, name: str, problems: list[str]) -> Any:
    try:
        return strict_json((run_dir / name).read_bytes())
    except FileNotFoundError:
        problems.append(f"{name}: is missing")
    except ValueError as e:
        problems.append(f"{name}: is not JSON: {e}")
    return None


def plain(value: Any) -> Any:
    """A PROV-JSON value without its type: `{"$": "yp:Run", "type": "xsd:QName"}` is `yp:Run`."""
    return value.get("$") if isinstance(value, dict) else value


def number(value: Any) -> float | None:
    """A PROV-JSON value as a number."""
    value = plain(value)
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def records(doc: Any, kind: str) -> dict[str, dict[str, Any]]:
    """The records of one kind that are any."""
    found = doc.get(kind) if isinstance(doc, dict) else None
    return {k: r for k, r in found.items() if isinstance(r, dict)} if isinstance(found, dict) else {}
