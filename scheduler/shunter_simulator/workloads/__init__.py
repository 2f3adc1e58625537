"""Who asks for how much and when: traces of real services and generated load."""

from shunter_simulator.workloads.arrivals import (
    Arrival,
    endless_cache_hits,
    prefix_bound,
    scale,
    window,
)
from shunter_simulator.workloads.build import Workload, build_workload
from shunter_simulator.workloads.errors import WorkloadError
from shunter_simulator.workloads.generated import GeneratedLoad, generate
from shunter_simulator.workloads.lengths import Length, parse_length
from shunter_simulator.workloads.prompts import PromptTokens
from shunter_simulator.workloads.sources import load_workload
from shunter_simulator.workloads.spec import WorkloadSpec
from shunter_simulator.workloads.traces import read_azure, read_mooncake
from shunter_simulator.workloads.workflows import Stage, Workflow, WorkflowPlan

__all__ = [
    "Arrival",
    "GeneratedLoad",
    "Length",
    "PromptTokens",
    "Stage",
    "Workflow",
    "WorkflowPlan",
    "Workload",
    "WorkloadError",
    "WorkloadSpec",
    "build_workload",
    "endless_cache_hits",
    "generate",
    "load_workload",
    "parse_length",
    "prefix_bound",
    "read_azure",
    "read_mooncake",
    "scale",
    "window",
]
