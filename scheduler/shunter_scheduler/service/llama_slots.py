"""Which llama-servers can restore each other's slots: one word, as engines of our own publish it.

llama-server publishes no such word, so it is made of what it says of its model and build, and of
those arguments of the pool that shape a saved slot. Asked once, and again after it was down.
"""

import hashlib
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from shunter_api.arguments import all_given, last_value

Fetch = Callable[[str, bytes | None], Awaitable[tuple[int, bytes]]]  # path; a body for a POST
# Of llama-server 11434; a server that reads a slot of another shape refuses it all the same.
_SHAPING = (
    ("--cache-type-k", "-ctk"),
    ("--cache-type-v", "-ctv"),
    ("--flash-attn", "-fa"),
)
_SHAPING_ALL = ("--rope-", "--yarn-", "--override-kv", "--control-vector", "--lora")
_SWITCHES = ("--swa-full",)
_NO_NAME = b'{"filename":""}'  # refused as such (400) where slots are saved at all, else with 501


class _Meta(msgspec.Struct):
    n_vocab: int = 0
    n_embd: int = 0
    n_params: int = 0
    size: int = 0
    ftype: str = ""


class _Model(msgspec.Struct):
    meta: _Meta | None = None


class _Models(msgspec.Struct):
    data: list[_Model] = []


class _Props(msgspec.Struct):
    build_info: str = ""
    endpoint_slots: bool = False


async def slot_layout(fetch: Fetch, arguments: Sequence[str]) -> str:
    """Empty where slots are not saved, their calls cannot be found, or the server speaks of itself
    in another way. Raises what `fetch` raises."""
    status, _ = await fetch("/slots/0?action=save", _NO_NAME)
    if status != 400:
        return ""
    props_status, props = await fetch("/props", None)
    models_status, models = await fetch("/v1/models", None)
    if props_status != 200 or models_status != 200:
        return ""
    try:
        said = msgspec.json.decode(props, type=_Props)
        found = msgspec.json.decode(models, type=_Models).data
    except msgspec.MsgspecError:
        return ""
    meta = found[0].meta if found else None
    if meta is None or not said.endpoint_slots:
        return ""
    shaping = [last_value(arguments, *names) for names in _SHAPING]
    shaping += all_given(arguments, *_SHAPING_ALL)
    switches = [name in arguments for name in _SWITCHES]
    told = msgspec.json.encode((said.build_info, msgspec.structs.astuple(meta), shaping, switches))
    return f"llama-slots-{hashlib.sha256(told).hexdigest()[:32]}"
