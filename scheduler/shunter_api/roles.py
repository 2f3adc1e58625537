"""Which roles of profiles work together: whoever computes prompts only hands requests on, and
somebody has to take them."""

from collections.abc import Sequence

from shunter_api.cel import Rule
from shunter_api.engine import EngineType
from shunter_api.profile import Role
from shunter_api.running import MigrationMode

# Without token ids in and out, and a prefix cache or a KV transport, a running request stays.
CANNOT_HAND_OVER: tuple[EngineType, ...] = ("openai",)

_NOBODY_DECODES = (
    "every profile has role Prefill, and none would decode; give one of them role Decode or Any"
)
_NOBODY_PREFILLS = (
    "every profile has role Decode, and none would take prompts; "
    "give one of them role Prefill or Any"
)
_STAYS = (
    "engine type openai cannot hand a running request over, which a role asks for; "
    "leave role out of the profiles, or change engine.type"
)
_NEVER_MOVES = (
    "a profile of role Prefill hands its requests over, and migration.mode Off moves none; "
    "set migration.mode to Auto or Replay, or the role to Any"
)


def _some(role: Role) -> str:
    return f"self.profiles.exists(p, has(p.role) && p.role == '{role}')"


def _none_but(role: Role) -> str:
    return f"self.profiles.all(p, has(p.role) && p.role == '{role}')"


ROLE_RULES: tuple[Rule, ...] = (
    Rule(f"!{_none_but('Prefill')}", _NOBODY_DECODES),
    Rule(f"!{_none_but('Decode')}", _NOBODY_PREFILLS),
    Rule(
        f"!(self.engine.type in {list(CANNOT_HAND_OVER)}) || {_none_but('Any')}",
        _STAYS,
    ),
    Rule(f"self.migration.mode != 'Off' || !{_some('Prefill')}", _NEVER_MOVES),
)
"""Of a spec: `check_roles` in CEL."""


def check_roles(roles: Sequence[Role], engine: EngineType, mode: MigrationMode) -> None:
    """Raises ValueError where profiles of these roles cannot serve together."""
    if all(role == "Prefill" for role in roles):
        raise ValueError(_NOBODY_DECODES)
    if all(role == "Decode" for role in roles):
        raise ValueError(_NOBODY_PREFILLS)
    if engine in CANNOT_HAND_OVER and any(role != "Any" for role in roles):
        raise ValueError(_STAYS)
    if mode == "Off" and "Prefill" in roles:
        raise ValueError(_NEVER_MOVES)
