"""What the document says of a run that another tool recorded and `yprov import` read: where it is from, and which of
its series and files are told by which original. Pure.

The key `imported` of `record.run` is described in `yprov.importing_spool`, which writes it. The series are derived from
the original documents (`original/<name>`), which lie in the archive; a program of its own, `software/<tool>`, recorded
the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from yprovd.stitch.document import json_text, qname, slug
from yprovd.stitch.facts import lines_of, part

if TYPE_CHECKING:
    from prov.model import QualifiedName

    from yprovd.stitch.document import Document

#: Of more ranks the first ones' documents have records; all of them lie in the archive, with their checksums.
MOST_ORIGINALS = 100


class Originals:
    """`about`: the key `imported`, empty for a run of our own. Damage in it is read as absence."""

    def __init__(self, about: Mapping[str, Any]) -> None:
        self._about = about
        self._tool = f"{about.get('tool') or ''} {about.get('layout') or ''}".strip()
        rows = about.get("sources")
        self._sources = {(r[0], r[1]): str(r[2]) for r in (rows if isinstance(rows, list) else ())
                         if isinstance(r, list) and len(r) == 3 and all(isinstance(x, str | None) for x in r)}
        self._copied = part(about, "copied_from")
        documents = about.get("documents")
        self._documents = [d for d in (documents if isinstance(documents, list) else ()) if isinstance(d, dict)]

    def run_attributes(self) -> dict[str, Any]:
        places = self._about.get("from")
        return {
            "yp:importedFrom": lines_of(str(p) for p in places) if isinstance(places, list) else None,
            "yp:importedTool": self._tool or None,
            "yp:originalName": self._about.get("name"),
            "yp:originalRunId": self._about.get("run_id"),
            "yp:originalDocuments": len(self._documents) or None,
            "yp:originalMetrics": self._about.get("metrics"),
        }

    def source(self, context: str | None, metric: str) -> str | None:
        return self._sources.get((context, metric))

    def copied_from(self, path: str) -> str | None:
        told = self._copied.get(path)
        return str(told) if told else None

    def describe(self, doc: Document, run: QualifiedName, telemetry: QualifiedName) -> None:
        """Adds the original documents, and the program that recorded the run."""
        if not self._tool:
            return
        tool = doc.agent(f"software/{slug(self._tool)}", {
            "prov:type": qname("prov:SoftwareAgent"), "prov:label": self._tool,
        })
        doc.associated(run, tool, role="recorder")
        for it in self._documents[:MOST_ORIGINALS]:
            path = str(it.get("path") or "")
            about = part(it, "about")
            original = doc.entity(f"original/{slug(path.rpartition('/')[2])}", {
                "prov:label": path.rpartition("/")[2] or "original", "yp:type": qname("yp:OriginalDocument"),
                "prov:location": path, "yp:sha256": it.get("sha256"), "yp:sizeBytes": it.get("bytes"),
                "yp:rank": it.get("rank"), "yp:host": about.get("host"),
                "yp:about": json_text(dict(about)) if about else None,
            })
            doc.derived(telemetry, original)
