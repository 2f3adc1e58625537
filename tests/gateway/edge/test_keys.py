"""API keys: who gets in, what their headers may say, reload, and what never leaks."""

import asyncio
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml

from edge_service import run_service
from shunter_gateway.edge.testing import Script
from shunter_gateway.keys import ANYBODY, KeyFile, KeyFileError, OpenKeys
from shunter_gateway.request import ClientError, WorkflowStage
from shunter_runtime.logs import configure_logging

PLAIN, TRUSTED = "sk-plain-0123456789", "sk-trusted-0123456789"
USER = [{"role": "user", "content": "hi"}]
SECRET = "plumbusword"


def entry(key: str, **fields: Any) -> dict[str, Any]:
    return {"name": key[3:8], "sha256": hashlib.sha256(key.encode()).hexdigest(), **fields}


def write(path: Path, *entries: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(list(entries)))
    return path


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return write(
        tmp_path / "keys.yaml",
        entry(PLAIN, tenant="acme", classes=["standard", "batch"]),
        entry(TRUSTED, tenant="proxy", may_set_headers=True),
    )


def test_identify(key_file: Path) -> None:
    keys = KeyFile(key_file)
    key = keys.identify(f"Bearer {PLAIN}")
    assert key is not None and (key.tenant, key.classes) == ("acme", ("standard", "batch"))
    trusted = keys.identify(f"bearer {TRUSTED}")
    assert trusted is not None and trusted.may_set_headers
    for wrong in (None, "", "Bearer", "Bearer ", PLAIN, f"Basic {PLAIN}", f"Bearer {PLAIN}x"):
        assert keys.identify(wrong) is None
    assert OpenKeys().identify(None) is ANYBODY


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("- name: a\n  sha256: zz\n", "$[0].sha256"),
        ("- sha256: " + "0" * 64, "name"),
        ("- {name: a, sha256: " + "ab" * 32 + ", tennant: x}", "tennant"),
        ("a: [", ":"),
        ("- 5", "$[0]"),
    ],
)
def test_a_bad_file_names_the_place(tmp_path: Path, text: str, place: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(KeyFileError) as caught:
        KeyFile(path)
    assert str(path) in str(caught.value)
    assert place in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="No such file"):
        KeyFile(tmp_path / "none.yaml")


def test_reload(key_file: Path) -> None:
    heard: list[str] = []
    keys = KeyFile(key_file, heard.append)
    keys.reload()
    assert heard == []
    write(key_file, entry("sk-new"))
    keys.reload()
    assert keys.identify("Bearer sk-new") is not None
    assert keys.identify(f"Bearer {PLAIN}") is None
    key_file.write_text("- broken: [")
    keys.reload()
    keys.reload()
    assert keys.identify("Bearer sk-new") is not None
    assert heard == ["loaded", "refused"]


async def test_watch_reads_a_changed_file(key_file: Path) -> None:
    keys = KeyFile(key_file)
    watching = asyncio.create_task(keys.watch(interval_s=0.01))
    write(key_file, entry("sk-new"))
    async with asyncio.timeout(5):
        while keys.identify("Bearer sk-new") is None:
            await asyncio.sleep(0.01)
    watching.cancel()


async def test_wrong_and_missing_keys(key_file: Path) -> None:
    async with run_service(keys=KeyFile(key_file), api_key="sk-wrong-0123456789") as service:
        with pytest.raises(openai.AuthenticationError) as caught:
            await service.client.chat.completions.create(model="chat", messages=USER)
        assert caught.value.code == "invalid_api_key"
        async with service.http.get(service.url + "/v1/models") as answer:
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        for page in ("/health", "/ready", "/metrics"):
            async with service.http.get(service.url + page) as answer:
                assert answer.status == 200
        assert service.runner.handles == []


async def test_headers_count_only_from_keys_that_may_set_them(key_file: Path) -> None:
    headers = {
        "x-shunter-class": "interactive",
        "x-shunter-tenant": "other",
        "x-shunter-deadline-ms": "1500",
        "x-tier": "gold",
        "x-other": "unseen",
    }
    async with run_service(keys=KeyFile(key_file)) as service:
        for key in (PLAIN, TRUSTED):
            await service.client.with_options(api_key=key).chat.completions.create(
                model="chat", messages=USER, extra_headers=headers
            )
        plain, trusted = service.runner.specs
    assert (plain.tenant, plain.slo_class, plain.deadline_s) == ("acme", "", 0.0)
    assert plain.allowed_classes == ("standard", "batch")
    assert (trusted.tenant, trusted.slo_class) == ("other", "interactive")
    assert trusted.deadline_s == 1.5
    assert plain.headers == trusted.headers == {"x-tier": "gold"}


async def test_inference_extension_headers(key_file: Path) -> None:
    headers = {
        "x-gateway-inference-objective": "batch",
        "x-gateway-inference-fairness-id": "flow-7",
    }
    async with run_service(keys=KeyFile(key_file), api_key=TRUSTED) as service:
        await service.client.chat.completions.create(
            model="chat", messages=USER, extra_headers=headers
        )
        spec = service.runner.specs[0]
    assert (spec.slo_class, spec.tenant) == ("batch", "flow-7")


WORKFLOW = {
    "x-shunter-workflow": "wf-7",
    "x-shunter-workflow-deadline-ms": "30000",
    "x-shunter-stage": "revise",
    "x-shunter-stages-left": "evaluate, answer",
}


async def test_the_stage_of_a_workflow_counts_from_keys_that_may_say(key_file: Path) -> None:
    async with run_service(keys=KeyFile(key_file)) as service:
        for key in (PLAIN, TRUSTED):
            await service.client.with_options(api_key=key).chat.completions.create(
                model="chat", messages=USER, extra_headers=WORKFLOW
            )
        plain, trusted = service.runner.specs
    assert plain.workflow is None
    assert trusted.workflow == WorkflowStage("wf-7", "revise", ("evaluate", "answer"), 30.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-shunter-workflow", "a b"),
        ("x-shunter-workflow", "w" * 129),
        ("x-shunter-workflow-deadline-ms", "-1"),
        ("x-shunter-stage", "s" * 65),
        ("x-shunter-stages-left", "a,,b"),
        ("x-shunter-stages-left", "a,b c"),
        ("x-shunter-stages-left", ",".join(["a"] * 65)),
    ],
)
async def test_a_workflow_out_of_bounds_is_named(name: str, value: str) -> None:
    async with run_service() as service:
        with pytest.raises(openai.BadRequestError) as caught:
            await service.client.chat.completions.create(
                model="chat", messages=USER, extra_headers={**WORKFLOW, name: value}
            )
        assert caught.value.param == name
        assert service.runner.specs == []


async def test_a_bad_deadline_is_named() -> None:
    async with run_service() as service:
        for value in ("soon", "-5", "0", "9" * 30):
            with pytest.raises(openai.BadRequestError) as caught:
                await service.client.chat.completions.create(
                    model="chat", messages=USER, extra_headers={"x-shunter-deadline-ms": value}
                )
            assert caught.value.param == "x-shunter-deadline-ms"


async def test_request_ids_and_decision() -> None:
    async with run_service() as service:
        body = {"model": "chat", "messages": USER}
        url = service.url + "/v1/chat/completions"
        async with service.http.post(url, json=body, headers={"x-request-id": "mine-1"}) as answer:
            assert answer.headers["x-shunter-request-id"] == "req-1"
            assert answer.headers["x-request-id"] == "mine-1"
            assert answer.headers["x-shunter-decision"] == "chat/sim-0"
        async with service.http.post(
            url, json={**body, "stream": True}, headers={"x-request-id": "not sane; at all"}
        ) as answer:
            assert answer.headers["x-request-id"] == answer.headers["x-shunter-request-id"]
            assert answer.headers["x-shunter-decision"] == "chat/sim-0"
        async with service.http.post(url, json={}) as answer:
            assert answer.headers["x-shunter-request-id"] == "req-3"


async def test_traceparent_goes_on() -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    async with run_service() as service:
        await service.client.chat.completions.create(
            model="chat",
            messages=USER,
            extra_headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"},
        )
        (span,) = service.spans.get_finished_spans()
        assert span.name == "gateway.request"
        assert span.context is not None and f"{span.context.trace_id:032x}" == trace
        parent = f"00-{trace}-{span.context.span_id:016x}-01"
        assert service.runner.specs[0].trace_parent == parent
        assert dict(span.attributes or {})["shunter.decision"] == "chat/sim-0"


async def test_no_prompt_and_no_key_in_logs_spans_or_errors(key_file: Path) -> None:
    log = io.StringIO()
    configure_logging("debug", log)
    messages = [{"role": "user", "content": SECRET}]
    lost = ClientError(502, "The engine was lost.", "server_error")
    scripts = [Script(words=(SECRET,)), Script(words=(SECRET,), error=lost)]

    def script(_: object) -> Script:
        if not scripts:
            raise ZeroDivisionError(SECRET)  # a fault of ours whose message holds a prompt
        return scripts.pop(0)

    errors: list[str] = []
    async with run_service(script, keys=KeyFile(key_file), api_key=PLAIN) as service:
        create = service.client.chat.completions.create
        await create(model="chat", messages=messages)
        for fields in ({}, {}, {"max_tokens": -1}, {"model": SECRET[:3]}, {"stop": [SECRET, 5]}):
            with pytest.raises(openai.APIStatusError) as caught:
                await create(**{"model": "chat", "messages": messages, **fields})
            errors.append(caught.value.response.text)
        with pytest.raises(openai.AuthenticationError) as refused:
            await service.client.with_options(api_key="sk-wrong-" + SECRET).models.list()
        errors.append(refused.value.response.text)
        async with service.http.get(service.url + "/metrics") as answer:
            metrics = await answer.text()
        spans = [span.to_json() for span in service.spans.get_finished_spans()]
    assert "ZeroDivisionError" in log.getvalue()
    assert len(spans) == 7
    for text in (log.getvalue(), metrics, *spans, *errors):
        assert SECRET not in text
        assert PLAIN not in text
    assert [json.loads(text)["error"]["code"] for text in errors][1] == "internal"


@pytest.fixture(autouse=True)
def _quiet_logs() -> Any:
    yield
    configure_logging("error")
