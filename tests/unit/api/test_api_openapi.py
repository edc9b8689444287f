"""The OpenAPI description: valid, complete, and kept by the server."""

from __future__ import annotations

import httpx
import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from quiesce.api.app import create_app
from quiesce.api.security import Trusted
from quiesce.service.service import Service


def test_every_call_has_words_an_answer_and_its_problems(tcp: httpx.Client) -> None:
    schema = tcp.get("/api/v1/openapi.json").json()

    for path, calls in schema["paths"].items():
        for method, call in calls.items():
            where = f"{method} {path}"
            assert call["description"], where
            assert any(status.startswith("2") for status in call["responses"]), where
            if path != "/api/v1/health":
                problem = call["responses"]["401"]["content"]
                assert list(problem) == ["application/problem+json"], where
                assert call["security"] == [{"token": []}], where
    text = str(schema)
    for name in schema["components"]["schemas"]:
        assert f"#/components/schemas/{name}" in text or name == "Problem"


def test_every_example_of_an_answer_fits_its_schema(tcp: httpx.Client) -> None:
    schema = tcp.get("/api/v1/openapi.json").json()
    checked = 0
    for calls in schema["paths"].values():
        for call in calls.values():
            for answer in call["responses"].values():
                content = answer.get("content", {}).get("application/json", {})
                if "example" in content:
                    whole = {**content["schema"], "components": schema["components"]}
                    jsonschema_rs.validate(whole, content["example"])
                    checked += 1
    assert checked >= 6


@pytest.mark.filterwarnings("ignore")
def test_no_generated_request_breaks_the_server(service: Service) -> None:
    app = Trusted(create_app(service))
    operations = [
        found.ok()
        for found in schemathesis.openapi.from_asgi(
            "/api/v1/openapi.json", app
        ).get_all_operations()
    ]
    assert len(operations) >= 25

    for operation in operations:

        @settings(
            max_examples=5, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        @given(case=operation.as_strategy())
        def answers_as_described(case: schemathesis.Case) -> None:
            answer = case.call()
            # A VM or agent that does not answer is said with 502; anything else is a defect.
            assert answer.status_code < 500 or answer.status_code == 502, answer.text
            if answer.status_code >= 400:
                assert answer.json()["code"] != "internal.defect"

        answers_as_described()
