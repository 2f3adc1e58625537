"""Where a scheduler's configuration and its leadership come from, opened and closed."""

import os
import secrets
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass

from shunter_runtime.kube_access import KubeAccessError, find_access
from shunter_runtime.kube_api import KubeApi, kube_api
from shunter_runtime.lease_election import LeaderElection
from shunter_runtime.lease_kubernetes import KubernetesLease
from shunter_scheduler.domain.cluster import Topology
from shunter_scheduler.options import SchedulerOptions, StartError
from shunter_scheduler.service.leadership import Alone, Leadership
from shunter_scheduler.sources.files import ConfigRefused, FileSource
from shunter_scheduler.sources.kubernetes import KubernetesSource

Changes = AsyncGenerator[Topology | ConfigRefused]


@dataclass(frozen=True, slots=True)
class Inputs:
    """`election` None: this is the only scheduler."""

    changes: Changes
    election: LeaderElection | None

    @property
    def leadership(self) -> Leadership:
        return self.election or Alone()


@asynccontextmanager
async def open_inputs(options: SchedulerOptions) -> AsyncIterator[Inputs]:
    """Raises `StartError`."""
    options.check()
    async with AsyncExitStack() as stack:
        api: KubeApi | None = None
        if options.kubernetes or options.lease:
            try:
                api = await stack.enter_async_context(kube_api(find_access(os.environ)))
            except KubeAccessError as error:
                raise StartError(str(error)) from error
        election = _election(api, options.lease) if api is not None and options.lease else None
        if api is not None and options.kubernetes:
            changes = KubernetesSource(api, options.namespaces).changes()
        else:
            changes = FileSource(options.config).changes()
        yield Inputs(await stack.enter_async_context(aclosing(changes)), election)


def _election(api: KubeApi, lease: str) -> LeaderElection:
    namespace, _, name = lease.rpartition("/")
    store = KubernetesLease(api, namespace or api.namespace, name)
    # In a pod the host's name is the pod's; a restarted container is another candidate.
    return LeaderElection(store, f"{socket.gethostname()}_{secrets.token_hex(4)}")
