"""Every check, in the order in which they are shown."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from shunter.doctor import check_cluster, check_nodes, check_processes, check_service
from shunter.doctor.facts import ClusterFacts, Facts, ServiceFacts
from shunter.doctor.findings import Finding


@dataclass(frozen=True, slots=True)
class ClusterCheck:
    name: str
    judge: Callable[[ClusterFacts], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class ServiceCheck:
    """Of a cluster and of one machine."""

    name: str
    judge: Callable[[ServiceFacts], Iterable[Finding]]


CHECKS: tuple[ClusterCheck | ServiceCheck, ...] = (
    ClusterCheck("server", check_cluster.server),
    ClusterCheck("resources", check_cluster.resources),
    ClusterCheck("rights", check_cluster.rights),
    ClusterCheck("clocks", check_cluster.clocks),
    ClusterCheck("processes", check_processes.processes),
    ClusterCheck("leaders", check_processes.leaders),
    ClusterCheck("schedulers", check_processes.schedulers),
    ServiceCheck("scheduler", check_service.scheduler),
    ServiceCheck("gateway", check_service.gateway),
    ClusterCheck("webhooks", check_processes.webhooks),
    ClusterCheck("admission", check_processes.admission),
    ClusterCheck("gpus", check_nodes.gpus),
    ClusterCheck("placement", check_nodes.placement),
    ClusterCheck("runtime", check_nodes.runtime_classes),
    ClusterCheck("pools", check_processes.pools),
    ServiceCheck("engines", check_service.engines),
    ServiceCheck("tokenizers", check_service.tokenizers),
)


def judge(facts: Facts) -> Iterator[tuple[str, Finding]]:
    """The name of a check and what it says, which may be several things."""
    for check in CHECKS:
        if isinstance(check, ServiceCheck):
            found = check.judge(facts.service)
        elif facts.cluster is not None:
            found = check.judge(facts.cluster)
        else:
            continue
        for finding in found:
            yield check.name, finding
