"""The API server, the resource definitions, rights and clocks. Pure."""

from collections.abc import Iterator, Mapping

from shunter.doctor.facts import PARTS, ClusterFacts, Object, Right, Unread
from shunter.doctor.findings import Finding, failed, ok, skipped, warning
from shunter.release import definitions

OLDEST = (1, 20)
MEANT_SINCE = (1, 25)
# Nothing in Shunter compares the clocks of two machines, but tokens and certificates are judged by
# them, and times in logs and Leases mislead.
SKEW_WARNED_S = 5.0
SKEW_FAILED_S = 60.0
SHOWN = 3
APPLY_DEFINITIONS = (
    "helm upgrade applies them; by hand: kubectl apply --server-side -f charts/shunter/crds/"
)


def server(facts: ClusterFacts) -> Iterator[Finding]:
    found = facts.server
    told = f"{found.address} is Kubernetes {found.text}"
    if found.version < OLDEST:
        yield failed(told, f"Shunter needs {_text(OLDEST)} or newer")
    elif found.version < MEANT_SINCE:
        yield warning(
            f"{told}, which checks no CEL rules",
            f"upgrade to {_text(MEANT_SINCE)} or newer; the operator finds such mistakes",
        )
    else:
        yield ok(told)


def resources(facts: ClusterFacts) -> Iterator[Finding]:
    """There, served, and of the same schema as this command's."""
    if isinstance(facts.definitions, Unread):
        yield skipped(facts.definitions.why)
        return
    same = []
    for wanted in definitions(facts.server.version):
        name = wanted["metadata"]["name"]
        found = facts.definitions.get(name)
        if found is None:
            yield failed(f"{name} is not there", APPLY_DEFINITIONS)
        elif not _established(found):
            yield failed(
                f"{name} is not served: {_conditions(found)}", f"kubectl describe crd {name}"
            )
        elif different := _schema_differences(found, wanted):
            more = f" and {len(different) - SHOWN} more" if len(different) > SHOWN else ""
            yield warning(
                f"{name} is of another version than this command ({facts.version}): "
                f"{', '.join(different[:SHOWN])}{more}",
                APPLY_DEFINITIONS,
            )
        else:
            same.append(name)
    if same:
        yield ok(f"{', '.join(same)} served, as of version {facts.version}")


def rights(facts: ClusterFacts) -> Iterator[Finding]:
    for part in PARTS:
        found = facts.rights[part]
        account = f"{facts.place.namespace}/shunter-{part}"
        if isinstance(found, Unread):
            yield skipped(f"account {account}: {found.why}", "run it as an administrator")
            continue
        needed = [right for right in found.refused if not right.optional]
        wished = [right for right in found.refused if right.optional]
        if needed:
            yield failed(
                f"account {account} may not {_first(needed)}",
                "helm upgrade puts the chart's roles back; a namespaced release needs "
                "scope=namespace",
            )
        else:
            count = found.needed - len(wished)
            yield ok(f"account {account} may do all {count} things that it needs")
        if wished:
            yield warning(
                f"account {account} may not {_first(wished)}: nodes that are about to go are "
                "not noticed before their pods end",
                "set operator.watchNodes to always, which makes a ClusterRole",
            )


def clocks(facts: ClusterFacts) -> Iterator[Finding]:
    """This machine's against the API server's, and the server's against those of pods, which
    write the times of Leases."""
    found = facts.server
    if found.ahead_s is None:
        yield skipped("the API server does not tell the time")
        return
    yield _skew("the API server", "this machine", found.ahead_s, found.within_s)
    for part in PARTS:
        lease = facts.leases[part]
        if isinstance(lease, Unread) or lease.renewed_at is None or lease.seen_at is None:
            continue
        # A renewal of the past is no news of a clock; one of the future is.
        ahead_s = (lease.renewed_at - lease.seen_at).total_seconds()
        if ahead_s > found.within_s:
            yield _skew(
                f"the node of the leading {part}", "the API server", ahead_s, found.within_s
            )


def _skew(whose: str, than: str, ahead_s: float, within_s: float) -> Finding:
    way = "ahead of" if ahead_s > 0 else "behind"
    told = f"the clock of {whose} is {abs(ahead_s):.1f} s {way} that of {than} (± {within_s:.1f} s)"
    beyond = abs(ahead_s) - within_s
    if beyond <= SKEW_WARNED_S:
        return ok(told)
    remedy = "run chrony or systemd-timesyncd on both"
    return failed(told, remedy) if beyond > SKEW_FAILED_S else warning(told, remedy)


def _first(refused: list[Right]) -> str:
    names = [str(right) for right in refused]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _text(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def _established(definition: Object) -> bool:
    conditions = (definition.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)


def _conditions(definition: Object) -> str:
    conditions = (definition.get("status") or {}).get("conditions") or ()
    said = [c.get("message", "") for c in conditions if c["status"] != "True"]
    return "; ".join(filter(None, said)) or "the server has not accepted it yet"


def _schema_differences(found: Object, wanted: Object) -> list[str]:
    versions = {v["name"]: v["schema"]["openAPIV3Schema"] for v in found["spec"]["versions"]}
    told: list[str] = []
    for version in wanted["spec"]["versions"]:
        schema = version["schema"]["openAPIV3Schema"]
        if version["name"] not in versions:
            told.append(f"version {version['name']} is missing")
        else:
            told += _differences(versions[version["name"]], schema, "")
    return sorted(told, key=lambda difference: not difference.endswith("is missing"))


def _differences(found: Object, wanted: Object, at: str) -> Iterator[str]:
    """Where two schemas differ, by the fields that they are for. Descriptions are only text."""
    for keyword in sorted({*found, *wanted} - {"description", "properties", *_NESTED}):
        if found.get(keyword) != wanted.get(keyword):
            yield f"{at or 'the resource'} differs in {keyword}"
    for keyword in _NESTED:
        inner = found.get(keyword), wanted.get(keyword)
        if isinstance(inner[0], Mapping) and isinstance(inner[1], Mapping):
            yield from _differences(inner[0], inner[1], f"{at}[]")
        elif inner[0] != inner[1]:
            yield f"{at} differs in {keyword}"
    fields, wanted_fields = found.get("properties", {}), wanted.get("properties", {})
    for name in sorted({*fields, *wanted_fields}):
        place = f"{at}.{name}".removeprefix(".")
        if name not in fields:
            yield f"{place} is missing"
        elif name not in wanted_fields:
            yield f"{place} is not known here"
        else:
            yield from _differences(fields[name], wanted_fields[name], place)


_NESTED = ("items", "additionalProperties")
