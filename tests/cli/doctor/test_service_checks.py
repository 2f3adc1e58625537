"""The checks of processes that a cluster and one machine have alike, one thing wrong at a time."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from doctor_facts import engine, expect, scheduler, service
from shunter.doctor import check_service
from shunter.doctor.facts import InstanceFacts, Page, PoolFacts, ServiceFacts, Silent, Unread
from shunter.doctor.findings import Finding, State

SERVICE_CASES: list[
    tuple[str, Callable[[ServiceFacts], Iterable[Finding]], dict[str, Any], State, str, str]
] = [
    ("no scheduler", check_service.gateway, {"gateway": Page(503, "not ready\n")},
     State.failed, "has no scheduler", "scheduler"),
    ("no gateway", check_service.gateway, {"gateway": Page(503, "no endpoints available")},
     State.failed, "no endpoints available", "Service"),
    ("dead", check_service.scheduler, {"scheduler": scheduler(alive=False, leads=False)},
     State.failed, "does not answer", "--scheduler-ca"),
    ("standby", check_service.scheduler, {"scheduler": scheduler(leads=False)},
     State.failed, "does not lead", "ask the leader"),
    ("refused edit", check_service.scheduler, {"scheduler": scheduler(config_error="a.yaml:3")},
     State.failed, "a.yaml:3", "shunter validate"),
    ("no gateway is connected", check_service.scheduler, {"scheduler": scheduler(gateways=0)},
     State.warning, "no gateway", "TLS"),
    ("an empty pool", check_service.scheduler,
     {"scheduler": scheduler(pools=(PoolFacts("chat", 0),))},
     State.warning, "chat has no ready instance", "shunter status"),
    ("no pool", check_service.scheduler, {"scheduler": scheduler(pools=(), instances=())},
     State.warning, "knows no pool", "manifests"),
    ("a failed instance", check_service.scheduler,
     {"scheduler": scheduler(instances=(InstanceFacts("a", "chat", "h:1", "failed"),))},
     State.warning, "a at h:1 failed", "log"),
    ("a dead engine", check_service.engines, {"engines": (engine(health=Silent("refused")),)},
     State.failed, "/health does not answer: refused", "log"),
    ("another model", check_service.engines,
     {"engines": (engine(models=Page(200, '{"data": [{"id": "other"}]}')),)},
     State.failed, "serves other, and pool chat asks for chat", "model.name"),
    ("a shorter context", check_service.engines,
     {"engines": (engine(models=Page(200, '{"data": [{"id": "chat", "max_model_len": 4096}]}')),)},
     State.warning, "takes 4096 tokens", "contextLength"),
    ("no token ids", check_service.engines,
     {"engines": (engine(token_ids=Unread("/tokenize answers 404")),)},
     State.warning, "not moved", "/tokenize"),
    ("no metrics", check_service.engines, {"engines": (engine(metrics=Page(404, "")),)},
     State.warning, "/metrics answers 404", "--metrics"),
    ("foreign metrics", check_service.engines, {"engines": (engine(metrics=Page(200, "up 1")),)},
     State.warning, "nothing of its load", "ledger"),
    ("not OpenAI", check_service.engines, {"engines": (engine(models=Page(200, "<html>")),)},
     State.warning, "/v1/models", "OpenAI"),
    ("too many", check_service.engines, {"unasked": 9}, State.skipped, "9 more engines", ""),
    ("another tokenizer", check_service.tokenizers, {"engines": (engine(token_ids=(9,)),)},
     State.warning, "chat-h100-0 differs", "same revision"),
    ("no tokenizer", check_service.tokenizers, {"tokenizers": {"hf://org/model": Unread("404")}},
     State.warning, "no tokenizer of hf://org/model (404)", "tokenizer.json"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("check", "changes", "state", "said", "remedy"),
    [case[1:] for case in SERVICE_CASES],
    ids=[case[0] for case in SERVICE_CASES],
)
def test_what_is_wrong_with_the_processes_is_named_with_its_remedy(
    check: Callable[[ServiceFacts], Iterable[Finding]],
    changes: dict[str, Any],
    state: State,
    said: str,
    remedy: str,
) -> None:
    expect(list(check(service(**changes))), state, said, remedy)


def test_text_level_engines_need_no_token_ids() -> None:
    model = engine().model
    assert model is not None
    plain = engine(model=replace(model, declared=False), token_ids=Unread("404"))
    assert [f.state for f in check_service.engines(service(engines=(plain,)))] == [State.ok]


def test_a_gateway_that_does_not_answer_is_no_gateway_that_was_not_asked() -> None:
    silent = list(check_service.gateway(service(gateway=Silent("connection refused"))))
    expect(silent, State.failed, "connection refused", "up")
    assert [f.state for f in check_service.gateway(service(gateway=Unread("name it")))] == [
        State.skipped
    ]


def test_engines_that_may_not_be_asked_are_counted() -> None:
    unasked = tuple(engine(f"e{n}", health=Unread("may not")) for n in range(3))
    (finding,) = check_service.engines(service(engines=unasked))
    assert (finding.state, finding.message) == (State.skipped, "3 engines: may not")
