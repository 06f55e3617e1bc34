"""Identifiers of people, organisations and licences that a user writes down: is their form right?

ORCID (https://support.orcid.org, "Structure of the ORCID Identifier"): 16 digits in groups of four, of which the last
is a check digit by ISO/IEC 7064 mod 11-2, with X for 10. ROR (https://ror.readme.io/docs/identifier): a 0, six
characters of Crockford's base 32, and two check digits by ISO/IEC 7064 mod 97-10. Licences: expressions of SPDX
(https://spdx.github.io/spdx-spec/v2.3/SPDX-license-expressions). Nobody is asked whether such a one was ever given.
"""

from __future__ import annotations

import difflib
import re

from yprovd.errors import YprovError

#: Those that people choose for data, models and programs. SPDX has 700, so that another one need not be a mistake.
LICENCES = (
    "0BSD", "AFL-3.0", "AGPL-3.0-only", "AGPL-3.0-or-later", "Apache-2.0", "Artistic-2.0", "BSD-2-Clause",
    "BSD-3-Clause", "BSD-3-Clause-Clear", "BSL-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-NC-4.0", "CC-BY-NC-ND-4.0",
    "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC0-1.0", "CDLA-Permissive-1.0",
    "CDLA-Permissive-2.0", "CDLA-Sharing-1.0", "CECILL-2.1", "ECL-2.0", "EPL-2.0", "EUPL-1.2", "GFDL-1.3-or-later",
    "GPL-2.0-only", "GPL-2.0-or-later", "GPL-3.0-only", "GPL-3.0-or-later", "ISC", "LGPL-2.1-only",
    "LGPL-2.1-or-later", "LGPL-3.0-only", "LGPL-3.0-or-later", "MIT", "MIT-0", "MPL-2.0", "NCSA", "OGL-UK-3.0",
    "ODbL-1.0", "ODC-By-1.0", "OSL-3.0", "PDDL-1.0", "PostgreSQL", "Unlicense", "W3C", "WTFPL", "Zlib",
)
_BY_LOWER = {name.lower(): name for name in LICENCES}
_ADDRESS = re.compile(r"https?://[^\s<>\"{}|\\^`]+")
_ORCID = re.compile(r"(?:(?:https?://)?(?:www\.)?orcid\.org/)?((?:\d{4}-){3}\d{3}[\dX])")
_ROR = re.compile(r"(?:(?:https?://)?(?:www\.)?ror\.org/)?(0[a-hj-km-np-tv-z0-9]{6}\d{2})")
_SITE = re.compile(r"(?:https?://)?(?:www\.)?(?:orcid|ror)\.org(?:/|$)", re.IGNORECASE)
_BASE_32 = "0123456789abcdefghjkmnpqrstvwxyz"
_SPDX = re.compile(r"(?:DocumentRef-[A-Za-z0-9.-]+:)?[A-Za-z0-9][A-Za-z0-9.-]*\+?")


def check_person(where: str, text: str) -> None:
    """Raises YprovError for what is neither an ORCID nor another web address."""
    hint = "id: https://orcid.org/0000-0002-1825-0097"
    if (found := _ORCID.fullmatch(text)) is not None:
        total = 0
        for digit in found[1].replace("-", "")[:-1]:
            total = (total + int(digit)) * 2
        wanted = "0123456789X"[(12 - total % 11) % 11]
        if found[1][-1] != wanted:
            raise YprovError(f"{where} is no ORCID: the check digit of `{text}` would be {wanted}",
                             hint="is a digit mistyped? copy it from https://orcid.org")
    elif _SITE.match(text) or not _ADDRESS.fullmatch(text):
        raise YprovError(f"{where} must be an ORCID or another web address, not `{text}`", hint=hint)


def check_organisation(where: str, text: str) -> None:
    """Raises YprovError for what is neither a ROR nor another web address."""
    hint = "id: https://ror.org/02mhbdp94"
    if (found := _ROR.fullmatch(text)) is not None:
        number = 0
        for character in found[1][:7]:
            number = number * 32 + _BASE_32.index(character)
        wanted = f"{98 - number * 100 % 97:02d}"
        if found[1][7:] != wanted:
            raise YprovError(f"{where} is no ROR: the check digits of `{text}` would be {wanted}",
                             hint="is a character mistyped? copy it from https://ror.org")
    elif _SITE.match(text) or not _ADDRESS.fullmatch(text):
        raise YprovError(f"{where} must be a ROR or another web address, not `{text}`", hint=hint)


def licence(where: str, text: str) -> str:
    """A licence as it is recorded: an address, or an SPDX expression with identifiers in their own case. Raises
    YprovError for what can be neither; an identifier that we do not know may be one (`unknown_licence`)."""
    if _ADDRESS.fullmatch(text):
        return text
    words = re.findall(r"[^\s()]+", text)
    names = words[::2]
    if len(words) % 2 == 0 or set(words[1::2]) - {"AND", "OR", "WITH"} or not all(map(_SPDX.fullmatch, names)):
        near = _near(text.replace(" ", "-"))
        raise YprovError(f"{where} must be an SPDX identifier or a web address, not `{text}`",
                         hint=f"did you mean `{near}`?" if near
                         else "licence: CC-BY-4.0   or LicenseRef-NAME for one of your own")
    return _BY_LOWER.get(text.lower(), text)


def unknown_licence(text: str) -> str:
    """A sentence about a licence that is no mistake for sure, but looks like none of SPDX's; empty for the others."""
    plain = text.rstrip("+")
    if not text or _ADDRESS.fullmatch(text) or " " in text or "Ref-" in text or plain in LICENCES:
        return ""
    near = _near(text)
    return f"`licence: {text}` is no SPDX identifier that we know" + (f"; did you mean `{near}`?" if near else "")


def _near(text: str) -> str:
    found = difflib.get_close_matches(text.lower(), list(_BY_LOWER), n=1, cutoff=0.75)
    return _BY_LOWER[found[0]] if found else ""
