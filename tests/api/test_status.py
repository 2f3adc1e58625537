from decimal import Decimal

from shunter_api.status import Serving


def test_a_computed_figure_needs_no_quotes() -> None:
    assert Serving(slo_attainment=Decimal("100.0")).slo_attainment == 100
