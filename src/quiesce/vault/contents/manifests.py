"""The manifests of a vault, as one process has read them."""

from __future__ import annotations

import contextlib
import re

from quiesce.model.failure import Evidence, NotFoundFailure, StorageFailure, VaultFailure
from quiesce.model.point import RecoveryPoint
from quiesce.vault.contents.contents import Contents
from quiesce.vault.contents.opening import newer
from quiesce.vault.format.manifest import (
    POINT_ID_DIGITS,
    Manifest,
    ManifestError,
    NewerManifestError,
    point_id_of,
    point_key,
    read_manifest,
)
from quiesce.vault.format.sealed import LIMIT_BYTES, NewerSealError, SealError
from quiesce.vault.stores.store import UNREADABLE, ObjectMissing

_POINT_ID = re.compile(rf"[0-9a-f]{{{POINT_ID_DIGITS}}}\Z")


class Manifests:
    """Reads each manifest once, unless asked to read it anew. Thread-safe."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._kept: dict[str, Manifest] = {}

    def find(self, point_id: str) -> Manifest:
        """Of a point that is not deleted.

        :raise NotFoundFailure: vault.point-unknown
        :raise VaultFailure: vault.corrupt-manifest
        """
        try:
            if _POINT_ID.match(point_id) and point_id not in self._contents.records.deleted():
                return self.load(point_id)
        except ObjectMissing:
            pass
        raise NotFoundFailure(
            "vault.point-unknown", f"The vault has no recovery point {point_id!r}."
        )

    def committed(self, vm: str, job_id: str) -> RecoveryPoint | None:
        """The point that this job has made.

        :raise VaultFailure: vault.point-deleted, vault.job-conflict, vault.corrupt-manifest
        """
        point_id = point_id_of(self._contents.keys, job_id)
        with contextlib.suppress(ObjectMissing):
            # Until it is collected, another point by this id would be deleted as well.
            self._contents.store.stat(f"deleted/{point_id}")
            raise _deleted(job_id, point_id)
        try:
            found = self.load(point_id).point
        except ObjectMissing:
            return None
        if found.job_id != job_id or found.vm != vm:
            raise VaultFailure(
                "vault.job-conflict",
                f"Job {job_id} has made a point of another VM: {found.vm}.",
                evidence=[Evidence(f"point of job {found.job_id}", point_key(point_id))],
            )
        return found

    def read_all(
        self, *, with_deleted: bool = False, fresh: bool = False
    ) -> tuple[tuple[Manifest, ...], dict[str, VaultFailure]]:
        """Readable manifests, and the failure of each damaged one by point id. `fresh`: read
        from the store even if known."""
        hidden = {} if with_deleted else self._contents.records.deleted()
        found = []
        damaged = {}
        for info in self._contents.store.list("points/"):
            point_id = info.key.rpartition("/")[2]
            if point_id in hidden:
                continue
            try:
                found.append(self.load(point_id, fresh=fresh))
            except ObjectMissing:
                continue
            except VaultFailure as failure:
                if failure.code != "vault.corrupt-manifest":
                    raise
                damaged[point_id] = failure
        return tuple(found), damaged

    def load(self, point_id: str, *, fresh: bool = False) -> Manifest:
        """:raise ObjectMissing: storage.object-missing
        :raise VaultFailure: vault.corrupt-manifest
        """
        key = point_key(point_id)
        kept = self._kept.get(point_id)
        if kept is not None and not fresh:
            self._contents.store.stat(key)
            return kept
        try:
            stored = self._contents.store.get(key, limit_bytes=LIMIT_BYTES)
            manifest = read_manifest(self._contents.keys, point_id, stored)
        except (NewerSealError, NewerManifestError) as inner:
            raise newer(key, inner) from inner
        except (SealError, ManifestError) as inner:
            raise self._corrupt(point_id, str(inner)) from inner
        except StorageFailure as inner:
            if inner.code not in UNREADABLE:
                raise
            raise self._corrupt(point_id, inner.message) from inner
        self._kept[point_id] = manifest
        return manifest

    def _corrupt(self, point_id: str, why: str) -> VaultFailure:
        where = f"{self._contents.store.address}/{point_key(point_id)}"
        return VaultFailure(
            "vault.corrupt-manifest",
            f"The manifest of recovery point {point_id} is damaged.",
            evidence=[Evidence(why, where)],
            remedy="This point is lost unless a copy of the vault has the file. Others are "
            "not affected; back the VM up again.",
        )


def _deleted(job_id: str, point_id: str) -> VaultFailure:
    return VaultFailure(
        "vault.point-deleted",
        f"The recovery point that job {job_id} has made was deleted.",
        evidence=[Evidence("it is marked as deleted", f"deleted/{point_id}")],
        remedy="Start a new backup of this VM.",
    )
