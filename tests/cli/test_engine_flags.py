import dataclasses
import inspect

from shunter.commands.engine import engine
from shunter_engine.options import EngineOptions


def test_every_option_of_the_engine_is_a_flag_with_the_same_default() -> None:
    flags = inspect.signature(engine).parameters
    options = {field.name: field.default for field in dataclasses.fields(EngineOptions)}
    del options["port_file"]  # between `shunter up` and its engines only
    assert {name: flag.default for name, flag in flags.items()} == options
