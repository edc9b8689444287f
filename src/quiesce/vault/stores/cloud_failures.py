"""What object stores say when they refuse, as failures.

The client's errors carry the server's status and body as text only. What is read here are the
codes that the services document:
S3 https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
Azure https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes
Google https://cloud.google.com/storage/docs/xml-api/reference-status
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from quiesce.model.failure import Evidence, StorageFailure
from quiesce.vault.stores.store import ObjectMissing

_STATUS = re.compile(r"status code: (\d{3})|\(code: (\d{3})\)")
_CODE = re.compile(r"<Code>([A-Za-z0-9]{1,60})</Code>|\(code: ([A-Za-z]{1,60})\)")
_MESSAGE = re.compile(r"<Message>(.*?)</Message>", re.DOTALL)
_BODY = re.compile(r"status code: (.*)|request failed for key \S+: (.*)", re.DOTALL)
_REASON = re.compile(r'(?:message|error): "((?:[^"\\]|\\.){1,200})"')
_QUERY = re.compile(r"\?[^\s\"<>]+")
_NAMES = re.compile(r"(?:https?:/|arn:|/)\S+")
_RAW_CHARACTERS = 600

_VANISHED = re.compile(
    r"NoSuchBucket|ContainerNotFound|ContainerBeingDeleted|AccountIsDisabled"
    r"|specified (?:container|bucket) does not exist",
    re.IGNORECASE,
)
_LOCKED = re.compile(
    r"object ?lock|\bworm\b|immutab|legal ?hold|retention|ObjectUnderActiveHold|under active",
    re.IGNORECASE,
)
_EXPIRED = re.compile(
    r"Expired|TokenRefreshRequired|specified time frame|invalid_grant", re.IGNORECASE
)
_REFUSED = re.compile(
    r"InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken|InvalidSecurity|AuthenticationFailed"
    r"|AuthorizationFailure|AuthenticationRequired|InvalidAuthenticationInfo|NoAuthentication"
    r"|RequestTimeTooSkewed|UnrecognizedClient|token request|credential",
    re.IGNORECASE,
)
_THROTTLED = re.compile(
    r"SlowDown|ServerBusy|TooManyRequests|Throttl|RequestLimitExceeded|rateLimitExceeded"
)
_FULL = re.compile(r"StorageFull|QuotaExceeded|InsufficientStorage|InsufficientCapacity")
_ARCHIVED = re.compile(r"InvalidObjectState|BlobArchived|BlobBeingRehydrated")
_REGION = re.compile(r"PermanentRedirect|AuthorizationHeaderMalformed|IllegalLocation")
_CONFLICT = re.compile(r"ConditionalRequestConflict|OperationAborted")
_NO_LOCKS = re.compile(r"ObjectLockConfigurationNotFound|missing Object ?Lock", re.IGNORECASE)
_NOT_IMPLEMENTED = re.compile(r"NotImplemented|UnsupportedHeader")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `status` is 0 when nothing did."""

    status: int
    code: str
    said: str
    """The server's own words, without URLs and names: a bucket may be called anything."""
    words: str
    """Bounded, printable, without the query of any URL, which may hold a signature."""

    @classmethod
    def of(cls, error: BaseException) -> Answer:
        text, _, inside = str(error).partition("Debug source")
        text = _QUERY.sub("?…", text).strip()
        status = _STATUS.search(text)
        code = _CODE.search(text)
        body = _BODY.search(text)
        said = next(filter(None, body.groups()), "") if body else text
        message = _MESSAGE.search(said)
        if code and message:
            said = f"{next(filter(None, code.groups()))} {message[1]}"
        if not status and (reasons := _REASON.findall(inside)):
            text += f": {_QUERY.sub('?…', reasons[-1])}"  # such as "Connection refused"
        return cls(
            int(next(filter(None, status.groups()))) if status else 0,
            next(filter(None, code.groups())) if code else "",
            _NAMES.sub(" ", said),
            "".join(c if c.isprintable() else " " for c in text)[:_RAW_CHARACTERS].strip(),
        )

    @property
    def out_of_range(self) -> bool:
        return self.status == 416 or "Wanted range starting at" in self.words

    @property
    def conflict(self) -> bool:
        """Two changes of one object met; which of them won is not known yet."""
        return bool(_CONFLICT.search(self.said))

    @property
    def vanished(self) -> bool:
        return bool(_VANISHED.search(self.said))

    @property
    def condition_unknown(self) -> bool:
        return self.status == 501 or bool(_NOT_IMPLEMENTED.search(self.said))


def explain(error: BaseException, where: str, doing: str) -> StorageFailure:
    """The failure that an error of the client stands for. `where` names store and object."""
    answer = Answer.of(error)
    told = f"{answer.status} {answer.code}".strip() if answer.status else "no answer"
    evidence = [Evidence(f"{told} while trying to {doing}", where, raw=answer.words)]

    def failure(
        code: str, message: str, *, retryable: bool = False, remedy: str = ""
    ) -> StorageFailure:
        return StorageFailure(code, message, evidence=evidence, retryable=retryable, remedy=remedy)

    said, status = answer.said, answer.status
    if _NO_LOCKS.search(said) or ("lock" in doing and answer.condition_unknown):
        return failure(
            "storage.locks-unsupported", f"The bucket of {where} has no retention locks."
        )
    if answer.vanished:
        return failure(
            "storage.vanished",
            f"The bucket or container of {where} is not there.",
            retryable=True,
        )
    if status == 404 or isinstance(error, FileNotFoundError):
        return ObjectMissing(
            "storage.object-missing", f"{where} does not exist.", evidence=evidence
        )
    if status in (400, 401, 403, 409, 412) and _ARCHIVED.search(said):
        return failure(
            "storage.object-archived", f"{where} was moved to storage that cannot be read at once."
        )
    if status in (403, 405, 409, 412) and _LOCKED.search(said):
        return failure("storage.locked", f"A retention lock holds {where} for now.")
    if _FULL.search(said) or status == 507:
        return failure("storage.full", f"The store has no space left for {where}.")
    if status in (429, 503) or _THROTTLED.search(said):
        return failure(
            "storage.throttled",
            f"The store asks for fewer requests: could not {doing} {where}.",
            retryable=True,
        )
    if status in (301, 307, 400) and _REGION.search(said):
        return failure(
            "storage.io-error",
            f"{where} lies in another region than was asked.",
            remedy="Set AWS_REGION to the bucket's region.",
        )
    expired = bool(_EXPIRED.search(said)) and 400 <= status < 404
    if expired or status == 401 or (status < 500 and _REFUSED.search(said)):
        return failure(
            "storage.credentials-refused",
            f"The store does not accept the credentials: could not {doing} {where}.",
            retryable=expired,
            remedy="The credentials have expired: renew them, then run the job again; what is "
            "stored is not sent twice."
            if expired
            else "",
        )
    if status == 403:
        return failure("storage.denied", f"These credentials may not {doing} {where}.")
    if not status:
        return failure(
            "storage.unreachable",
            f"The store did not answer: could not {doing} {where}.",
            retryable=True,
        )
    return failure(
        "storage.io-error",
        f"Could not {doing} {where}: the store answered {told}.",
        retryable=status >= 500 or status in (408, 409),
        remedy="What the store said is in the evidence. If it is a passing error of its own, try "
        "again; else look at its logs, and whether it can do all that is asked of it: see "
        "docs/how-to/keep-a-vault-in-the-cloud.md.",
    )
