"""How a scheduler process is configured."""

from dataclasses import dataclass
from pathlib import Path

from shunter_runtime.tls import TlsFiles
from shunter_scheduler.domain.decisions import MovePolicyName
from shunter_scheduler.service.sessions import GRACE_S
from shunter_scheduler.service.unary import LEASE_S

DEFAULT_LEASE = "shunter-scheduler"


class StartError(Exception):
    """The process cannot start: the configuration is refused, or a port, a certificate or the
    access to a cluster is bad."""


@dataclass(frozen=True, slots=True)
class SchedulerOptions:
    """`metrics_port` None serves no metrics; port 0, here as in `listen`: the system chooses.

    Configuration comes from files, or from a cluster (`kubernetes`; no `namespaces`: all of them).
    `lease` is [NAMESPACE/]NAME of the Lease by which one of several schedulers leads; empty: this
    is the only one. `moves`: what moves running requests besides drains, which always do.
    """

    config: tuple[Path, ...] = ()
    kubernetes: bool = False
    namespaces: tuple[str, ...] = ()
    lease: str = ""
    listen: str = "127.0.0.1:50051"
    metrics_port: int | None = None
    tls: TlsFiles | None = None
    grace_s: float = GRACE_S
    lease_s: float = LEASE_S
    moves: MovePolicyName = "predicted-gain"
    log_level: str = "info"

    @property
    def host(self) -> str:
        return self.listen.rpartition(":")[0].strip("[]")

    def check(self) -> None:
        """Raises `StartError`."""
        if self.kubernetes == bool(self.config):
            raise StartError("give either --config FILE... or --kubernetes")
        if self.namespaces and not self.kubernetes:
            raise StartError("--namespace needs --kubernetes")


def lease_or_default(lease: str | None, kubernetes: bool) -> str:
    """The Lease to use where `lease` was given on the command line, or (None) was not."""
    if lease is None:
        return DEFAULT_LEASE if kubernetes else ""
    return lease
