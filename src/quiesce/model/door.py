"""What a guest is given so that it can reach the storage endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How guests reach the storage endpoint. `url` is `https://host:port`, `ca_pem` the
    certificate to trust for it, and for nothing else."""

    url: str
    ca_pem: str


@dataclass(frozen=True, slots=True)
class Door:
    """What one attempt at a snapshot may do at the storage endpoint, as SAS URLs (secrets).

    `snapshot_urls`: per disk, `PUT …&comp=snapshot` takes the point. `report_url` and `log_url`:
    block blobs that exist already, for the extension's result and its log.
    """

    snapshot_urls: Mapping[str, str]
    report_url: str
    log_url: str
