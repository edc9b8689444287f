"""Names of VMs and policies, as people type them."""

from __future__ import annotations

import unicodedata

from quiesce.model.failure import Evidence, InputFailure

MAX_CHARACTERS = 128


def valid_name(what: str, name: str) -> str:
    """`name` in Unicode's composed form (NFC), so that one word typed on two keyboards is one name.

    Allowed are 1 to 128 printable characters, spaces inside and any script included. A slash is
    refused since names are parts of addresses, and so is what cannot be seen.

    :raise InputFailure: input.name-invalid
    """
    composed = unicodedata.normalize("NFC", name)
    problem = _problem(composed)
    if problem:
        raise InputFailure(
            "input.name-invalid",
            f"This name cannot be used for a {what}: {problem}.",
            evidence=[Evidence(fact=problem, source="request", raw=ascii(composed[:200]))],
            remedy=f"Choose 1 to {MAX_CHARACTERS} printable characters without a slash, not "
            "beginning or ending with a space.",
        )
    return composed


def _problem(name: str) -> str:
    if not name:
        return "it is empty"
    if len(name) > MAX_CHARACTERS:
        return f"it has {len(name)} characters, more than {MAX_CHARACTERS}"
    if name != name.strip():
        return "it begins or ends with a space"
    if "/" in name or "\\" in name:
        return "it contains a slash"
    if name in (".", ".."):
        return "it means a folder"
    for character in name:
        if not character.isprintable():
            return f"it contains the unprintable character U+{ord(character):04X}"
    return ""
