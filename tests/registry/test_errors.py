import json

import pytest

from addon.registry.errors import ErrorCode, SpecError

# OCI Distribution Specification 1.1, "Error Codes".
SPECIFIED = {
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "UNAUTHORIZED",
    "DENIED",
    "UNSUPPORTED",
    "TOOMANYREQUESTS",
}


def test_only_codes_of_the_specification() -> None:
    assert set(ErrorCode) <= SPECIFIED


@pytest.mark.parametrize("message", ["no such blob", 'a "quoted" one', "новый\n\x00", ""])
def test_the_body_is_of_the_specification(message: str) -> None:
    error = SpecError(404, ErrorCode.BLOB_UNKNOWN, message)
    assert json.loads(error.body()) == {"errors": [{"code": "BLOB_UNKNOWN", "message": message}]}
    assert error.body().isascii()


def test_it_is_an_error_that_says_what_is_wrong() -> None:
    error = SpecError(400, ErrorCode.NAME_INVALID, "invalid repository name")
    assert str(error) == "invalid repository name"
    assert (error.status, error.code, error.headers) == (400, "NAME_INVALID", {})


def test_headers_are_the_errors_own() -> None:
    SpecError(400, ErrorCode.DENIED, "one").headers["X"] = "1"
    assert SpecError(400, ErrorCode.DENIED, "two").headers == {}
