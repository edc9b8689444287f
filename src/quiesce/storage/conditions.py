"""Conditional headers: act only if the blob is, or is not, the one that the client knows."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

from starlette.datastructures import Headers

from quiesce.storage import refusal
from quiesce.storage.blob import Blob


def http_time(at: datetime) -> str:
    return format_datetime(at.astimezone(UTC), usegmt=True)


def check_conditions(headers: Headers, blob: Blob, *, reading: bool) -> None:
    """:raise Refusal: ConditionNotMet (412, or 304 for a read), BlobAlreadyExists,
    LeaseNotPresentWithBlobOperation, InvalidHeaderValue
    """
    if "x-ms-lease-id" in headers:
        raise refusal.Refusal(
            412,
            "LeaseNotPresentWithBlobOperation",
            "There is currently no lease on the blob.",
        )
    wanted, unwanted = headers.get("if-match"), headers.get("if-none-match")
    if wanted is not None and not _matches(wanted, blob):
        raise refusal.condition_not_met()
    if unwanted is not None and _matches(unwanted, blob):
        if not reading and unwanted.strip() == "*":
            raise refusal.Refusal(409, "BlobAlreadyExists", "The specified blob already exists.")
        raise _unchanged(blob) if reading else refusal.condition_not_met()
    changed_at = blob.modified_at.replace(microsecond=0)
    since, until = _time(headers, "if-modified-since"), _time(headers, "if-unmodified-since")
    if until is not None and changed_at > until:
        raise refusal.condition_not_met()
    if since is not None and unwanted is None and changed_at <= since:
        raise _unchanged(blob) if reading else refusal.condition_not_met()


def _matches(tags: str, blob: Blob) -> bool:
    return tags.strip() == "*" or blob.etag in [tag.strip() for tag in tags.split(",")]


def _unchanged(blob: Blob) -> refusal.Refusal:
    return refusal.Refusal(304, "ConditionNotMet", "", headers={"ETag": blob.etag})


def _time(headers: Headers, name: str) -> datetime | None:
    text = headers.get(name)
    if text is None:
        return None
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError) as garbled:
        raise refusal.invalid_header(name, text) from garbled
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at
