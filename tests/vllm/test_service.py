"""`EngineMoves` of two vLLM engines over real sockets."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from certificates import certificates_in
from shunter_proto.v1 import moves_pb2 as pb
from shunter_proto.v1.moves_pb2_grpc import EngineMovesStub
from shunter_runtime.tls import TlsFiles, channel_credentials
from shunter_vllm.service import MovesServer
from shunter_vllm.testing import FACTS, FakeEngine, FakeRequest

PROMPT = list(range(18))
MOVE = "m1"


@contextmanager
def served(engine: FakeEngine, tls: TlsFiles | None = None) -> Iterator[str]:
    server = MovesServer(engine.store, engine.offers, engine.arrivals, tls)
    port = server.start("127.0.0.1", 0)
    try:
        yield f"localhost:{port}" if tls else f"127.0.0.1:{port}"
    finally:
        server.close()
        server.close()


@contextmanager
def stub(address: str, tls: TlsFiles | None = None) -> Iterator[Any]:
    if tls is None:
        channel = grpc.insecure_channel(address)
    else:
        channel = grpc.secure_channel(address, channel_credentials(tls))
    with channel:
        yield EngineMovesStub(channel)


def until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        threading.Event().wait(0.02)
    raise AssertionError("it did not come to that")


def offered(engine: FakeEngine, stub: Any, lease_ms: int = 10_000) -> pb.OfferReply:
    request = FakeRequest("cmpl-r1-0", list(PROMPT))
    engine.run(request)
    reply: pb.OfferReply = stub.Offer(
        pb.OfferRequest(move_id=MOVE, call_id="r1", lease_ms=lease_ms), timeout=10
    )
    engine.step()
    return reply


def prepared(stub: Any, offer: pb.OfferReply, lease_ms: int = 10_000) -> pb.PrepareReply:
    asked = pb.PrepareRequest(
        move_id=MOVE, manifest=offer.manifest, token_ids=PROMPT, lease_ms=lease_ms
    )
    reply: pb.PrepareReply = stub.Prepare(asked, timeout=10)
    return reply


def pull(stub: Any, source: str, offer: pb.OfferReply, lease: str) -> Any:
    asked = pb.PullRequest(
        move_id=MOVE,
        kv_lease=lease,
        source_address=source,
        transfer_token=offer.transfer_token,
    )
    return stub.Pull(asked, timeout=20)


def move(
    folder: Path, server_tls: TlsFiles | None, client_tls: TlsFiles | None, layer_bytes: int = 64
) -> None:
    facts = replace(FACTS, block_bytes=FACTS.layers * layer_bytes)
    source, destination = FakeEngine(folder / "a", facts), FakeEngine(folder / "b", facts)
    with (
        served(source, server_tls) as there,
        served(destination, server_tls) as here,
        stub(there, client_tls) as out,
        stub(here, client_tls) as into,
    ):
        offer = offered(source, out)
        reports = pull(into, there, offer, prepared(into, offer).kv_lease)
        report = next(reports)
        assert (report.refusal, report.tokens, report.source_tokens) == (0, 16, 17)
        request = FakeRequest("cmpl-r1-1-0", list(PROMPT))
        assert destination.admit(request) == 16 and destination.has(request, 16)
        reports.cancel()
        assert out.Release(pb.ReleaseRequest(move_id=MOVE)).refusal == 0
        assert into.Abort(pb.AbortRequest(move_id=MOVE)).refusal == 0
        assert source.ledger.empty and destination.ledger.empty


def test_blocks_go_from_engine_to_engine(tmp_path: Path) -> None:
    move(tmp_path, None, None)


def test_layers_larger_than_a_message_go_too(tmp_path: Path) -> None:
    """32 KV heads, blocks of 128 tokens and bfloat16 make 2 MiB."""
    move(tmp_path, None, None, layer_bytes=2 << 20)


def test_over_mutual_tls(tmp_path: Path) -> None:
    files = certificates_in(tmp_path)("engine")
    move(tmp_path, files, files)


def test_nobody_without_a_certificate_is_answered(tmp_path: Path) -> None:
    files = certificates_in(tmp_path)("engine")
    with (
        served(FakeEngine(tmp_path / "a"), files) as address,
        stub(address, TlsFiles(ca=files.ca)) as plain,
        pytest.raises(grpc.RpcError),
    ):
        plain.Describe(pb.DescribeRequest(), timeout=5)


def test_the_layout_is_described(tmp_path: Path) -> None:
    engine = FakeEngine(tmp_path)
    with served(engine) as address, stub(address) as calls:
        reply = calls.Describe(pb.DescribeRequest(), timeout=5)
    assert reply.layout == engine.facts.word() and reply.manifest == engine.facts.manifest()
    assert reply.max_moves == 4


@pytest.mark.parametrize("call", ["Freeze", "Commit"])
def test_what_vllm_cannot_do_says_so(tmp_path: Path, call: str) -> None:
    with (
        served(FakeEngine(tmp_path)) as address,
        stub(address) as calls,
        pytest.raises(grpc.RpcError) as caught,
    ):
        getattr(calls, call)(getattr(pb, f"{call}Request")(move_id=MOVE), timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("move_id", ["", "x" * 65])
def test_names_are_bounded(tmp_path: Path, move_id: str) -> None:
    with (
        served(FakeEngine(tmp_path)) as address,
        stub(address) as calls,
        pytest.raises(grpc.RpcError) as caught,
    ):
        calls.Offer(pb.OfferRequest(move_id=move_id), timeout=5)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_states_are_told(tmp_path: Path) -> None:
    engine = FakeEngine(tmp_path)
    with served(engine) as address, stub(address) as calls:

        def phase() -> int:
            return int(calls.State(pb.StateRequest(move_id=MOVE), timeout=5).phase)

        assert phase() == pb.StateReply.PHASE_NONE
        offer = offered(engine, calls)
        assert phase() == pb.StateReply.PHASE_OFFERED
        calls.Release(pb.ReleaseRequest(move_id=MOVE), timeout=5)
        prepared(calls, offer)
        assert phase() == pb.StateReply.PHASE_RESERVED
        calls.Abort(pb.AbortRequest(move_id=MOVE), timeout=5)
        assert phase() == pb.StateReply.PHASE_NONE
        assert calls.Abort(pb.AbortRequest(move_id=MOVE)).refusal == pb.REFUSAL_UNKNOWN
        assert calls.Release(pb.ReleaseRequest(move_id=MOVE)).refusal == pb.REFUSAL_UNKNOWN


def test_a_source_that_cannot_be_reached_is_told(tmp_path: Path) -> None:
    source, destination = FakeEngine(tmp_path / "a"), FakeEngine(tmp_path / "b")
    with served(source) as there, stub(there) as out:
        offer = offered(source, out)
    with served(destination) as here, stub(here) as into:
        (report,) = pull(into, there, offer, prepared(into, offer).kv_lease)
    assert report.refusal == pb.REFUSAL_TRANSFER


def test_who_hangs_up_ends_both_transfers(tmp_path: Path) -> None:
    source, destination = FakeEngine(tmp_path / "a"), FakeEngine(tmp_path / "b")
    with (
        served(source) as there,
        served(destination) as here,
        stub(there) as out,
        stub(here) as into,
    ):
        offer = offered(source, out, lease_ms=1500)
        reports = pull(into, there, offer, prepared(into, offer, lease_ms=1500).kv_lease)
        next(reports)

        def passes() -> bool:
            source.now = destination.now = source.now + 0.5
            return source.ledger.empty and destination.ledger.empty

        for _ in range(4):  # while it is fetched leases begin again, second by second
            assert not passes()
            threading.Event().wait(0.4)
        reports.cancel()
        until(passes)


def test_leases_end_by_themselves(tmp_path: Path) -> None:
    engine = FakeEngine(tmp_path)
    with served(engine) as address, stub(address) as calls:
        offered(engine, calls, lease_ms=1000)
        assert not engine.ledger.empty
        engine.now = 1.1
        until(lambda: engine.ledger.empty and not list(engine.folder.path.iterdir()))


def test_a_taken_port_is_an_error(tmp_path: Path) -> None:
    with served(FakeEngine(tmp_path / "a")) as address:
        engine = FakeEngine(tmp_path / "b")
        server = MovesServer(engine.store, engine.offers, engine.arrivals, None)
        with pytest.raises(OSError, match="cannot listen"):
            server.start("127.0.0.1", int(address.rpartition(":")[2]))
