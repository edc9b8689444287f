"""Secrets taken out of what guests wrote, before it leaves this server in a log bundle.

Rather too much is taken than too little. Every rule runs in time that grows with the text alone,
whatever a guest put into it: no part of a pattern that repeats is followed by what it could match.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

HIDDEN = "***"

_SHORTEST_KNOWN = 4
"""A secret that is known and shorter is left to the rules: its letters are in every other word."""

_QUOTE = r"(?:\\{0,4}[\"']|&quot;|&\#34;|&apos;|&\#39;)"
_NAMES = (
    r"(?:pass(?:word|wd|phrase|code)|pwd|secret|token|credential|protected[_.-]?settings"
    r"|(?:account|api|access|private|shared|storage|encryption)[_.-]?key"
    r"|shared[_.-]?access[_.-]?signature)"
)
_IN_AN_OPTION = "|".join(rf"(?<=-[\w-]{{{length}}})" for length in range(33))
"""A dash is before it in the same word. Looked for from the name, since in a long row of dashes
each of them could begin an option."""

_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), to)
    for pattern, to in (
        # PEM: without a beginning (the end of a longer file), whole, without an end.
        (
            r"\A(?:(?!-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY).)*?"
            r"(-----END [A-Z0-9 ]{0,40}PRIVATE KEY)",
            rf"{HIDDEN}\n\1",
        ),
        (
            r"(-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,20}-----).*?"
            r"(?:(-----END [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,20}-----)|\Z)",
            rf"\1{HIDDEN}\2",
        ),
        # Headers, whole: "Authorization: SharedKey account:signature", cookies.
        (
            rf"((?:authorization|cookie|x-ms-encryption-key|x-api-key){_QUOTE}?[ \t]{{0,8}}[:=])"
            r"[^\r\n]+",
            rf"\1 {HIDDEN}",
        ),
        (r"\b(bearer|sharedkey(?:lite)?)[ \t]+[^\s\"'<>]+", rf"\1 {HIDDEN}"),
        # A value in quotes, of JSON in JSON and XML too: up to the same kind of quote.
        (
            rf"({_NAMES}[\w.-]{{0,64}}{_QUOTE}?[ \t]{{0,8}}[:=][ \t\r\n]{{0,8}})"
            r"(\\{0,4}\"|\\{0,4}'|&quot;|&\#34;|&apos;|&\#39;)(?!\2).*?(?:(?<!\\)(?=\2)|(?=\n)|\Z)",
            rf"\1\2{HIDDEN}",
        ),
        (rf"(<[\w:.-]{{0,64}}{_NAMES}[\w.-]{{0,64}}[^<>]{{0,256}}>)[^<]+", rf"\1{HIDDEN}"),
        (r"(<Data>)[^<]+", rf"\1{HIDDEN}"),
        # One without quotes; an access key's ends at the next field.
        (r"((?:account|shared[_.-]?access)[_.-]?key[ \t]{0,8}=)[^\s;\"'<>]+", rf"\1{HIDDEN}"),
        (
            rf"({_NAMES}[\w.-]{{0,64}}[ \t]{{0,8}}[:=][ \t]{{0,8}})"
            rf"(?!{_QUOTE}|\*{{3}};)[^\s\"'<>]+",
            rf"\1{HIDDEN}",
        ),
        # Command lines: --password VALUE, curl -u USER:VALUE.
        (
            rf"(?={_NAMES})(?:{_IN_AN_OPTION})({_NAMES}[\w-]{{0,32}}[ \t]{{1,8}})"
            r"[^\s\"'<>-][^\s\"'<>]*",
            rf"\1{HIDDEN}",
        ),
        (
            r"(\s(?:-u|-U|--user|--proxy-user)[ \t=]{1,8}[^\s:\"'<>]{1,256}:)[^\s\"'<>]+",
            rf"\1{HIDDEN}",
        ),
        # A proxy without a scheme; URLs have a rule of their own below.
        (
            rf"(proxy[\w.-]{{0,32}}{_QUOTE}?[ \t]{{0,8}}[:=][ \t]{{0,8}}{_QUOTE}?"
            r"[^\s:/@\"'<>]{1,128}:)(?!//)[^\s\"'<>]{1,256}(?=@)",
            rf"\1{HIDDEN}",
        ),
        # A SAS's signature, also in a URL within a URL.
        (r"((?:(?<![a-z])|%(?:25)?(?:3F|26))sig(?:=|%3D|%253D))[^&\s\"'<>;]+", rf"\1{HIDDEN}"),
        # A JSON web token, wherever it stands.
        (r"\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]+){1,4}", HIDDEN),
    )
)

_PROTECTED_OBJECT = re.compile(
    rf"protected_?settings{_QUOTE}?[ \t]{{0,8}}:[ \t\r\n]{{0,8}}(?=[{{\[])", re.IGNORECASE
)
_USER_INFO = re.compile(
    r"\b([a-z][a-z0-9+.-]{1,20}://)((?:(?![a-z][a-z0-9+.-]{1,20}://)[^\s\"'<>])+)", re.IGNORECASE
)


def redacted(text: str, known: Iterable[str] = ()) -> str:
    """`text` without secrets: passwords in URLs and settings, signatures, tokens, keys, and each of
    the `known` ones wherever it stands."""
    for secret in _spellings(known):
        text = text.replace(secret, HIDDEN)
    text = _without_protected_objects(text)
    for pattern, to in _RULES:
        text = pattern.sub(to, text)
    return _USER_INFO.sub(_without_user_info, text)


def redacted_json(value: Any, known: Iterable[str] = ()) -> Any:
    """A value of JSON with every text in it redacted; it stays what it is."""
    known = tuple(known)
    if isinstance(value, str):
        return redacted(value, known)
    if isinstance(value, dict):
        return {key: redacted_json(inner, known) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redacted_json(inner, known) for inner in value]
    return value


def _spellings(known: Iterable[str]) -> list[str]:
    """Each secret as it is and as URLs have it, the longest first: one may be in another."""
    found = {
        spelling
        for secret in known
        if len(secret) >= _SHORTEST_KNOWN
        for spelling in (secret, quote(secret), quote(secret, safe=""))
    }
    return sorted(found, key=len, reverse=True)


_PORT_DIGITS = 5
_HOST_AND_PORT = re.compile(r"[^/]@[\w.\[\]-]{1,256}:[0-9]{1,5}(?![0-9])")


def _without_user_info(match: re.Match[str]) -> str:
    """A URL without its password. One with a slash in it, which is not allowed, is told by what
    stands before the slash being no port, or by a host with its port behind the @."""
    scheme, rest = match.groups()
    authority, slash, path = rest.partition("/")
    if "@" not in authority:
        _, colon, port = authority.rpartition(":")
        if not (slash and colon and "@" in path):
            return match.group()
        if port.isdigit() and len(port) <= _PORT_DIGITS and not _HOST_AND_PORT.search(path):
            return match.group()
        authority, path = rest, ""
        slash = ""
    user_info, _, place = authority.rpartition("@")
    user, colon, _ = user_info.partition(":")
    shown = f"{user}:{HIDDEN}" if colon else HIDDEN
    return f"{scheme}{shown}@{place}{slash}{path}"


def _without_protected_objects(text: str) -> str:
    """Without what stands in brackets behind a `protectedSettings`: it nests, which patterns
    cannot follow."""
    parts: list[str] = []
    position = 0
    while match := _PROTECTED_OBJECT.search(text, position):
        end = _closing(text, match.end())
        parts += text[position : match.end()], f'"{HIDDEN}"'
        position = end
    return "".join((*parts, text[position:]))


def _closing(text: str, start: int) -> int:
    """Behind the bracket that closes the one at `start`; the text's end when none does."""
    depth, quoted, skip = 0, False, False
    for index in range(start, len(text)):
        character = text[index]
        if skip:
            skip = False
        elif character == "\\":
            skip = True
        elif character == '"':
            quoted = not quoted
        elif not quoted and character in "{[":
            depth += 1
        elif not quoted and character in "}]":
            depth -= 1
            if depth == 0:
                return index + 1
    return len(text)
