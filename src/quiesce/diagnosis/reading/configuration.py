"""What the agents are set to: waagent.conf, the QEMU guest agent's files and arguments, proxies."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from quiesce.diagnosis.reading.observed import assignments, observed, place, shown, text_paper
from quiesce.diagnosis.reading.services import processes, unit_environment
from quiesce.model.diagnosis import Fact
from quiesce.model.papers import Paper, Papers

CONFIGURATION = "/etc/waagent.conf"
KNOWN_HOST = "168.63.129.16"
NEEDED_COMMANDS = (
    *("guest-exec", "guest-exec-status", "guest-file-open", "guest-file-close"),
    *("guest-file-read", "guest-file-write", "guest-fsfreeze-freeze", "guest-fsfreeze-thaw"),
    *("guest-fsfreeze-status",),
)
_OFF, _ON = ("n", "no", "false", "0"), ("y", "yes", "true", "1")
_PROXY_NAME = re.compile(r"(?:https?|all)_proxy", re.IGNORECASE)
_BLOCKING = re.compile(r"(?:^|\s)(?:-b|--block-rpcs|--blacklist)[ =]([A-Za-z0-9,-]+)")
_ALLOWING = re.compile(r"(?:^|\s)(?:-a|--allow-rpcs)[ =]([A-Za-z0-9,-]+)")
_DROP_INS = re.compile(
    r"/(?:etc|run|usr/lib|lib)/systemd/system/(walinuxagent|waagent)\.service(?:\.d/[^/]+\.conf)?"
)


def configuration_facts(papers: Papers) -> Iterator[Fact]:
    yield from _waagent(papers)
    yield from _proxies(papers)
    yield from _blocked(papers)


def extensions_enabled(papers: Papers) -> bool:
    """Whether waagent.conf says so; false, too, when nobody has looked into it."""
    return any(fact.value is True for fact in _waagent(papers))


def _waagent(papers: Papers) -> Iterator[Fact]:
    paper = text_paper(papers, CONFIGURATION)
    if paper is None:
        return
    value, line = assignments(paper.text).get("Extensions.Enabled", ("", ""))
    if value.lower() in _OFF:
        words = "The agent's configuration switches extensions off."
        yield observed(papers, paper, "waagent.extensions-enabled", False, words, raw=line)
    elif value.lower() in _ON or not line:
        words = "Extensions are enabled" + ("." if line else ", as is the default.")
        yield observed(papers, paper, "waagent.extensions-enabled", True, words, raw=line)


def _proxies(papers: Papers) -> Iterator[Fact]:
    """The agent's own setting goes before the environment of its service; never mind what shells
    of people are set to."""
    own = _own_proxy(papers)
    environment = list(_environment(papers))
    of_agent = [each for each in environment if _reaches_agent(each[0], each[3])]
    exempt = ",".join(value for _, name, value, _ in of_agent if name.lower() == "no_proxy")
    set_here = [each for each in environment if _PROXY_NAME.fullmatch(each[1]) and each[2]]
    if set_here:
        where, name, value, line = set_here[-1]
        words = f"{name} is set to {shown(value)} in {place(where)}."
        said = f"{shown(value)} ({place(where)})"
        yield observed(papers, where, "net.proxy", said, words, raw=line)
    reaching = ((p, v, ln) for p, _, v, ln in reversed(set_here) if _reaches_agent(p, ln))
    chosen = own or next(reaching, None)
    if chosen is not None:
        where, value, line = chosen
        said = f"{shown(value)} ({place(where)})"
        words = f"The agent is set to use the proxy {shown(value)}."
        yield observed(papers, where, "waagent.proxy", said, words, raw=line)
        free = _is_exempt(exempt)
        words = (
            "The host's address is exempt from it."
            if free
            else "Nothing exempts the host's address."
        )
        yield observed(papers, where, "waagent.proxy-for-host", not free, words, raw=exempt or line)
    elif (paper := text_paper(papers, CONFIGURATION)) is not None:
        words = "The agent is set to use no proxy."
        yield observed(papers, paper, "waagent.proxy", "", words)


def _own_proxy(papers: Papers) -> tuple[Paper, str, str] | None:
    paper = text_paper(papers, CONFIGURATION)
    if paper is None:
        return None
    found = assignments(paper.text)
    host, line = found.get("HttpProxy.Host", ("", ""))
    port, port_line = found.get("HttpProxy.Port", ("", ""))
    if not host or host.lower() == "none":
        return None
    return paper, f"{host}:{port}" if port else host, f"{line}\n{port_line}".strip()


def _environment(papers: Papers) -> Iterator[tuple[Paper, str, str, str]]:
    """(paper, NAME, value, line) of all settings that services get."""
    for path in ("/etc/environment",):
        if (paper := text_paper(papers, path)) is not None:
            for name, (value, line) in assignments(paper.text).items():
                yield paper, name, value, line
    for paper in papers.under(
        "/etc/systemd/", "/run/systemd/system/", "/usr/lib/systemd/", "/lib/"
    ):
        for line in paper.text.splitlines():
            key, _, rest = line.strip().partition("=")
            if key.strip() in ("Environment", "DefaultEnvironment"):
                yield from ((paper, name, value, line) for name, value in _words_of(rest))
    for paper, _, line in unit_environment(papers):
        yield from ((paper, name, value, line) for name, value in _words_of(line))


def _words_of(line: str) -> Iterator[tuple[str, str]]:
    for word in re.findall(r"\"[^\"]*\"|'[^']*'|\S+", line):
        name, separator, value = word.strip("\"'").partition("=")
        if separator:
            yield name, value.strip("\"'")


def _reaches_agent(paper: Paper, line: str) -> bool:
    """systemd gives a service what its unit says and what is the default of all; it does not read
    /etc/environment."""
    return (
        bool(_DROP_INS.fullmatch(paper.path))
        or paper.path == "command:units"
        or line.strip().startswith("DefaultEnvironment")
    )


def _is_exempt(no_proxy: str) -> bool:
    for word in no_proxy.replace(",", " ").split():
        if word in ("*", KNOWN_HOST):
            return True
        try:
            if ipaddress.ip_address(KNOWN_HOST) in ipaddress.ip_network(word, strict=False):
                return True
        except ValueError:
            continue
    return False


def _blocked(papers: Papers) -> Iterator[Fact]:
    """What the arguments and files of the guest agent block of what a backup needs. That they block
    nothing is told by the agent alone: a build may have its own list."""
    for paper, kind, names, line in _block_lists(papers):
        listed = {name.strip() for name in re.split(r"[,;\s]+", names) if name.strip()}
        blocked = [name for name in NEEDED_COMMANDS if (name in listed) == (kind == "block")]
        if blocked and listed:
            words = f"The configuration of the QEMU guest agent blocks {', '.join(blocked)}."
            yield observed(papers, paper, "qga.blocked", ", ".join(blocked), words, raw=line)
            return


def _block_lists(papers: Papers) -> Iterator[tuple[Paper, str, str, str]]:
    listing = papers.command("processes")
    for process in processes(papers):
        if listing is not None and re.match(r"(?:\S*/)?qemu-ga\s", process.command):
            yield from _in_arguments(listing, process.command, process.line)
    if (paper := text_paper(papers, "/etc/qemu/qemu-ga.conf")) is not None:
        found = assignments(paper.text)
        for key, kind in (("block-rpcs", "block"), ("blacklist", "block"), ("allow-rpcs", "allow")):
            names, line = found.get(key, ("", ""))
            if names:
                yield paper, kind, names, line
    for path in ("/etc/sysconfig/qemu-ga", "/etc/default/qemu-guest-agent"):
        if (paper := text_paper(papers, path)) is None:
            continue
        for key, (value, line) in assignments(paper.text).items():
            if key in ("BLACKLIST_RPC", "BLOCK_RPCS"):
                yield paper, "block", value, line
            elif key in ("FILTER_RPC_ARGS", "DAEMON_ARGS", "QEMU_GA_ARGS"):
                yield from _in_arguments(paper, value, line)


def _in_arguments(paper: Paper, text: str, line: str) -> Iterator[tuple[Paper, str, str, str]]:
    for pattern, kind in ((_BLOCKING, "block"), (_ALLOWING, "allow")):
        for names in pattern.findall(text):
            yield paper, kind, names, line
