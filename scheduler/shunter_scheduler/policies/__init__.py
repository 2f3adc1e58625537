"""Dispatch policies, one file each. To add one: write its file, add it to the table."""

from collections.abc import Mapping
from types import MappingProxyType

from shunter_scheduler.policies.least_requests import LEAST_REQUESTS
from shunter_scheduler.policies.policy import DispatchPolicy
from shunter_scheduler.policies.power_of_two import POWER_OF_TWO
from shunter_scheduler.policies.predicted_cost import PREDICTED_COST
from shunter_scheduler.policies.round_robin import ROUND_ROBIN

DISPATCH_POLICIES: Mapping[str, DispatchPolicy] = MappingProxyType(
    {
        "predicted-cost": PREDICTED_COST,
        "round-robin": ROUND_ROBIN,
        "least-requests": LEAST_REQUESTS,
        "power-of-two": POWER_OF_TWO,
    }
)
