"""Options as `engine.args` has them."""

import pytest

from shunter_api.arguments import all_given


@pytest.mark.parametrize(
    ("args", "found"),
    [
        (("--lora", "a", "--lora=b", "--parallel", "4"), ("--lora", "a", "--lora", "b")),
        (("--rope_scale", "2"), ("--rope-scale", "2")),
        (("--rope-range", "3", "-9", "--port", "1"), ("--rope-range", "3", "-9")),
        (("--lora-late", "--parallel", "8", "9"), ("--lora-late",)),
        (("--lora=a", "b"), ("--lora", "a")),
        (("--parallel", "8"), ()),
        ((), ()),
    ],
)
def test_all_of_some_options_in_order(args: tuple[str, ...], found: tuple[str, ...]) -> None:
    assert all_given(args, "--lora", "--rope-") == found
