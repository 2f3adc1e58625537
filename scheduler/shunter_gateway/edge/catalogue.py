"""The answers that need no generation: models and embeddings."""

import msgspec

from shunter_gateway.edge.errors import (
    body_of,
    engines_busy,
    from_validation,
    invalid,
    model_not_found,
    unavailable,
)
from shunter_gateway.edge.intake import split_prompts
from shunter_gateway.edge.ports import EnginesBusy, Models, NotSupported, ServedModel
from shunter_gateway.edge.schema import EmbeddingBody
from shunter_gateway.ports import EngineUnavailable
from shunter_gateway.request import ClientError

EMBEDDINGS_PATH = "/v1/embeddings"


def model_list(models: Models) -> bytes:
    return msgspec.json.encode(
        {"object": "list", "data": [_entry(model) for model in models.served()]}
    )


def one_model(models: Models, name: str) -> bytes:
    """Raises `RequestError` (404)."""
    model = models.find(name)
    if model is None:
        raise model_not_found(name)
    return msgspec.json.encode(_entry(model))


def _entry(model: ServedModel) -> dict[str, object]:
    entry: dict[str, object] = {
        "id": model.name,
        "object": "model",
        "created": 0,
        "owned_by": "shunter",
    }
    if model.context_length:
        entry["max_model_len"] = model.context_length
    return entry


async def embeddings(models: Models, raw: bytes) -> tuple[str, int, bytes]:
    """The model's name, the engine's status and body. Raises `RequestError`."""
    try:
        body = msgspec.json.decode(raw, type=EmbeddingBody)
    except msgspec.DecodeError as error:
        raise from_validation(error) from None
    except (UnicodeDecodeError, RecursionError):
        raise invalid("The body is not valid JSON.", code="invalid_json") from None
    split_prompts(body.input, "input")
    model = models.find(body.model)
    if model is None:
        raise model_not_found(body.model)
    try:
        status, answer = await models.forward(model, EMBEDDINGS_PATH, raw)
    except NotSupported:
        message = f"The engine of model `{model.name}` does not make embeddings."
        raise invalid(message, "model", code="embeddings_not_supported") from None
    except EnginesBusy:
        message = f"The engines of `{model.name}` are busy."
        raise engines_busy(message) from None
    except EngineUnavailable:
        message = f"No instance of `{model.name}` could be reached."
        raise unavailable(message, "no_instance", retry_after_s=5.0) from None
    if status >= 400:
        passed = ClientError(status, "The engine refused.", "invalid_request_error", body=answer)
        return model.name, status, body_of(passed)
    return model.name, status, answer
