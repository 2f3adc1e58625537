"""The server that generates a pool's tokens, and which models it can load."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from shunter_api.arguments import last_value
from shunter_api.base import Int, Resource, check_unique
from shunter_api.cel import Rule, unique_names
from shunter_api.model import Model
from shunter_api.weights import names_file

EngineType = Literal["vllm", "sglang", "llamacpp", "simulated", "numpy", "openai"]

# Which sources an engine type can load.
SOURCE_SCHEMES: dict[EngineType, tuple[str, ...]] = {
    "vllm": ("hf", "s3", "oci", "pvc", "file"),
    "sglang": ("hf", "s3", "oci", "pvc", "file"),
    "llamacpp": ("hf", "s3", "oci", "pvc", "pypi", "file"),
    "simulated": ("sim",),
    "numpy": ("hf", "s3", "oci", "pvc", "pypi", "file"),
    "openai": ("hf", "s3", "oci", "pvc", "file", "pypi", "sim"),
}
# These read one GGUF file; what a `file://` is called is the owner's business.
_GGUF_ENGINES: tuple[EngineType, ...] = ("llamacpp", "numpy")
_NAMES_GGUF = "engine types llamacpp and numpy load one file: end model.source in its /NAME.gguf"


class EnvVar(Resource):
    """A variable of the engine's environment."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=255)]
    """The variable's name."""

    value: Annotated[str, Field(max_length=32_768)] = ""
    """The variable's value."""


class EngineFile(Resource):
    """A file that the engine reads at its start."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][-._A-Za-z0-9]*$", max_length=128)]
    """The file's name."""

    content: Annotated[str, Field(max_length=32_768)]
    """What it holds. No secrets: everyone who may read pools may read it."""


LLAMA_SLOTS = 4
"""That a llama-server is started with unless its arguments have `--parallel`."""


class Engine(Resource):
    """The server that generates tokens."""

    type: EngineType
    """vllm, sglang, llamacpp, simulated or numpy; openai is any server with OpenAI's HTTP API."""

    image: Annotated[str, Field(pattern=r"^\S+$", max_length=512)] | None = None
    """The container image; absent: the operator's default for the type. Only a cluster reads it."""

    args: Annotated[tuple[Annotated[str, Field(max_length=4096)], ...], Field(max_length=256)] = ()
    """Added to the engine's command line."""

    env: Annotated[
        tuple[EnvVar, ...],
        Field(max_length=128, json_schema_extra=unique_names("variables")),
    ] = ()
    """Added to the engine's environment."""

    files: Annotated[
        tuple[EngineFile, ...],
        Field(max_length=8, json_schema_extra=unique_names("files")),
    ] = ()
    """Files such as a chat template or an engine's configuration, found in /etc/shunter/files for
    `args` to name. A change starts new instances. Only a cluster reads them."""

    port: Annotated[Int, Field(ge=1, le=65_535)] | None = None
    """Where the engine listens. On a cluster absent means 8000. Under `shunter up` the pool's
    n-th instance listens on this port + n, and absent means any free port."""

    @field_validator("env")
    @classmethod
    def _unique_variables(cls, env: tuple[EnvVar, ...]) -> tuple[EnvVar, ...]:
        check_unique("variables", (variable.name for variable in env))
        return env

    @field_validator("files")
    @classmethod
    def _unique_files(cls, files: tuple[EngineFile, ...]) -> tuple[EngineFile, ...]:
        check_unique("files", (file.name for file in files))
        return files


# The options by which an engine is told to take reasoning out of answers to chats.
_REASONING_FLAGS: dict[EngineType, str] = {
    "vllm": "--reasoning-parser",
    "sglang": "--reasoning-parser",
    "llamacpp": "--reasoning-format",
}


def parses_reasoning(engine: Engine) -> bool:
    flag = _REASONING_FLAGS.get(engine.type)
    return flag is not None and last_value(engine.args, flag) not in ("", "none")


def _schemes(engine: EngineType) -> str:
    *others, last = (f"{scheme}://" for scheme in SOURCE_SCHEMES[engine])
    return f"{', '.join(others)} or {last}" if others else last


def _source_rule(engine: EngineType) -> Rule:
    schemes = "|".join(SOURCE_SCHEMES[engine])
    return Rule(
        f"self.engine.type != '{engine}' || self.model.source.matches('^({schemes})://')",
        f"engine type {engine} loads a model from {_schemes(engine)}; change model.source",
    )


_MOST_SCHEMES = len({scheme for loads in SOURCE_SCHEMES.values() for scheme in loads})
SOURCE_RULES: tuple[Rule, ...] = (
    *(_source_rule(e) for e, loads in SOURCE_SCHEMES.items() if len(loads) < _MOST_SCHEMES),
    Rule(
        f"!(self.engine.type in {list(_GGUF_ENGINES)}) || "
        "self.model.source.startsWith('file://') || self.model.source.endsWith('.gguf')",
        _NAMES_GGUF,
    ),
)
"""Of a spec: `check_source` in CEL."""


def check_source(model: Model, engine: EngineType) -> None:
    """Raises ValueError where an engine of this type cannot load the model's source."""
    if model.source_scheme not in SOURCE_SCHEMES[engine]:
        raise ValueError(
            f"engine type {engine} loads a model from {_schemes(engine)}, "
            f"not from {model.source_scheme}://"
        )
    gguf = names_file(model.source) or model.source_scheme == "file"
    if engine in _GGUF_ENGINES and not gguf:
        raise ValueError(_NAMES_GGUF)
