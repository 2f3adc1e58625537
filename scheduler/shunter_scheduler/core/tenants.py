"""What tenants may use: tokens per minute, and requests at once; and what they have used. Only
those that a policy names are known here; a scheduler that starts knows of nothing used before."""

from collections.abc import Mapping
from dataclasses import dataclass

from shunter_api.tenants import Tenant

SECONDS = 60.0  # that a bucket holds tokens for
MAX_SHOWN = 100  # tenants with counters of their own: each is a time series
OTHER = "other"


@dataclass(slots=True, eq=False)
class TenantUse:
    """What has ended of one tenant, or of all others together, since the start."""

    label: str = OTHER
    requests: int = 0
    rejected: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0


class TokenBucket:
    """Fills by so many tokens per minute and holds those of one minute. It may be overdrawn, by
    answers that get longer than predicted: then nothing is taken until it has recovered."""

    __slots__ = ("_at", "_level", "per_minute")

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self._level = float(per_minute)
        self._at = now

    def take(self, tokens: float, now: float) -> float:
        """0 where they were taken, else the seconds until they are there. More than a minute's
        tokens are given to who finds the bucket full."""
        self._fill(now)
        missing = min(tokens, self.per_minute) - self._level
        if missing > 0:
            return missing / self._per_s
        self._level -= tokens
        return 0.0

    def give_back(self, tokens: float, now: float) -> None:
        """Less than 0: taken whatever there is."""
        self._fill(now)
        self._level = min(self._level + tokens, float(self.per_minute))

    def level(self, now: float) -> float:
        self._fill(now)
        return self._level

    @property
    def _per_s(self) -> float:
        return self.per_minute / SECONDS

    def _fill(self, now: float) -> None:
        if now > self._at:
            filled = self._level + (now - self._at) * self._per_s
            self._level = min(filled, float(self.per_minute))
            self._at = now


class TenantLimits:
    """One configured tenant and what it uses."""

    __slots__ = ("bucket", "name", "running", "tenant", "use")

    def __init__(self, tenant: Tenant, use: TenantUse, now: float) -> None:
        self.name = tenant.name
        self.running = 0
        self.use = use
        self.bucket: TokenBucket | None = None
        self.configure(tenant, now)

    def configure(self, tenant: Tenant, now: float) -> None:
        """A bucket whose size changes begins full again."""
        self.tenant = tenant
        limit, bucket = tenant.tokens_per_minute, self.bucket
        if limit is None:
            self.bucket = None
        elif bucket is None or bucket.per_minute != limit:
            self.bucket = TokenBucket(limit, now)

    @property
    def weight(self) -> float:
        return float(self.tenant.weight)

    @property
    def full(self) -> bool:
        most = self.tenant.max_concurrent
        return most is not None and self.running >= most


def configured(
    tenants: Mapping[str, Tenant],
    known: Mapping[str, TenantLimits],
    others: TenantUse,
    now: float,
) -> dict[str, TenantLimits]:
    """Those that stay keep what they have used. Those with the highest weights are counted each by
    itself, the rest with all `others`; who is counted by itself stays so."""
    made = {}
    shown = sum(name in tenants and limits.use is not others for name, limits in known.items())
    for name, tenant in sorted(tenants.items(), key=lambda one: -one[1].weight):
        limits = known.get(name)
        if limits is None:
            own = shown < MAX_SHOWN and name != OTHER
            shown += own
            limits = TenantLimits(tenant, TenantUse(name) if own else others, now)
        else:
            limits.configure(tenant, now)
        made[name] = limits
    return made
