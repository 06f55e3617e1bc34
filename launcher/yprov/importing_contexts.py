"""The contexts of a document of yProv4ML: which activity is which, and which of them an entity belongs to."""

from __future__ import annotations

from typing import Any

from yprov.importing_values import records, text_of


class ContextNames:
    """`used`: the entities that an activity used. `activity_of`: the activity that used or made an entity."""

    def __init__(self, document: dict[str, Any], root: str) -> None:
        self._root = root
        self._above: dict[str, str] = {}
        for _name, record in records(document, "wasInformedBy"):
            self._above.setdefault(text_of(record.get("informed")), text_of(record.get("informant")))
        self.used: set[str] = set()
        self.activity_of: dict[str, str] = {}
        for relation in ("used", "wasGeneratedBy"):
            for _name, record in records(document, relation):
                entity = text_of(record.get("entity"))
                self.activity_of.setdefault(entity, text_of(record.get("activity")))
                if relation == "used":
                    self.used.add(entity)

    def of(self, entity: str) -> str | None:
        return self.path(self.activity_of.get(entity, self._root))

    def path(self, activity: str) -> str | None:
        """`TRAINING/augment`; None for the run itself."""
        parts: list[str] = []
        seen: set[str] = set()
        while activity and activity != self._root and activity not in seen:
            seen.add(activity)
            above = self._above.get(activity, "")
            if not (above and activity.endswith(f"//{above}")):  # else: a source within the context
                parts.append(activity.removeprefix("context:").removeprefix("Context."))
            activity = above
        return "/".join(reversed(parts)) or None
