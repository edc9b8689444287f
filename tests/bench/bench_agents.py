"""Many agents polling one server: processor time, memory, and how long they wait for an answer.

    python tests/bench/bench_agents.py [--agents 1000] [--seconds 60] [--out build/bench]

The server is an `AgentHost` in a process of its own. Each simulated agent has a loopback address
of its own and replays the stock agent's recorded requests (tests/unit/agent/waagent_requests) byte
for byte, a connection each, in the stock agent's rhythm: every 6 s the goal state and a status
through the host plugin; at the start, and once in the middle after a new goal state, all documents
of it, as after every incarnation. The neighbourhood and the book are in memory: what is measured
is the servers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "agent"))

from waagent_recorded import Recorded, recorded
from waagent_scene import PaperBook, PaperDoors, Scene

from quiesce.agent.waagent.settings import Command, Settings

PERIOD_SECONDS = 6.0
FIRST_ADDRESS = int(IPv4Address("127.10.0.1"))
IN_ONE_GOAL_STATE = (
    "hosting-environment-config",
    "shared-config",
    "certificates",
    "extensions-config",
    "manifest",
)


@dataclass
class Figures:
    agents: int
    seconds: float
    requests: int
    requests_per_second: float
    errors: int
    server_cpu_percent: float
    server_rss_mib: float
    p50_ms: float
    p99_ms: float
    slowest_ms: float
    machine: str


def address_of(number: int) -> str:
    return str(IPv4Address(FIRST_ADDRESS + number))


# ------------------------------------------------------------------ the server's process


class ByAddress:
    def __init__(self, agents: int) -> None:
        self.vms = {address_of(number): f"vm{number}" for number in range(agents)}

    def vm_at(self, address: str, port: int) -> str | None:
        return self.vms.get(address)


def serve(agents: int) -> None:
    """Prints its ports and each VM's names; a line on standard input publishes a new goal state
    for every VM; ends with standard input."""
    scene = Scene(PaperBook(), PaperDoors())
    scene.neighbours = ByAddress(agents)  # type: ignore[assignment]
    with scene.running() as host:
        idle = Settings(Command.IDLE)

        def publish() -> None:
            for number in range(agents):
                host._agent(f"vm{number}").ask(host.offered_version, idle)

        publish()
        names = []
        for number in range(agents):
            dossier = host._agent(f"vm{number}").dossier
            names.append((dossier.container_id, dossier.goal.incarnation, dossier.token))
        print(json.dumps({"ports": host.ports, "names": names}), flush=True)
        for _line in sys.stdin:
            publish()


# ------------------------------------------------------------------ the agents


class Agents:
    def __init__(self, ports: tuple[int, int], names: list[list[object]]) -> None:
        self._ports, self._names = ports, names
        self._requests = recorded()
        self.waits: list[float] = []
        self.errors: list[str] = []

    async def live(self, number: int, until: float) -> None:
        container, incarnation, token = self._names[number]
        known = 0
        await asyncio.sleep(random.uniform(0, PERIOD_SECONDS))
        while time.monotonic() < until:
            round_ends = time.monotonic() + PERIOD_SECONDS
            names = (str(container), int(str(incarnation)), str(token))
            goal = await self._ask(number, self._requests["goalstate"], names)
            found = goal.partition(b"<Incarnation>")[2].partition(b"<")[0]
            if found and int(found) != known:
                known = incarnation = int(found)
                names = (str(container), known, str(token))
                for name in IN_ONE_GOAL_STATE:
                    await self._ask(number, self._requests[name], names)
            await self._ask(number, self._requests["status"], names)
            await asyncio.sleep(max(0.0, round_ends - time.monotonic()))

    async def _ask(self, number: int, request: Recorded, names: tuple[str, int, str]) -> bytes:
        port = self._ports[0] if request.port == 80 else self._ports[1]
        begun = time.monotonic()
        try:
            async with asyncio.timeout(10):  # the stock agent's own patience
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", port, local_addr=(address_of(number), 0)
                )
                try:
                    writer.write(request.filled(*names))
                    answer = await reader.read(-1)
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            self.errors.append(f"{request.name}: {error!r}")
            return b""
        self.waits.append(time.monotonic() - begun)
        if not answer.startswith(b"HTTP/1.1 200"):
            self.errors.append(f"{request.name}: {answer[:40]!r}")
        return answer


async def poll(
    server: subprocess.Popen[str], agents: int, seconds: float, told: dict[str, object]
) -> Figures:
    ports, names = told["ports"], told["names"]
    crowd = Agents(tuple(ports), names)  # type: ignore[arg-type]
    assert server.stdin is not None
    until = time.monotonic() + PERIOD_SECONDS + seconds
    living = [asyncio.create_task(crowd.live(number, until)) for number in range(agents)]
    await asyncio.sleep(PERIOD_SECONDS)  # until each has asked for the first time
    crowd.waits.clear()
    begun, cpu = time.monotonic(), cpu_seconds(server.pid)
    await asyncio.sleep(seconds / 2)
    server.stdin.write("publish\n")
    server.stdin.flush()
    await asyncio.sleep(seconds / 2)
    took, spent = time.monotonic() - begun, cpu_seconds(server.pid) - cpu
    waits = sorted(crowd.waits)
    memory = rss_mib(server.pid)
    await asyncio.gather(*living)
    for line in crowd.errors[:5]:
        print("error:", line)
    return Figures(
        agents=agents,
        seconds=round(took, 1),
        requests=len(waits),
        requests_per_second=round(len(waits) / took, 1),
        errors=len(crowd.errors),
        server_cpu_percent=round(100 * spent / took, 1),
        server_rss_mib=round(memory, 1),
        p50_ms=round(1000 * waits[len(waits) // 2], 2),
        p99_ms=round(1000 * waits[len(waits) * 99 // 100], 2),
        slowest_ms=round(1000 * waits[-1], 1),
        machine=f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}",
    )


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.agents)
        return
    print(f"{options.agents} agents: the server makes their keys first …", flush=True)
    with subprocess.Popen(
        [sys.executable, __file__, "--serve", "--agents", str(options.agents)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            told = json.loads(server.stdout.readline())
            figures = asyncio.run(poll(server, options.agents, options.seconds, told))
        finally:
            server.kill()
    for name, value in asdict(figures).items():
        print(f"{name:22} {value}")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "agents.json").write_text(json.dumps(asdict(figures), indent=2) + "\n")


if __name__ == "__main__":
    main()
