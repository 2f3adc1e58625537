"""Status is written from computed values, and read back from what the API server holds."""

from datetime import UTC, datetime
from decimal import Decimal

from hypothesis import example, given
from hypothesis import strategies as st

from shunter_api.crd import modelpools
from shunter_api.status import Condition, PoolStatus, ProfileStatus, Serving
from structural import violations

(VERSION,) = modelpools()["spec"]["versions"]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]["properties"]["status"]
COUNTS = st.integers(0, 1_000_000)


@example(ttft_s=0.9375, share=Decimal(0), count=0)
@given(ttft_s=st.floats(0.001, 86_400), share=st.decimals(0, 100, places=1), count=COUNTS)
def test_what_is_computed_meets_the_schema_and_is_read_back(
    ttft_s: float, share: Decimal, count: int
) -> None:
    status = PoolStatus(
        observed_generation=1,
        desired_replicas=count,
        cost_per_hour=share,
        profiles=(ProfileStatus(name="h100", replicas=count),),
        serving=Serving(
            ttft_p95=float(f"{ttft_s:.2g}"),
            slo_attainment=share,
            queued=count,
            tokens_per_second=count,
        ),
        conditions=(
            Condition(
                type="SLOMet",
                status="True",
                last_transition_time=datetime(2026, 1, 1, tzinfo=UTC),
                reason="TargetMet",
            ),
        ),
    )
    written = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert violations(written, SCHEMA) == []
    assert PoolStatus.model_validate(written) == status
