"""The extension's package as it is offered to agents."""

from __future__ import annotations

from dataclasses import dataclass, field

from quiesce.agent.package import ExtensionPackage
from quiesce.agent.waagent.ports import AgentBook


@dataclass(frozen=True, slots=True)
class Offer:
    """`version` is the extension's own and one more number that grows with every package this
    server has had: the agent updates what has a greater version."""

    version: str
    content: bytes = field(repr=False)

    @classmethod
    def of(cls, package: ExtensionPackage, book: AgentBook) -> Offer:
        return cls(f"{package.version}.{book.package_build(package.digest)}", package.content)
