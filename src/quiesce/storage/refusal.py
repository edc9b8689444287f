"""What the storage endpoint says no with: Azure's status, code and XML body.

A `Refusal` is an answer to a guest in the words of the protocol, not a failure of Quiesce: it ends
at the endpoint's own edge and never reaches a caller of this room.
Codes and texts: Azure Storage's "Common REST API error codes" and "Blob service error codes".
"""

from __future__ import annotations

from datetime import UTC, datetime
from xml.sax.saxutils import escape


class Refusal(Exception):  # noqa: N818 - an answer, not an error
    """`details` become further elements of the XML body and `headers` of the answer."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.code = code
        self.message = message
        self.details = details or {}
        self.headers = headers or {}

    def body(self, request_id: str) -> bytes:
        lines = (self.message, f"RequestId:{request_id}", f"Time:{datetime.now(UTC).isoformat()}")
        elements = {"Code": self.code, "Message": "\n".join(lines), **self.details}
        inner = "".join(f"<{tag}>{_text(text)}</{tag}>" for tag, text in elements.items())
        return f'<?xml version="1.0" encoding="utf-8"?><Error>{inner}</Error>'.encode()


def authentication_failed(detail: str) -> Refusal:
    return Refusal(
        403,
        "AuthenticationFailed",
        "Server failed to authenticate the request. Make sure the value of Authorization header "
        "is formed correctly including the signature.",
        details={"AuthenticationErrorDetail": detail},
    )


def permission_mismatch() -> Refusal:
    return Refusal(
        403,
        "AuthorizationPermissionMismatch",
        "This request is not authorized to perform this operation using this permission.",
    )


def protocol_mismatch() -> Refusal:
    return Refusal(
        403,
        "AuthorizationProtocolMismatch",
        "This request is not authorized to perform this operation using this protocol.",
    )


def source_address_mismatch(peer: str) -> Refusal:
    return Refusal(
        403,
        "AuthorizationSourceIPMismatch",
        f"This request is not authorized to perform this operation using this source IP {peer}.",
        details={"SourceIP": peer},
    )


def resource_not_found() -> Refusal:
    return Refusal(404, "ResourceNotFound", "The specified resource does not exist.")


def container_not_found() -> Refusal:
    return Refusal(404, "ContainerNotFound", "The specified container does not exist.")


def blob_not_found() -> Refusal:
    return Refusal(404, "BlobNotFound", "The specified blob does not exist.")


def server_busy() -> Refusal:
    return Refusal(503, "ServerBusy", "Too many requests of this guest are waiting already.")


def invalid_uri() -> Refusal:
    return Refusal(
        400, "InvalidUri", "The requested URI does not represent any resource on the server."
    )


def invalid_query(name: str, reason: str) -> Refusal:
    return Refusal(
        400,
        "InvalidQueryParameterValue",
        "Value for one of the query parameters specified in the request URI is invalid.",
        details={"QueryParameterName": name, "Reason": reason},
    )


def unsupported_query(name: str) -> Refusal:
    return Refusal(
        400,
        "UnsupportedQueryParameter",
        "One of the query parameters specified in the request URI is not supported.",
        details={"QueryParameterName": name},
    )


def invalid_header(name: str, value: str) -> Refusal:
    return Refusal(
        400,
        "InvalidHeaderValue",
        "The value for one of the HTTP headers is not in the correct format.",
        details={"HeaderName": name, "HeaderValue": value[:100]},
    )


def unsupported_header(name: str) -> Refusal:
    return Refusal(
        400,
        "UnsupportedHeader",
        "One of the HTTP headers specified in the request is not supported.",
        details={"HeaderName": name},
    )


def missing_header(name: str) -> Refusal:
    return Refusal(
        400,
        "MissingRequiredHeader",
        "An HTTP header that's mandatory for this request is not specified.",
        details={"HeaderName": name},
    )


def missing_length() -> Refusal:
    return Refusal(
        411,
        "MissingContentLengthHeader",
        "The Content-Length header was not specified.",
    )


def unsupported_verb() -> Refusal:
    return Refusal(
        405,
        "UnsupportedHttpVerb",
        "The resource doesn't support specified Http Verb.",
        headers={"Allow": "GET, HEAD, PUT"},
    )


def too_large(limit_bytes: int) -> Refusal:
    return Refusal(
        413,
        "RequestBodyTooLarge",
        "The request body is too large and exceeds the maximum permissible limit.",
        details={"MaxLimit": str(limit_bytes)},
    )


def too_slow() -> Refusal:
    return Refusal(
        408,
        "OperationTimedOut",
        "Operation could not be completed within the specified time.",
        headers={"Connection": "close"},
    )


def invalid_blob_type() -> Refusal:
    return Refusal(409, "InvalidBlobType", "The blob type is invalid for this operation.")


def invalid_range(size_bytes: int) -> Refusal:
    return Refusal(
        416,
        "InvalidRange",
        "The range specified is invalid for the current size of the resource.",
        headers={"Content-Range": f"bytes */{size_bytes}"},
    )


def invalid_page_range() -> Refusal:
    return Refusal(416, "InvalidPageRange", "The page range specified is invalid.")


def out_of_range(name: str) -> Refusal:
    return Refusal(
        400,
        "OutOfRangeInput",
        "One of the request inputs is out of range.",
        details={"Name": name},
    )


def condition_not_met() -> Refusal:
    return Refusal(
        412,
        "ConditionNotMet",
        "The condition specified using HTTP conditional header(s) is not met.",
    )


def busy() -> Refusal:
    return Refusal(503, "ServerBusy", "The server is busy.", headers={"Retry-After": "10"})


def _text(text: str) -> str:
    """XML 1.0 has no place for control characters, escaped or not."""
    return escape("".join(c if c.isprintable() or c == "\n" else "�" for c in text))
