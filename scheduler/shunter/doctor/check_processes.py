"""The release's own processes on a cluster, who leads, webhooks, and what pools say. Pure."""

from collections.abc import Iterator

from shunter.commands.status import counted
from shunter.doctor.facts import (
    CONFIGURATIONS,
    PARTS,
    ClusterFacts,
    LeaseFacts,
    Object,
    Page,
    Part,
    SchedulerPages,
    Silent,
    Unread,
)
from shunter.doctor.findings import Finding, cut, failed, ok, skipped, warning

PROCESSES = ("shunter-gateway", "shunter-scheduler", "shunter-operator")
VERSION_LABEL = "app.kubernetes.io/version"
LEADING = "shunter_scheduler_leading"


def processes(facts: ClusterFacts) -> Iterator[Finding]:
    """Each Deployment of the chart, and whether its version is that of this command."""
    if isinstance(facts.deployments, Unread):
        yield skipped(facts.deployments.why)
        return
    for name in PROCESSES:
        found = facts.deployments.get(name)
        if found is None:
            yield failed(
                f"there is no Deployment {name} in namespace {facts.place.namespace}",
                "name the release's namespace with --namespace, or helm install",
            )
            continue
        wanted = (found.get("spec") or {}).get("replicas", 1)
        ready = (found.get("status") or {}).get("readyReplicas", 0)
        told = f"{name}: {ready} of {wanted} ready"
        look = f"kubectl -n {facts.place.namespace} describe pods -l {_selector(found)}"
        if not wanted:
            scale = f"kubectl -n {facts.place.namespace} scale deployment/{name} --replicas=2"
            yield failed(f"{name} is scaled to 0", f"{scale}, or helm upgrade")
        elif ready == wanted:
            yield ok(told)
        else:
            yield (warning if ready else failed)(told, look)
    versions = {_version(d) for d in facts.deployments.values()} - {"", facts.version}
    if versions:
        yield warning(
            f"the release is of version {', '.join(sorted(versions))}, this command of "
            f"{facts.version}",
            "ask with the release's own: kubectl exec deploy/shunter-operator -- shunter doctor",
        )


def leaders(facts: ClusterFacts) -> Iterator[Finding]:
    for part in PARTS:
        lease = facts.leases[part]
        if isinstance(lease, Unread):
            yield skipped(f"Lease shunter-{part}: {lease.why}")
        else:
            yield _lease(part, lease, facts.place.namespace)


def _lease(part: Part, lease: LeaseFacts, namespace: str) -> Finding:
    logs = f"kubectl -n {namespace} logs -l app.kubernetes.io/component={part} --tail=50"
    if not lease.holder or lease.renewed_at is None:
        return failed(f"no {part} leads: nobody holds the Lease shunter-{part}", logs)
    told = f"{_pod(lease)} holds the Lease shunter-{part}"
    if lease.seen_at is None:
        return ok(told)
    age_s = max(0.0, (lease.seen_at - lease.renewed_at).total_seconds())
    told = f"{told}, renewed {age_s:.0f} s ago"
    # Twice: the API server's clock is read to the second, and the next renewal may be on its way.
    if age_s > 2 * lease.duration_s:
        return failed(f"{told}: it has run out", f"{logs}; is its node there?")
    return ok(told)


def _pod(lease: LeaseFacts) -> str:
    return lease.holder.partition("_")[0]


def schedulers(facts: ClusterFacts) -> Iterator[Finding]:
    """Each scheduler answers, and the one that says it leads is the one with the Lease."""
    if isinstance(facts.schedulers, Unread):
        yield skipped(facts.schedulers.why)
        return
    leading, asked = [], 0
    for pod, pages in facts.schedulers.items():
        if isinstance(pages.health, Unread) and not isinstance(pages.health, Silent):
            yield skipped(f"{pod}: {pages.health.why}")
            continue
        asked += 1
        if why := _trouble_of(pages):
            logs = f"kubectl -n {facts.place.namespace} logs {pod} --tail=50"
            yield failed(f"{pod}: {why}", logs)
        elif isinstance(pages.metrics, Page) and f"\n{LEADING} 1" in pages.metrics.text:
            leading.append(pod)
    if asked:
        yield from _leadership(leading, facts, asked)


def _leadership(leading: list[str], facts: ClusterFacts, count: int) -> Iterator[Finding]:
    if not leading:
        yield failed("no scheduler leads", "look at the Lease shunter-scheduler and at their logs")
    elif len(leading) > 1:
        yield failed(
            f"{' and '.join(leading)} both say that they lead",
            "gateways obey the higher term; delete the older pod",
        )
    else:
        yield _holds_the_lease(leading[0], facts, count)
        if count == 1:
            yield warning("there is no standby scheduler", "set scheduler.replicas to 2")


def _holds_the_lease(leading: str, facts: ClusterFacts, count: int) -> Finding:
    lease = facts.leases["scheduler"]
    if not isinstance(lease, Unread) and lease.holder and _pod(lease) != leading:
        return warning(
            f"{leading} leads, and {_pod(lease)} has the Lease",
            "leadership may be changing hands: look again in ten seconds",
        )
    return ok(f"{leading} leads of {counted(count, 'scheduler')}")


def _trouble_of(pages: SchedulerPages) -> str:
    if isinstance(pages.health, Unread):
        return pages.health.why
    return "" if pages.health.status == 200 else f"/health says {pages.health.status}"


def webhooks(facts: ClusterFacts) -> Iterator[Finding]:
    """Configurations that call for ModelPools or RoutingPolicies: who checks them can be called,
    and those that the operator serves are there."""
    if isinstance(facts.webhooks, Unread):
        yield skipped(facts.webhooks.why)
        return
    wanted, there = facts.place.webhooks, {_full_name(found) for found in facts.webhooks}
    for kind in CONFIGURATIONS if wanted else ():
        if f"{kind} {wanted}" not in there:
            yield failed(
                f"there is no {kind} {wanted}: nothing is asked of the operator at admission",
                "helm upgrade makes it again, and the operator fills it in",
            )
    if not wanted and not facts.webhooks:
        yield ok("none are installed: resources are checked by schema and by the operator")
    yield from map(_configuration, facts.webhooks)


def _configuration(found: Object) -> Finding:
    entries = found.get("webhooks") or ()
    bare = [w["name"] for w in entries if not _callable(w["clientConfig"])]
    name = _full_name(found)
    if not entries:
        return warning(
            f"{name} has no entries: nothing is checked at admission",
            "the operator fills it in once it has a certificate; look at its log",
        )
    if bare:
        return failed(
            f"{name}: {', '.join(bare)} without a caBundle",
            "the operator writes it; look at its log",
        )
    return ok(f"{name}: {counted(len(entries), 'webhook')} with a caBundle")


def _full_name(found: Object) -> str:
    return f"{found['kind']} {found['metadata']['name']}"


def _callable(config: Object) -> bool:
    return bool(config.get("caBundle")) or str(config.get("url", "")).startswith("https://")


def admission(facts: ClusterFacts) -> Iterator[Finding]:
    """The server takes a correct pool, all webhooks asked; it is a dry run."""
    if isinstance(facts.trial, Unread):
        yield skipped(facts.trial.why)
    elif facts.trial:
        yield failed(
            f"the server refuses a correct ModelPool: {facts.trial}",
            "where a webhook does not answer: are the operator's pods ready, and may the API "
            "server reach them?",
        )
    else:
        yield ok("the server takes a ModelPool (dry run)")


def pools(facts: ClusterFacts) -> Iterator[Finding]:
    """What the operator wrote into the pools' status."""
    if isinstance(facts.pools, Unread):
        yield skipped(facts.pools.why)
        return
    bad = [(pool, why) for pool in facts.pools if (why := _trouble(pool))]
    yield from cut(_bad_pool(pool["metadata"], why) for pool, why in bad)
    if facts.pools and not bad:
        yield ok(f"{counted(len(facts.pools), 'pool')}, none Degraded")


def _bad_pool(metadata: Object, why: str) -> Finding:
    namespace, name = metadata["namespace"], metadata["name"]
    return warning(f"pool {namespace}/{name}: {why}", f"kubectl -n {namespace} describe smp/{name}")


def _trouble(pool: Object) -> str:
    conditions = {c["type"]: c for c in (pool.get("status") or {}).get("conditions") or ()}
    if not conditions:
        return "no status yet: does an operator watch its namespace?"
    degraded = conditions.get("Degraded", {})
    if degraded.get("status") == "True":
        return f"{degraded.get('reason')}: {degraded.get('message', '')}"[:300]
    ready = conditions.get("Ready", {})
    if ready.get("status") == "False" and ready.get("reason") not in ("ScaledToZero", "Deleting"):
        return f"not Ready: {ready.get('message', '')}"[:300]
    return ""


def _selector(deployment: Object) -> str:
    labels = deployment["spec"]["selector"]["matchLabels"]
    return f"app.kubernetes.io/component={labels.get('app.kubernetes.io/component', '')}"


def _version(deployment: Object) -> str:
    return str((deployment["metadata"].get("labels") or {}).get(VERSION_LABEL, ""))
