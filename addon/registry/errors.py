"""Errors as a registry says them.

Source: OCI Distribution Specification 1.1, "Error Codes": the body is ``{"errors": [{"code", "message"}]}``.
Only the codes of that table are used, so that a client can rely on them.
"""

import enum
import json


class ErrorCode(enum.StrEnum):
    """The specification's codes that Pulltap has a use for."""

    BLOB_UNKNOWN = "BLOB_UNKNOWN"
    DIGEST_INVALID = "DIGEST_INVALID"
    NAME_INVALID = "NAME_INVALID"
    SIZE_INVALID = "SIZE_INVALID"
    UNAUTHORIZED = "UNAUTHORIZED"
    DENIED = "DENIED"
    UNSUPPORTED = "UNSUPPORTED"
    TOOMANYREQUESTS = "TOOMANYREQUESTS"


class SpecError(Exception):
    """A refusal by Pulltap itself: the HTTP status, the code, a sentence, and further response headers."""

    def __init__(self, status: int, code: ErrorCode, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}

    def body(self) -> bytes:
        """The error's JSON body."""
        return json.dumps({"errors": [{"code": self.code, "message": self.message}]}).encode() + b"\n"
