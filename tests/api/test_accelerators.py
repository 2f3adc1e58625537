import pytest

from shunter_api.accelerators import ACCELERATORS, ALIASES, UnknownAccelerator, accelerator


def test_short_names_lead_to_catalogue_entries() -> None:
    for short, key in ALIASES.items():
        assert accelerator(short) is ACCELERATORS[key]


def test_every_entry_is_whole_and_names_its_source() -> None:
    for key, entry in ACCELERATORS.items():
        assert entry.key == key
        assert "sheet" in entry.source or "brief" in entry.source or "measured" in entry.source
        assert min(entry.memory_gib, entry.bf16_tflops, entry.memory_gb_s, entry.link_gb_s) > 0


def test_relations_that_the_data_sheets_state() -> None:
    assert accelerator("h200").memory_gb_s > accelerator("h100").memory_gb_s
    assert accelerator("h200").bf16_tflops == accelerator("h100").bf16_tflops
    assert accelerator("a800").bf16_tflops == accelerator("a100").bf16_tflops
    assert accelerator("a800").link_gb_s < accelerator("a100").link_gb_s


def test_an_unknown_key_names_the_near_ones() -> None:
    with pytest.raises(UnknownAccelerator, match=r"'h10'.*did you mean.*h100"):
        accelerator("h10")
    with pytest.raises(UnknownAccelerator, match=r"known: .*l4-24gb"):
        accelerator("abacus")
