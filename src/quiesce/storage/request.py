"""Reading a request: its address, its query, its headers, its body. All of it is hostile."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote_to_bytes

from starlette.datastructures import Headers
from starlette.types import Receive, Scope

from quiesce.storage import refusal
from quiesce.storage.naming import ACCOUNT

METADATA_LIMIT_BYTES = 8 * 1024
_PATH_LIMIT_BYTES = 2048
_QUERY_LIMIT_BYTES = 4096
_QUERY_LIMIT_FIELDS = 40
_BODY_SECONDS = 30.0

_METHODS = ("GET", "HEAD", "PUT", "DELETE")
_RANGE = re.compile(r"bytes=(\d{1,19})-(\d{1,19})?", re.ASCII)
_METADATA_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_VERSION = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_NOT_SERVED = ("versionid", "restype", "prevsnapshoturl")


@dataclass(frozen=True, slots=True)
class BlobRequest:
    """A request for one blob. `container`, `blob` and the query are percent-decoded, once."""

    method: str
    container: str
    blob: str
    query: Mapping[str, str]
    headers: Headers
    peer: str
    scheme: str

    @property
    def comp(self) -> str:
        return self.query.get("comp", "")

    @property
    def snapshot(self) -> str:
        return self.query.get("snapshot", "")


def read_request(scope: Scope) -> BlobRequest:
    """:raise Refusal: UnsupportedHttpVerb, InvalidUri, InvalidQueryParameterValue,
    ResourceNotFound, InvalidHeaderValue, AuthenticationFailed
    """
    if scope["method"] not in _METHODS:
        raise refusal.unsupported_verb()
    container, blob = blob_address(scope["raw_path"])
    query = read_query(scope["query_string"])
    headers = Headers(scope=scope)
    if "authorization" in headers:
        raise refusal.authentication_failed("Only a service SAS in the URL is accepted here.")
    version = headers.get("x-ms-version", "")
    if version and not _VERSION.fullmatch(version):
        raise refusal.invalid_header("x-ms-version", version)
    client = scope.get("client") or ("", 0)
    return BlobRequest(
        method=scope["method"],
        container=container,
        blob=blob,
        query=query,
        headers=headers,
        peer=str(client[0]),
        scheme=scope["scheme"],
    )


def blob_address(raw_path: bytes) -> tuple[str, str]:
    """`/quiesce/<container>/<blob>` as container and blob.

    What two readers could read in two ways (dots, empty parts, control characters, backslashes) is
    refused rather than tidied up, so that what is signed is what is served.

    :raise Refusal: InvalidUri, ResourceNotFound
    """
    if not raw_path.startswith(b"/") or len(raw_path) > _PATH_LIMIT_BYTES:
        raise refusal.invalid_uri()
    try:
        path = unquote_to_bytes(raw_path).decode("utf-8")
    except UnicodeDecodeError as garbled:
        raise refusal.invalid_uri() from garbled
    parts = path.split("/")[1:]
    if any(part in ("", ".", "..") for part in parts) or not _plain(path) or "\\" in path:
        raise refusal.invalid_uri()
    if len(parts) < 3 or parts[0] != ACCOUNT:
        raise refusal.resource_not_found()
    return parts[1], "/".join(parts[2:])


def read_query(raw: bytes) -> dict[str, str]:
    """:raise Refusal: InvalidUri, InvalidQueryParameterValue (a parameter given twice too)"""
    if len(raw) > _QUERY_LIMIT_BYTES:
        raise refusal.invalid_uri()
    try:
        fields = parse_qsl(
            raw.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_QUERY_LIMIT_FIELDS,
        )
    except ValueError as garbled:
        raise refusal.invalid_uri() from garbled
    query: dict[str, str] = {}
    for name, value in fields:
        if name in query:
            raise refusal.invalid_query(name, "It is given twice.")
        if not _plain(name) or not _plain(value):
            raise refusal.invalid_query("", "It holds a control character.")
        query[name] = value
    for name in _NOT_SERVED:
        if name in query:
            raise refusal.unsupported_query(name)
    return query


def whole_number(request: BlobRequest, name: str, low: int, high: int) -> int | None:
    """A number of the query, None where there is none.

    :raise Refusal: InvalidQueryParameterValue, OutOfRangeQueryParameterValue
    """
    text = request.query.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 19):
        raise refusal.invalid_query(name, "It is no whole number.")
    if not low <= int(text) <= high:
        raise refusal.Refusal(
            400,
            "OutOfRangeQueryParameterValue",
            "A query parameter specified in the request URI is outside the permissible range.",
            details={"QueryParameterName": name},
        )
    return int(text)


def read_range(headers: Headers, size_bytes: int) -> tuple[int, int] | None:
    """First byte and end (exclusive) of what is asked for, None for everything.

    :raise Refusal: InvalidHeaderValue, InvalidRange
    """
    text = headers.get("x-ms-range") or headers.get("range")
    if text is None:
        return None
    match = _RANGE.fullmatch(text.strip())
    if match is None or (match[2] and int(match[2]) < int(match[1])):
        raise refusal.invalid_header("Range", text)
    first = int(match[1])
    if first >= size_bytes:
        raise refusal.invalid_range(size_bytes)
    return first, min(int(match[2]) + 1 if match[2] else size_bytes, size_bytes)


def read_metadata(headers: Headers) -> dict[str, str]:
    """The `x-ms-meta-*` headers.

    :raise Refusal: EmptyMetadataKey, InvalidMetadata, MetadataTooLarge
    """
    prefix = "x-ms-meta-"
    metadata: dict[str, str] = {}
    for name, value in headers.items():
        if not name.startswith(prefix):
            continue
        key = name.removeprefix(prefix)
        if not key:
            raise refusal.Refusal(
                400, "EmptyMetadataKey", "The key for one of the metadata key-value pairs is empty."
            )
        if not _METADATA_NAME.fullmatch(key) or not value.isascii() or not _plain(value):
            raise refusal.Refusal(
                400,
                "InvalidMetadata",
                "The metadata specified is invalid. It has characters that are not permitted.",
            )
        metadata[key] = f"{metadata[key]},{value}" if key in metadata else value
    if sum(len(key) + len(value) for key, value in metadata.items()) > METADATA_LIMIT_BYTES:
        raise refusal.Refusal(
            400, "MetadataTooLarge", "The metadata specified exceeds the maximum size permitted."
        )
    return metadata


def content_length(headers: Headers) -> int:
    """:raise Refusal: MissingContentLengthHeader, when it is not told beforehand"""
    length = headers.get("content-length")
    if length is None or "transfer-encoding" in headers:
        raise refusal.missing_length()
    return int(length)  # the HTTP server has checked that it is one number


async def read_body(headers: Headers, receive: Receive, limit_bytes: int) -> bytes:
    """The whole body.

    :raise Refusal: MissingContentLengthHeader, RequestBodyTooLarge, OperationTimedOut,
        UnsupportedHeader, Md5Mismatch
    """
    for name in ("x-ms-structured-body", "x-ms-content-crc64"):
        if name in headers:
            raise refusal.unsupported_header(name)
    if content_length(headers) > limit_bytes:
        raise refusal.too_large(limit_bytes)
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            body = await _whole(receive, limit_bytes)
    except TimeoutError as slow:
        raise refusal.too_slow() from slow
    _check_md5(headers, body)
    return body


async def _whole(receive: Receive, limit_bytes: int) -> bytes:
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise refusal.too_slow()
        body += message.get("body", b"")
        if len(body) > limit_bytes:
            raise refusal.too_large(limit_bytes)
        more = message.get("more_body", False)
    return bytes(body)


def _check_md5(headers: Headers, body: bytes) -> None:
    text = headers.get("content-md5")
    if text is None:
        return
    try:
        wanted = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as garbled:
        raise refusal.invalid_header("Content-MD5", text) from garbled
    if wanted != hashlib.md5(body, usedforsecurity=False).digest():
        raise refusal.Refusal(
            400,
            "Md5Mismatch",
            "The MD5 value specified in the request did not match with the MD5 value calculated "
            "by the server.",
        )


def _plain(text: str) -> bool:
    """Without control characters: a line end could pass for the border of a signed field."""
    return not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in text)
