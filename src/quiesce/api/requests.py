"""Bodies of requests. Answers are the dataclasses of `quiesce.model` and `service.views`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from quiesce.model.diagnosis import MendAction
from quiesce.model.network import Proxy
from quiesce.model.policy import RoutePreference, SnapshotOptions
from quiesce.model.vm import AgentKind, VmAddress
from quiesce.service.requests import CollectRequest, CopyRequest, VerifyRequest
from quiesce.service.views import VmChange

Text = Annotated[str, Field(max_length=4096)]


def _bounded(path: object) -> object:
    if isinstance(path, str) and len(path) > 4096:
        raise ValueError("a path has at most 4096 characters")
    return path


AnyPath = Annotated[Path, BeforeValidator(_bounded)]


class _Body(BaseModel):
    # A misspelt field would otherwise be taken for its default.
    model_config = ConfigDict(extra="forbid")


class ProxyBody(_Body):
    """How a guest gets out: URLs of its proxies for http and https, which may hold a password, and
    what is reached without (names, addresses and networks, with commas). Without any URL: no
    proxy, whatever the server's setting is."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"https": "http://10.0.0.3:3128"}}
    )

    http: Text = ""
    https: Text = ""
    no_proxy: Text = ""

    def proxy(self) -> Proxy:
        return Proxy(self.http, self.https, self.no_proxy)


class VmAdd(_Body):
    """A QEMU VM: its QMP socket and, for consistent points, its agent: `qga` (with the socket),
    `waagent` (the Azure Linux agent, which comes by itself) or `both`. `disks` (name → image file)
    is needed only to back the VM up while it is off, before it was ever seen running.
    `guest_address` is needed only where a router stands between VM and server; without `proxy`
    the server's setting counts."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "name": "web1",
                "qmp_socket": "/run/vms/web1/qmp.sock",
                "qga_socket": "/run/vms/web1/qga.sock",
            }
        },
    )

    name: Text
    qmp_socket: AnyPath
    qga_socket: AnyPath | None = None
    disks: dict[Text, AnyPath] = Field(default_factory=dict, max_length=64)
    agent: AgentKind = AgentKind.QGA
    guest_address: Text = ""
    proxy: ProxyBody | None = None

    def address(self) -> VmAddress:
        return VmAddress(
            self.name,
            self.qmp_socket,
            self.qga_socket,
            tuple(self.disks.items()),
            agent=self.agent,
            guest_address=self.guest_address,
            proxy=None if self.proxy is None else self.proxy.proxy(),
        )


class VmPatch(_Body):
    """What to change of a VM; what is left out or null stays. `guest_address` "" forgets it,
    `server_proxy` true drops the VM's own proxy setting."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"agent": "waagent", "guest_address": ""}}
    )

    agent: AgentKind | None = None
    qga_socket: AnyPath | None = None
    guest_address: Text | None = None
    proxy: ProxyBody | None = None
    server_proxy: bool = False

    def change(self) -> VmChange:
        return VmChange(
            agent=self.agent,
            qga_socket=self.qga_socket,
            guest_address=self.guest_address,
            proxy=None if self.proxy is None else self.proxy.proxy(),
            server_proxy=self.server_proxy,
        )


class Protect(_Body):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"policy": "nightly"}})

    policy: Text


class Snapshots(_Body):
    """How points are taken. `hold_seconds` bounds the freeze; `scratch_bytes` 0 means half of the
    free space of the scratch folder. `route` says who asks for the snapshot while the guest is
    frozen, the extension in the guest or the server, and which way is tried next."""

    hold_seconds: float = Field(default=10.0, ge=0.5, le=60)
    skip_mounts: list[Text] = Field(default_factory=list, max_length=256)
    scratch_bytes: int = Field(default=0, ge=0, lt=2**63)
    route: RoutePreference = RoutePreference.GUEST_THEN_HOST

    def options(self) -> SnapshotOptions:
        return SnapshotOptions(
            self.hold_seconds, tuple(self.skip_mounts), self.scratch_bytes, self.route
        )


class PolicyBody(_Body):
    """`at` is the local time of day, "HH:MM", in the IANA time zone `zone`; null means only on
    demand. `mends_off` is what Quiesce must not do by itself about a failure. `compression_level`
    is zstd's. `bandwidth` limits what a backup reads, in bytes per second; 0 for no limit, else
    65536 or more. `audit` checks every increment for what its change tracking has missed."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {"at": "02:30", "zone": "Europe/Berlin", "keep_last": 7, "keep_daily": 30}
        },
    )

    at: Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")] | None = None
    zone: Annotated[str, Field(max_length=64)] = "UTC"
    keep_last: int = Field(default=7, ge=1, le=100_000)
    keep_daily: int = Field(default=30, ge=0, le=100_000)
    snapshot: Snapshots = Snapshots()
    compression_level: int = Field(default=1, ge=1, le=19)
    mends_off: list[MendAction] = Field(default_factory=list, max_length=64)
    bandwidth: int = Field(default=0, ge=0, lt=2**53)
    audit: bool = True


class PolicyAdd(PolicyBody):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "name": "nightly",
                "at": "02:30",
                "zone": "Europe/Berlin",
                "keep_last": 7,
                "keep_daily": 30,
            }
        },
    )

    name: Text


class RestoreStart(_Body):
    """`to` is an absolute path on the server's host: a folder, or for a single disk the file.
    With `folder` it is a folder also when it is not there yet, which is made. Without `disks`, all
    disks of the point are restored. With `salvage` all that can be read of a damaged point is:
    zeros stand for the rest, which the job's `restored` lists, and the job ends as failed."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {"point": "01k3v9…", "to": "/var/lib/restores", "format": "qcow2"}
        },
    )

    point: Text
    to: AnyPath
    disks: list[Text] | None = Field(default=None, min_length=1, max_length=64)
    format: Literal["raw", "qcow2"] = "raw"
    overwrite: bool = False
    folder: bool = False
    salvage: bool = False


class Mends(_Body):
    """Actions of the plan that an examination has shown."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"actions": ["restart-agent"]}}
    )

    actions: list[MendAction] = Field(min_length=1, max_length=64)


class VerifyStart(_Body):
    """`structure` checks manifests and indexes, `packs` also every pack's hash (no key needed),
    `chunks` also decrypts and authenticates every chunk; `sample` restores as many chunks, drawn by
    chance. `seconds`, `size_bytes` and `requests` are limits; a job that stopped at one says in its
    log with which `cursor` to go on."""

    mode: Literal["structure", "packs", "chunks", "sample"] = "structure"
    seconds: float | None = Field(default=None, gt=0)
    size_bytes: int | None = Field(default=None, ge=0)
    requests: int | None = Field(default=None, ge=0)
    cursor: Annotated[str, Field(max_length=300)] = ""
    sample: int | None = Field(default=None, ge=1, le=10_000_000)

    def request(self) -> VerifyRequest:
        return VerifyRequest(
            self.mode, self.seconds, self.size_bytes, self.requests, self.cursor, self.sample
        )


class KeyAdd(_Body):
    """A key that is to open the vault: `secret` is the passphrase, the 64 hexadecimal digits of a
    key file, or the text of a recovery key. Who asks has made it, and keeps it."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"kind": "passphrase", "secret": "five words of your own"}},
    )

    kind: Literal["passphrase", "key-file", "recovery"]
    secret: SecretStr = Field(max_length=4096)


class PruneStart(_Body):
    """Of what the rules let go of, only these `points` are removed: those that a call with
    `dry_run=true` has shown. Null: all."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"points": ["01k3v9…"]}}
    )

    points: list[Text] | None = None


class CollectStart(_Body):
    """Only packs of these `marks` are deleted: the `ripe_marks` of `GET /vault/garbage`. Null: all
    that is due when the job looks."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"marks": []}})

    marks: list[Text] | None = None

    def request(self) -> CollectRequest:
        return CollectRequest(None if self.marks is None else tuple(self.marks))


class CopyStart(_Body):
    """Where the vault is copied to, as the server reaches it: an absolute path, `file:///…`,
    `s3://…`, `az://…` or `gs://…`. `vms`, `points` and `newest` (of each VM) choose points. `new`
    allows a vault to be made there; without it there must be a copy already. `with_keys` sends key
    slots to a copy that is there already."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"to": "/mnt/second-disk/vault", "newest": 7}},
    )

    to: Text
    vms: list[Text] = Field(default_factory=list, max_length=1000)
    points: list[Text] = Field(default_factory=list, max_length=1000)
    newest: int | None = Field(default=None, ge=1, le=1_000_000)
    new: bool = False
    with_keys: bool = False

    def request(self) -> CopyRequest:
        return CopyRequest(
            self.to, tuple(self.vms), tuple(self.points), self.newest, self.new, self.with_keys
        )
