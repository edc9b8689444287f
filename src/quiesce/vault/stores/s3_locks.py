"""Requests about S3 Object Lock, one each, tried once. obstore has none of them.

botocore's refusals are said in obstore's words, so that one reader of refusals is enough
(`cloud_failures`). The API: https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-lock.html
"""

from __future__ import annotations

import base64
import hashlib
import io
import threading
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError

from quiesce.vault.stores.files import Buffer
from quiesce.vault.stores.locks import Lock, Mode

CONNECTIONS = 16


class S3Locks:
    """Thread-safe. What `session` has found as credentials is used as it is."""

    def __init__(
        self,
        session: Any,
        *,
        bucket: str,
        prefix: str,
        region: str,
        endpoint: str,
        connect_seconds: float,
        read_seconds: float,
    ) -> None:
        self._session = session
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._region = region
        self._endpoint = endpoint
        self._seconds = connect_seconds, read_seconds
        self._making = threading.Lock()
        self._made: Any = None

    def look(self, key: str) -> tuple[Lock | None, datetime]:
        """The object's lock, if it has one and these credentials may know it
        (s3:GetObjectRetention), and what time it is by the store."""
        answer = self._ask("head_object", Key=self._prefix + key)
        mode = str(answer.get("ObjectLockMode", "")).lower()
        until = answer.get("ObjectLockRetainUntilDate")
        known = mode in {each.value for each in Mode} and isinstance(until, datetime)
        return (Lock(Mode(mode), until.astimezone(UTC)) if known else None), _date(answer)

    def lock(self, key: str, lock: Lock) -> None:
        self._ask(
            "put_object_retention",
            Key=self._prefix + key,
            Retention={"Mode": lock.mode.value.upper(), "RetainUntilDate": lock.until},
        )

    def put(self, key: str, data: Buffer, lock: Lock) -> None:
        """Create the object, if it is absent, with its lock."""
        proof = base64.b64encode(hashlib.sha256(data).digest()).decode()
        self._ask(
            "put_object",
            Key=self._prefix + key,
            Body=_View(data),
            ContentLength=len(data),
            ChecksumSHA256=proof,
            IfNoneMatch="*",
            ObjectLockMode=lock.mode.value.upper(),
            ObjectLockRetainUntilDate=lock.until,
        )

    def enabled(self) -> None:
        """Refused with ObjectLockConfigurationNotFoundError where the bucket has no locks."""
        self._ask("get_object_lock_configuration")

    def _client(self) -> Any:
        # Making one takes a session that only one thread may use.
        with self._making:
            self._made = self._made or self._new_client()
            return self._made

    def _new_client(self) -> Any:
        from botocore.config import Config

        connect, read = self._seconds
        return self._session.create_client(
            "s3",
            region_name=self._region,
            endpoint_url=self._endpoint or None,
            config=Config(
                connect_timeout=connect,
                read_timeout=read,
                retries={"total_max_attempts": 1},
                max_pool_connections=CONNECTIONS,
                s3={"addressing_style": "path"},
            ),
        )

    def _ask(self, name: str, **parameters: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return getattr(self._client(), name)(Bucket=self._bucket, **parameters)
        except ClientError as error:
            raise _said(error.response) from error
        except BotoCoreError as error:
            raise BaseError(str(error)) from error


class _View(io.RawIOBase):
    """A pack's buffer as a file to read, without a copy of it."""

    def __init__(self, data: Buffer) -> None:
        self._data = memoryview(data)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        part = self._data[self._at : self._at + len(target)]
        target[: len(part)] = part
        self._at += len(part)
        return len(part)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._data)}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        return self._at


def _said(response: Any) -> BaseError:
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
    told = response.get("Error", {})
    code, message = str(told.get("Code", "")), str(told.get("Message", ""))
    text = f"status code: {status}, <Code>{code}</Code><Message>{message}</Message>"
    if status == 412 or code == "ConditionalRequestConflict":
        return AlreadyExistsError(text)
    return PermissionDeniedError(text) if status == 403 else BaseError(text)


def _date(answer: Any) -> datetime:
    """:raise BaseError: the store tells no time"""
    told = answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")
    try:
        at = parsedate_to_datetime(told)
    except ValueError as unreadable:
        raise BaseError(f"no time in the answer: {told[:60]!r}") from unreadable
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
