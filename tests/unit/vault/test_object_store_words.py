"""What object stores say when they refuse, in the words their documentation gives, and the failure
that is made of it."""

from __future__ import annotations

import pytest
from obstore.exceptions import GenericError, PermissionDeniedError

from quiesce.vault.stores.cloud_failures import Answer, explain
from quiesce.vault.stores.store import ObjectMissing

WHERE = "s3://bucket/packs/00/a"


def xml(code: str, message: str = "") -> str:
    return f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"


def said(status: int, body: str, url: str = "https://host/bucket/a") -> GenericError:
    """An error as the client words it."""
    return GenericError(
        f"Generic S3 error: Error performing DELETE {url} in 2ms - Server returned non-2xx "
        f"status code: {status} Some Reason: {body}\n\nDebug source:\nGeneric {{ store: 'S3' }}"
    )


@pytest.mark.parametrize(
    ("status", "body", "code", "retryable"),
    [
        (403, xml("AccessDenied", "Access Denied because object protected by object lock."),
         "storage.locked", False),
        (409, xml("BlobImmutableDueToPolicy", "This operation is not permitted as the blob is "
                  "immutable due to a policy."), "storage.locked", False),
        (409, xml("BlobImmutableDueToLegalHold", "blob is immutable due to a legal hold"),
         "storage.locked", False),
        (403, '{"error": {"errors": [{"reason": "retentionPolicyNotMet"}]}}',
         "storage.locked", False),
        (403, xml("AccessDenied", "User: arn:aws:iam::1:user/x is not authorized to perform: "
                  "s3:DeleteObject on resource: arn:aws:s3:::retention-worm/a"),
         "storage.denied", False),
        (403, xml("AuthorizationPermissionMismatch", "not authorized to perform this operation"),
         "storage.denied", False),
        (403, "", "storage.denied", False),
        (403, xml("SignatureDoesNotMatch", "The request signature we calculated does not match"),
         "storage.credentials-refused", False),
        (400, xml("ExpiredToken", "The provided token has expired."),
         "storage.credentials-refused", True),
        (403, xml("AuthenticationFailed", "Signature not valid in the specified time frame"),
         "storage.credentials-refused", True),
        (401, "Invalid Credentials", "storage.credentials-refused", False),
        (404, xml("NoSuchBucket", "The specified bucket does not exist"), "storage.vanished", True),
        (404, xml("ContainerNotFound", "The specified container does not exist."),
         "storage.vanished", True),
        (404, xml("NoSuchKey", "The specified key does not exist."),
         "storage.object-missing", False),
        (503, xml("SlowDown", "Please reduce your request rate."), "storage.throttled", True),
        (503, xml("ServerBusy", "The server is currently unable to receive requests."),
         "storage.throttled", True),
        (429, "rateLimitExceeded", "storage.throttled", True),
        (500, xml("InternalError", "We encountered an internal error."), "storage.io-error", True),
        (409, xml("ConditionalRequestConflict", "a conflicting operation"),
         "storage.io-error", True),
        (507, xml("XMinioStorageFull", "Storage backend has reached its minimum free space."),
         "storage.full", False),
        (403, xml("InvalidObjectState", "The operation is not valid for the object's class"),
         "storage.object-archived", False),
        (400, xml("InvalidRequest", "Content-MD5 OR x-amz-checksum- HTTP header is required for "
                  "Put Object requests with Object Lock parameters"), "storage.io-error", False),
        (400, xml("AuthorizationHeaderMalformed", "the region 'us-east-1' is wrong"),
         "storage.io-error", False),
    ],
)  # fmt: skip
def test_a_refusal_is_understood(status: int, body: str, code: str, retryable: bool) -> None:
    failure = explain(said(status, body), WHERE, "delete")
    assert (failure.code, failure.retryable) == (code, retryable)
    assert WHERE in failure.message
    assert isinstance(failure, ObjectMissing) == (code == "storage.object-missing")


def test_the_names_of_buckets_and_objects_say_nothing_about_the_reason() -> None:
    url = "https://host/worm-retention/object-lock/expired-credential/SlowDown?x=NoSuchBucket"
    body = xml("AccessDenied", "Access Denied") + "<Resource>/object-lock/Expired</Resource>"
    assert explain(said(403, body, url), WHERE, "delete").code == "storage.denied"
    bulk = PermissionDeniedError(
        "Bulk delete request failed for key retention/object-lock: Access Denied (code: 403)"
    )
    assert explain(bulk, WHERE, "delete").code == "storage.denied"


def test_a_lock_is_understood_from_a_deletion_in_bulk_as_well() -> None:
    locked = GenericError(
        "Bulk delete request failed for key vaults/one/packs/00/a: This operation is not permitted "
        "as the blob is immutable due to a policy. (code: 409)"
    )
    assert explain(locked, WHERE, "delete").code == "storage.locked"


def test_no_answer_is_no_refusal() -> None:
    error = GenericError("Error performing GET https://host/a in 2ms - HTTP error: error sending")
    failure = explain(error, WHERE, "read")
    assert (failure.code, failure.retryable) == ("storage.unreachable", True)


def test_why_nothing_answered_is_told_and_not_the_insides_of_the_client() -> None:
    error = GenericError(
        "Error performing GET https://host/a in 2ms - HTTP error: error sending\n\nDebug source:\n"
        'Generic { store: "S3", source: Os { code: 111, message: "Connection refused" } }'
    )
    raw = explain(error, WHERE, "read").evidence[0].raw
    assert raw.endswith("error sending: Connection refused")
    assert "Generic {" not in raw


def test_a_signature_in_a_url_is_shown_nowhere() -> None:
    url = "https://account.blob.core.windows.net/c/a?sv=2024&sig=SECRET%3D&se=2030"
    failure = explain(said(500, xml("InternalError"), url), WHERE, "read")
    assert "https://account.blob.core.windows.net/c/a" in failure.evidence[0].raw
    assert "SECRET" not in repr(failure.report())


def test_what_a_hostile_server_says_is_bounded_and_printable() -> None:
    failure = explain(said(500, "\x1b[2J" + "é\x00" * 100_000), WHERE, "read")
    raw = failure.evidence[0].raw
    assert raw.isprintable()
    assert len(raw) <= 600


def test_a_range_beyond_the_end_is_known_by_each_servers_answer() -> None:
    assert Answer.of(said(416, xml("InvalidRange"))).out_of_range
    words = "Wanted range starting at 5, but object was only 5 bytes long"
    assert Answer.of(GenericError(words)).out_of_range
    assert not Answer.of(said(404, xml("NoSuchKey"))).out_of_range
