"""The command line of each engine type in a pod. Pure; one function a type, in one table."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from shunter_api.engine import LLAMA_SLOTS, EngineType
from shunter_api.modelpool import ModelPool
from shunter_api.profile import Profile
from shunter_operator.names import DEFAULT_ENGINE_PORT
from shunter_operator.values import Environment
from shunter_operator.weights import model_path

Arguments = Callable[[ModelPool, Profile], list[str]]

# Where the container finds its cache volume.
CACHE_PATH = "/cache"


def engine_port(pool: ModelPool) -> int:
    return pool.spec.engine.port or DEFAULT_ENGINE_PORT


def engine_image(pool: ModelPool, environment: Environment) -> str:
    """Empty where nobody says which."""
    engine = pool.spec.engine
    if engine.image:
        return engine.image
    if engine.type in ("simulated", "numpy"):
        return environment.image
    return environment.engine_images.get(engine.type, "")


def unsupported(pool: ModelPool, environment: Environment) -> tuple[str, str] | None:
    """Reason and remedy where no pod can be made of a pool."""
    engine = pool.spec.engine
    if not engine_image(pool, environment):
        return (
            "EngineImageMissing",
            f"the operator has no image for engine type {engine.type}; set spec.engine.image",
        )
    return None


def command(pool: ModelPool) -> list[str]:
    """The program; empty: the image knows."""
    return list(_COMMANDS.get(pool.engine_type, ()))


def arguments(pool: ModelPool, profile: Profile) -> list[str]:
    """The program's arguments, those of the pool last, so that they win."""
    return [*_ARGUMENTS[pool.engine_type](pool, profile), *pool.spec.engine.args]


def _shunter(pool: ModelPool, profile: Profile) -> list[str]:
    """Where KV blocks move through is any free port: the engine's metrics page tells it."""
    return [
        "--backend", pool.engine_type,
        "--model", f"file://{path}" if (path := model_path(pool)) else pool.spec.model.source,
        "--served-name", pool.model_names[0],
        "--accelerator", profile.accelerator,
        "--tensor-parallel", str(profile.tensor_parallel),
        "--context-length", str(pool.context_length),
        "--host", "0.0.0.0",
        "--port", str(engine_port(pool)),
        "--moves-port", "0",
    ]  # fmt: skip


def _vllm(pool: ModelPool, profile: Profile) -> list[str]:
    """`--enable-scale-out` serves the call that aborts requests, `priority` orders the queue."""
    return [
        "--model", model_path(pool),
        "--served-model-name", *pool.model_names,
        "--host", "0.0.0.0",
        "--port", str(engine_port(pool)),
        "--max-model-len", str(pool.context_length),
        "--tensor-parallel-size", str(profile.tensor_parallel),
        "--enable-prefix-caching",
        "--enable-scale-out",
        "--scheduling-policy", "priority",
    ]  # fmt: skip


def _sglang(pool: ModelPool, profile: Profile) -> list[str]:
    """Priorities as vLLM has them, the lowest number first. It has one name for the model and looks
    at no request's."""
    return [
        "--model-path", model_path(pool),
        "--served-model-name", pool.model_names[0],
        "--host", "0.0.0.0",
        "--port", str(engine_port(pool)),
        "--context-length", str(pool.context_length),
        "--tensor-parallel-size", str(profile.tensor_parallel),
        "--enable-metrics",
        "--enable-cache-report",
        "--enable-priority-scheduling",
        "--schedule-low-priority-values-first",
    ]  # fmt: skip


def _llamacpp(pool: ModelPool, profile: Profile) -> list[str]:
    return [
        "--model", model_path(pool),
        "--alias", pool.model_names[0],
        "--host", "0.0.0.0",
        "--port", str(engine_port(pool)),
        "--ctx-size", str(pool.context_length * LLAMA_SLOTS),
        "--parallel", str(LLAMA_SLOTS),
        "--metrics", "--no-ui",
    ]  # fmt: skip


def _openai(pool: ModelPool, profile: Profile) -> list[str]:
    """Somebody else's server: its arguments are the pool's business, and may hold
    `$(SHUNTER_MODEL_PATH)`."""
    return []


_COMMANDS: Mapping[EngineType, tuple[str, ...]] = MappingProxyType(
    {
        "simulated": ("shunter", "engine"),
        "numpy": ("shunter", "engine"),
        "vllm": ("python3", "-m", "vllm.entrypoints.openai.api_server"),
        "sglang": ("python3", "-m", "sglang.launch_server"),
    }
)

_ARGUMENTS: Mapping[EngineType, Arguments] = MappingProxyType(
    {
        "simulated": _shunter,
        "numpy": _shunter,
        "vllm": _vllm,
        "sglang": _sglang,
        "llamacpp": _llamacpp,
        "openai": _openai,
    }
)
