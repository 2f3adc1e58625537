from pathlib import Path

from shunter_simulator.scenarios.reference import filled

PAGE = Path(__file__).parents[3] / "docs" / "simulate.md"


def test_the_page_has_every_field_as_the_models_have_it() -> None:
    text = PAGE.read_text()
    assert filled(text) == text, (
        "run python -m shunter_simulator.scenarios.reference docs/simulate.md"
    )
    assert "| `moves.bandwidthGbS` | number | `3.0` |" in text
    assert "| `network.engine` | duration | `0.3ms` |" in text
    assert "| `generated` |" in text
