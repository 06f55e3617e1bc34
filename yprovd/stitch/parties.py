"""The part of prov.json that says who ran it and where: job, scheduler, people, experiment, nodes, devices."""

from __future__ import annotations

from prov.model import QualifiedName

from yprovd.stitch.document import Document, qname, slug
from yprovd.stitch.facts import host_list, lines_of, part, run_id_of
from yprovd.stitch.faults import fault_lines
from yprovd.stitch.machines import device_kinds, node_attributes
from yprovd.stitch.presence import Presence
from yprovd.stitch.products import STORE
from yprovd.stitch.record import Record
from yprovd.stitch.scheduling import job_attributes, job_of
from yprovd.stitch.sources import add_surroundings


class Parties:
    """`run`: the activity of `doc` that all of them had a part in. `command`: the entity that was executed."""

    def __init__(
        self, doc: Document, record: Record, run: QualifiedName, command: QualifiedName, presence: Presence
    ) -> None:
        self.doc, self.record, self.run, self.command, self.presence = doc, record, run, command, presence
        self.about = record.run
        self.settings = part(part(record.run, "config"), "settings")

    def job(self) -> None:
        """The scheduler's allocation, as the launcher described it or as Slurm's variables do. It starts the run."""
        self._previous_attempt()
        facts = job_of(self.record)
        if not facts:
            return
        attributes = job_attributes(facts)
        record = part(part(facts, "stored"), "job")
        job = self.doc.entity("job", {"yp:type": qname("yp:Job"), **attributes, "prov:location": record.get("path"),
                                      "yp:sha256": record.get("sha256")})
        self.doc.started(self.run, job)
        name = attributes["yp:scheduler"]
        scheduler = self.doc.agent(f"software/{slug(name)}", {
            "prov:type": qname("prov:SoftwareAgent"), "prov:label": name,
            "schema:softwareVersion": facts.get("version"),
        })
        self.doc.associated(self.run, scheduler, role="scheduler")
        if script := part(part(facts, "stored"), "batch_script"):
            plan = self.doc.entity("job/script", {
                "prov:type": qname("prov:Plan"), "yp:type": qname("yp:BatchScript"), "prov:label": "batch script",
                "prov:location": script.get("path"), "yp:path": facts.get("command"),
                "yp:sha256": script.get("sha256"),
            })
            self.doc.used(self.run, plan, role="batch script")

    def _previous_attempt(self) -> None:
        """A requeued job has a run for each attempt."""
        previous = part(self.about, "previous")
        run_id = str(previous.get("run_id") or "")
        if run_id and run_id != run_id_of(self.record):
            before = self.doc.foreign_activity("previous", run_id, "run", {
                "prov:label": "the attempt before", "yp:type": qname("yp:Run"), "yp:runId": run_id,
                "prov:location": previous.get("directory"),
            })
            self.doc.informed(self.run, before)

    def people(self, plan: QualifiedName | None) -> None:
        """`plan`: the script that the user followed."""
        person, organisation = part(self.settings, "user"), part(self.settings, "organisation")
        login = self.about.get("user")
        user = None
        if name := str(person.get("name") or login or ""):
            user = self.doc.agent(f"user/{slug(str(login or name))}", {
                "prov:type": qname("prov:Person"), "prov:label": name, "schema:identifier": person.get("id"),
                "yp:login": login, "yp:uid": self.about.get("uid"),
            })
            self.doc.associated(self.run, user, plan, role="operator")
        if name := str(organisation.get("name") or organisation.get("id") or ""):
            agent = self.doc.agent(f"org/{slug(name)}", {
                "prov:type": qname("prov:Organization"), "prov:label": name,
                "schema:identifier": organisation.get("id"),
            })
            self.doc.associated(self.run, agent, role="organisation")  # a delegation is not drawn by the Explorer
            if user is not None:
                self.doc.acted_for(user, agent, self.run)

    def surroundings(self) -> None:
        if name := str(self.settings.get("experiment") or ""):
            experiment = self.doc.entity("experiment", {
                "prov:type": qname("prov:Collection"), "prov:label": name, "yp:type": qname("yp:Experiment")})
            self.doc.influenced(experiment, self.run)
            self.doc.member(experiment, self.command)  # an influence is not drawn by the Explorer
        add_surroundings(self.doc, self.run, self.about)
        if self.record.nodes or self.presence.expected:
            expected, dark = self.presence.expected, self.presence.dark_hosts
            nodes = self.doc.entity("nodes", {
                "prov:type": qname("prov:Collection"), "prov:label": "nodes", "yp:type": qname("yp:NodeSet"),
                "prov:location": f"{STORE}/nodes" if self.record.nodes else None, **node_attributes(self.record.nodes),
                "yp:expectedCount": len(expected) or None, "yp:expected": host_list(expected),
                "yp:darkCount": len(dark) if dark or expected else None, "yp:dark": host_list(dark),
                "yp:darkReasons": lines_of(self.presence.lines()),
                "yp:deviceErrors": lines_of(fault_lines(self.record.nodes)),
            })
            self.doc.used(self.run, nodes, role="nodes")
            for kind in device_kinds(self.record.nodes):
                self.doc.member(nodes, self.doc.entity(f"devices/{slug(kind.cls)}", kind.attributes()))
