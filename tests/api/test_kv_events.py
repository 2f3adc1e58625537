"""Where KV events come from, read from an engine's arguments."""

import json

import pytest

from shunter_api.kv_events import endpoint_of, kv_events_of

ON = {"enable_kv_cache_events": True}


@pytest.mark.parametrize("joined", [True, False])
def test_the_last_configuration_counts_and_defaults_are_vllms(joined: bool) -> None:
    text = json.dumps({**ON, "topic": "kv", "max_queue_size": 7})
    own = [f"--kv-events-config={text}"] if joined else ["--kv-events-config", text]
    config = kv_events_of(["--kv-events-config", "{}", "--max-model-len", "8192", *own])
    assert config is not None
    endpoint = endpoint_of(config, "10.0.0.7")
    assert (endpoint.events, endpoint.replay, endpoint.topic) == ("tcp://10.0.0.7:5557", "", "kv")


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--kv-events-config"],
        ["--kv-events-config", "{}"],
        ["--kv-events-config", json.dumps({**ON, "publisher": "null"})],
    ],
)
def test_engines_that_publish_nothing_are_not_read(args: list[str]) -> None:
    assert kv_events_of(args) is None


def test_sglang_publishes_where_a_publisher_is_named() -> None:
    args = ["--kv-events-config", json.dumps({"publisher": "zmq", "endpoint": "tcp://*:5600"})]
    assert kv_events_of(args) is None
    config = kv_events_of(args, "sglang")
    assert config is not None and endpoint_of(config, "h").events == "tcp://h:5600"
    assert kv_events_of(["--kv-events-config", json.dumps(ON)], "sglang") is None
    with pytest.raises(ValueError, match="data-parallel ranks"):
        kv_events_of([*args, "--dp-size", "2"], "sglang")


@pytest.mark.parametrize("ranks", [["-dp", "2"], ["--data-parallel-size=4"]])
def test_ranks_with_a_cache_of_their_own_are_refused(ranks: list[str]) -> None:
    args = ["--kv-events-config", json.dumps(ON)]
    with pytest.raises(ValueError, match="events of data-parallel ranks are not read"):
        kv_events_of([*args, *ranks])
    assert kv_events_of([*args, "-dp", "1"]) is not None
    assert kv_events_of(ranks) is None, "nothing is published, nothing is wrong"


def test_ports_are_reached_on_the_engines_host() -> None:
    config = kv_events_of(
        [f"--kv-events-config={json.dumps({**ON, 'replay_endpoint': 'tcp://127.0.0.1:5558'})}"]
    )
    assert config is not None
    assert endpoint_of(config, "[fd00::1]").replay == "tcp://[fd00::1]:5558"


@pytest.mark.parametrize("bad", ["{", '{"enable_kv_cache_events": 3}', "[]"])
def test_what_cannot_be_read_is_named(bad: str) -> None:
    with pytest.raises(ValueError, match="--kv-events-config: "):
        kv_events_of(["--kv-events-config", bad])


@pytest.mark.parametrize("endpoint", ["ipc:///tmp/x", "tcp://*:*", "tcp://*:0", "5557"])
def test_an_endpoint_without_a_port_is_refused(endpoint: str) -> None:
    config = kv_events_of(["--kv-events-config", json.dumps({**ON, "endpoint": endpoint})])
    assert config is not None
    with pytest.raises(ValueError, match="is no tcp://HOST:PORT"):
        endpoint_of(config, "h")
