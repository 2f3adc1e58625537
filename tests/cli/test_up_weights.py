"""Model files of `shunter up`: fetched before engines start, and pools left out with a reason."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from fake_hub import FakeHub, serving
from shunter.up.plan import EnginePlan, plan_engines
from shunter.up.weights import fetch_weights
from shunter_api.testing import make_pool
from shunter_api.validate import Configuration

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gguf") is None, reason="needs the extra numpy-engine"
)
CONTENT = bytes(range(256)) * 100


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    store = FakeHub(files={"m.gguf": CONTENT})
    with serving(store):
        yield store


def plans(hub: FakeHub, cache: Path, source: str) -> list[EnginePlan]:
    env = [
        {"name": "HF_ENDPOINT", "value": hub.url},
        {"name": "SHUNTER_CACHE", "value": str(cache)},
        {"name": "HF_TOKEN", "value": "hf_mine"},
    ]
    profile = {"name": "a", "accelerator": "l4-24gb", "replicas": {"min": 2, "max": 2}}
    engine = {"type": "numpy", "env": env}
    spec = {"model": {"source": source}, "engine": engine, "profiles": [profile]}
    made, remarks = plan_engines(Configuration((make_pool("chat", spec=spec),), (), ()))
    assert not remarks
    return list(made.values())


def test_two_engines_of_a_pool_take_one_download(hub: FakeHub, tmp_path: Path) -> None:
    hub.token = "hf_mine"
    engines = plans(hub, tmp_path, "hf://org/name/m.gguf")
    assert len(engines) == 2
    assert fetch_weights(engines, Console(quiet=True)) == {}
    assert hub.downloads == {"m.gguf": 1}
    (kept,) = tmp_path.rglob("m.gguf")
    assert kept.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("hf://org/name/m.gguf", "set HF_TOKEN"),
        ("s3://models/m.gguf", "from file://, pypi://, hf:// only"),
    ],
)
def test_a_pool_whose_weights_cannot_be_had_is_left_out(
    hub: FakeHub, tmp_path: Path, source: str, reason: str
) -> None:
    hub.token = "hf_other"
    absent = fetch_weights(plans(hub, tmp_path, source), Console(quiet=True))
    assert list(absent) == ["chat"] and reason in absent["chat"]
    assert "hf_mine" not in absent["chat"]
