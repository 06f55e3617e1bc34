"""Who made a crate and what may be done with it, as the configuration says; what it does not say is said to be so.

RO-Crate wants a licence, and recommends an author with an affiliation and a publisher with an address. Where none was
configured the entity that stands there states just that (`No licence was stated`); the place of an organisation or an
address is taken by `NOT_STATED`, which is nobody's: the crate is complete, and claims nothing that nobody said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from yprovd.stitch.document import clean, slug
from yprovd.stitch.entities import Entities, address, is_web
from yprovd.stitch.facts import part

Reference = dict[str, str]
NOT_STATED = "https://w3id.org/yprov/ns#NotStated"


def add_person(entities: Entities, settings: Mapping[str, Any], login: Any) -> Reference | None:
    """The user: by ORCID where there is one, else by name, else by login."""
    person = part(settings, "user")
    name = str(person.get("name") or login or "")
    where = address(person)
    if not name and where is None:
        return None
    return entities.add(where or f"#user-{slug(name)}", "Person", name=clean(name or str(where)),
                        affiliation=add_publisher(entities, settings))


def add_publisher(entities: Entities, settings: Mapping[str, Any]) -> Reference:
    """The organisation, by ROR where there is one."""
    organisation = part(settings, "organisation")
    name = str(organisation.get("name") or organisation.get("id") or "")
    if not name:
        return entities.add(NOT_STATED, "Organization", name="not stated", url=NOT_STATED, description=(
            "A placeholder: no organisation was named. Set `organisation:` in the configuration of yprov"))
    where = address(organisation)
    return entities.add(where or "#organisation", "Organization", name=clean(name), url=where or NOT_STATED)


def add_licence(entities: Entities, settings: Mapping[str, Any]) -> Reference:
    text = str(settings.get("licence") or "")
    if not text:
        return entities.add("#licence", "CreativeWork", name="No licence was stated", description=(
            "This archive grants nobody any right; set `licence:` in the configuration of yprov to do so"))
    if is_web(text):
        return entities.add(text, "CreativeWork", name=clean(text), description="The licence of this archive")
    if re.fullmatch(r"[A-Za-z0-9.+-]+", text):
        return entities.add(f"https://spdx.org/licenses/{text}", "CreativeWork", name=text,
                            description="The licence of this archive, by its SPDX identifier")
    return entities.add("#licence", "CreativeWork", name=clean(text), description="The licence of this archive")
