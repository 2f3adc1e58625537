"""Gateway, scheduler, engines and tokenizers by what they answer: on a cluster or one machine."""

from collections import Counter
from collections.abc import Iterator

import msgspec

from shunter.commands.status import counted
from shunter.doctor.facts import EngineFacts, ModelFacts, Page, ServiceFacts, Silent, Unread
from shunter.doctor.findings import Finding, cut, failed, ok, skipped, warning
from shunter_scheduler.service.engine_metrics import publishes_load


def gateway(facts: ServiceFacts) -> Iterator[Finding]:
    """Its /ready: it serves and has heard from a scheduler."""
    found = facts.gateway
    if isinstance(found, Silent):
        yield failed(f"the gateway does not answer: {found.why}", "is it there, and up?")
    elif isinstance(found, Unread):
        yield skipped(found.why)
    elif found.status == 200:
        yield ok("the gateway is ready")
    elif found.status == 503 and "not ready" in found.text:
        yield failed("the gateway runs and has no scheduler", "see the checks of the scheduler")
    else:
        yield failed(
            f"the gateway answers {found.status}: {found.text[:200].strip()}",
            "are its pods ready, and does its Service select them?",
        )


def scheduler(facts: ServiceFacts) -> Iterator[Finding]:
    """gRPC health, and what the leader says of itself."""
    found = facts.scheduler
    if isinstance(found, Unread):
        yield skipped(found.why)
        return
    if not found.alive:
        yield failed(
            f"the scheduler at {found.address} does not answer that it is SERVING",
            "is it there, and up? where it serves TLS, give --scheduler-ca",
        )
        return
    if not found.leads:
        yield failed(
            f"the scheduler at {found.address} is alive and does not lead",
            "it stands by; ask the leader, or wait for it to take over",
        )
        return
    term = f", term {found.term}" if found.term else ""
    yield ok(f"the scheduler at {found.address} is SERVING and leads{term}")
    if found.config_error:
        yield failed(
            f"it refused an edit: {found.config_error}", "mend it: `shunter validate FILE`"
        )
    if not found.gateways:
        yield warning(
            "no gateway is connected to it", "start one, or look at its --scheduler and TLS options"
        )
    yield from _pools(facts)


def _pools(facts: ServiceFacts) -> Iterator[Finding]:
    assert not isinstance(facts.scheduler, Unread)
    empty = [pool.name for pool in facts.scheduler.pools if not pool.ready]
    out = [i for i in facts.scheduler.instances if i.state == "failed"]
    yield from cut(
        warning(
            f"pool {name} has no ready instance: its requests wait",
            f"`shunter status` shows its instances; on a cluster `kubectl describe smp/{name}`",
        )
        for name in empty
    )
    yield from cut(
        warning(
            f"instance {instance.name} at {instance.address} failed and gets no requests",
            "look at the engine's log",
        )
        for instance in out
    )
    if not facts.scheduler.pools:
        yield warning("the scheduler knows no pool", "give it one: see manifests/")
    elif not empty and not out:
        pools = counted(len(facts.scheduler.pools), "pool")
        instances = counted(len(facts.scheduler.instances), "instance")
        yield ok(f"{pools} with {instances}, none without")


def engines(facts: ServiceFacts) -> Iterator[Finding]:
    """Each engine serves its model, and can do what its type's adapter counts on."""
    if isinstance(facts.engines, Unread):
        yield skipped(facts.engines.why)
        return
    if not facts.engines:
        yield skipped("there is no engine to ask")
        return
    fine, unread, wrong = 0, Counter[str](), list[Finding]()
    for engine in facts.engines:
        if isinstance(engine.health, Unread) and not isinstance(engine.health, Silent):
            unread[engine.health.why] += 1
            continue
        found = list(_engine(engine))
        fine += not found
        wrong += found
    yield from cut(wrong)
    for why, count in unread.items():
        yield skipped(f"{counted(count, 'engine')}: {why}")
    if fine:
        yield ok(f"{counted(fine, 'engine')} as promised by type: model, token ids, metrics")
    if facts.unasked:
        yield skipped(f"{facts.unasked} more engines were not asked")


def _engine(engine: EngineFacts) -> Iterator[Finding]:
    if why := _page_trouble(engine.health):
        yield failed(f"engine {engine.name}: /health {why}", f"look at the log of {engine.name}")
        return
    model = engine.model
    if model is not None:
        yield from _model(engine, model)
    if isinstance(engine.token_ids, Unread) and (model is None or model.declared):
        yield warning(
            f"engine {engine.name} gives no token ids ({engine.token_ids.why}): its requests "
            "can be started again, not moved",
            "serve /tokenize: for vllm, the image's own API server without a proxy in front",
        )
    if why := _page_trouble(engine.metrics):
        yield warning(f"engine {engine.name}: /metrics {why}", _METRICS)
    elif isinstance(engine.metrics, Page) and not publishes_load(engine.metrics.text):
        yield warning(f"engine {engine.name}: /metrics tells nothing of its load", _METRICS)


_METRICS = "without it load is judged by the scheduler's ledger alone; llama-server needs --metrics"


class _Model(msgspec.Struct):
    id: str = ""
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[_Model] = []


def _model(engine: EngineFacts, model: ModelFacts) -> Iterator[Finding]:
    if why := _page_trouble(engine.models):
        yield warning(f"engine {engine.name}: /v1/models {why}", "is it an OpenAI server?")
        return
    assert isinstance(engine.models, Page)
    try:
        served = msgspec.json.decode(engine.models.text, type=_Models).data
    except msgspec.DecodeError as error:
        yield warning(f"engine {engine.name}: /v1/models: {error}", "is it an OpenAI server?")
        return
    named = next((entry for entry in served if entry.id == model.name), None)
    if named is None:
        names = ", ".join(entry.id for entry in served[:3]) or "nothing"
        yield failed(
            f"engine {engine.name} serves {names}, and pool {engine.pool} asks for {model.name}",
            "take a served-model name out of engine.args, or set model.name to it",
        )
    elif named.max_model_len is not None and named.max_model_len < model.context_length:
        yield warning(
            f"engine {engine.name} takes {named.max_model_len} tokens, pool {engine.pool} promises "
            f"{model.context_length}",
            "lower model.contextLength, or raise the engine's",
        )


def tokenizers(facts: ServiceFacts) -> Iterator[Finding]:
    """What the gateway reads from the model's files, against what engines do."""
    if isinstance(facts.engines, Unread) or not facts.tokenizers:
        yield skipped("no tokenizer was read here", "gateways read them; see their logs")
        return
    for source, own in facts.tokenizers.items():
        if isinstance(own, Unread):
            yield warning(
                f"no tokenizer of {source} ({own.why}): its requests can only be started again",
                "let gateways reach the model's files, or give a source with a tokenizer.json",
            )
            continue
        asked = [e for e in facts.engines if e.model is not None and e.model.source == source]
        heard = {e.name: e.token_ids for e in asked if not isinstance(e.token_ids, Unread)}
        differing = [name for name, ids in heard.items() if ids != own]
        if differing:
            yield warning(
                f"the tokenizer of {', '.join(differing)} differs from that of {source}",
                "serve the same revision everywhere; until then requests are not moved",
            )
        elif heard:
            yield ok(f"{source}: {counted(len(heard), 'engine')} with the tokenizer of its files")


def _page_trouble(page: Page | Unread) -> str:
    if isinstance(page, Unread):
        return f"does not answer: {page.why}"
    return "" if page.status == 200 else f"answers {page.status}"
