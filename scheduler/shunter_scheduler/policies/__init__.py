"""Dispatch policies, one file each. To add one: write its file, add it to the table and to
`shunter_api.routingpolicy.DispatchPolicyName`."""

from collections.abc import Mapping
from types import MappingProxyType

from shunter_scheduler.policies.earliest_completion import EARLIEST_COMPLETION
from shunter_scheduler.policies.least_requests import LEAST_REQUESTS
from shunter_scheduler.policies.llumnix import LLUMNIX
from shunter_scheduler.policies.policy import DispatchPolicy
from shunter_scheduler.policies.power_of_two import POWER_OF_TWO
from shunter_scheduler.policies.predicted_cost import PREDICTED_COST
from shunter_scheduler.policies.prefix_affinity import PREFIX_AFFINITY
from shunter_scheduler.policies.queue_kv_prefix import QUEUE_KV_PREFIX
from shunter_scheduler.policies.round_robin import ROUND_ROBIN
from shunter_scheduler.policies.workload_balanced import WORKLOAD_BALANCED

DISPATCH_POLICIES: Mapping[str, DispatchPolicy] = MappingProxyType(
    {
        "predicted-cost": PREDICTED_COST,
        "round-robin": ROUND_ROBIN,
        "least-requests": LEAST_REQUESTS,
        "power-of-two": POWER_OF_TWO,
        "prefix-affinity": PREFIX_AFFINITY,
        "llumnix": LLUMNIX,
        "queue-kv-prefix": QUEUE_KV_PREFIX,
        "earliest-completion": EARLIEST_COMPLETION,
        "workload-balanced": WORKLOAD_BALANCED,
    }
)
