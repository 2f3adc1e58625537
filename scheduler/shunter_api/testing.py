"""Builders of resources for tests: short to write, valid unless told otherwise."""

from collections.abc import Mapping, Sequence
from typing import Any

from shunter_api.modelpool import ModelPool
from shunter_api.routingpolicy import RoutingPolicy


def make_pool(
    pool_name: str = "chat",
    /,
    *,
    profiles: Sequence[str] = ("h100",),
    engine: str = "simulated",
    spec: Mapping[str, Any] | None = None,
    **model: Any,
) -> ModelPool:
    """A pool with one profile per accelerator name; `model` keys as in YAML (`aliases`, ...)."""
    source = "sim://llama-3.1-8b" if engine == "simulated" else "file:///models/m.gguf"
    return ModelPool.model_validate(
        {
            "metadata": {"name": pool_name},
            "spec": {
                "model": {"source": source, **model},
                "engine": {"type": engine},
                "profiles": [{"name": key, "accelerator": key} for key in profiles],
                **(spec or {}),
            },
        }
    )


def make_policy(name: str = "main", **spec: Any) -> RoutingPolicy:
    """A policy; `spec` keys as in YAML (`rules`, `classes`, `priority`, ...)."""
    return RoutingPolicy.model_validate({"metadata": {"name": name}, "spec": spec})
