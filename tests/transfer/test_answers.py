"""Answers that Pulltap gives in a registry's or an upstream's place."""

import json

import pytest

from addon.auth.tokens import TokenUnavailable
from addon.registry.errors import ErrorCode, SpecError
from addon.transfer import answers
from addon.transfer.upstream import UpstreamError


def test_text_is_for_people() -> None:
    response = answers.text(503, "the store is full\n")
    assert (response.status_code, response.reason, response.text) == (503, "Service Unavailable", "the store is full\n")
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert response.headers["Content-Length"] == "18"


def test_a_refusal_is_by_the_specification() -> None:
    error = SpecError(416, ErrorCode.SIZE_INVALID, "no such range", {"Content-Range": "bytes */7"})
    response = answers.refusal(error)
    assert response.status_code == 416
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Content-Range"] == "bytes */7"
    assert json.loads(response.content or b"") == {"errors": [{"code": "SIZE_INVALID", "message": "no such range"}]}


def test_a_limit_of_the_token_service_is_a_limit() -> None:
    response = answers.unavailable(TokenUnavailable("the token service limits requests", 429, "17"))
    assert (response.status_code, response.headers["Retry-After"]) == (429, "17")
    assert json.loads(response.content or b"")["errors"][0]["code"] == "TOOMANYREQUESTS"


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_token_service_that_fails_is_no_fault_of_the_client(status: int) -> None:
    response = answers.unavailable(TokenUnavailable("cannot reach the token service", status))
    assert (response.status_code, response.headers["Retry-After"]) == (503, "10")
    assert response.text == "pulltap: cannot reach the token service\n"


@pytest.mark.parametrize("status", [502, 504])
def test_an_upstream_that_does_not_answer(status: int) -> None:
    response = answers.unreachable(UpstreamError("no route to host", status))
    assert (response.status_code, response.text) == (status, "pulltap: no route to host\n")
