"""Blocks of a running request go from one engine to another, or are computed. Never wrong ones."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from shunter_proto.v1 import moves_pb2 as pb
from shunter_vllm.arrivals import SourceLost
from shunter_vllm.layout import EngineFacts
from shunter_vllm.testing import FACTS, FakeEngine, FakeRequest, with_workers

PROMPT = list(range(18))
MOVE = "m1"


def active() -> bool:
    return True


@dataclass
class Pair:
    source: FakeEngine
    destination: FakeEngine
    request: FakeRequest
    offer: pb.OfferReply
    prepared: pb.PrepareReply

    def pull(self, token: bytes | None = None, lease: str | None = None) -> Iterator[pb.PullReport]:
        asked = pb.PullRequest(
            move_id=MOVE,
            kv_lease=self.prepared.kv_lease if lease is None else lease,
            source_address="source",
            transfer_token=self.offer.transfer_token if token is None else token,
        )
        return self.destination.arrivals.pull(asked, self.fetch, active)

    def fetch(self, address: str, request: pb.ExportRequest) -> Iterator[pb.KvChunk]:
        return self.source.offers.export(request, active)

    def fetch_first_stage(self) -> pb.PullReport:
        return next(self.pull())


def ask(request: FakeRequest, move_id: str = MOVE, lease_ms: int = 1000) -> pb.OfferRequest:
    call_id = request.request_id.removeprefix("cmpl-").partition("-0")[0]
    return pb.OfferRequest(move_id=move_id, call_id=call_id, epoch=1, lease_ms=lease_ms)


def prepare(offer: pb.OfferReply, ids: list[int], **changes: object) -> pb.PrepareRequest:
    asked = pb.PrepareRequest(
        move_id=MOVE, manifest=offer.manifest, token_ids=ids, headroom_tokens=8, lease_ms=1000
    )
    for name, value in changes.items():
        setattr(asked, name, value)
    return asked


def pair(folder: Path, facts: EngineFacts = FACTS, **changes: int) -> Pair:
    source = FakeEngine(folder / "a", facts)
    destination = FakeEngine(folder / "b", facts, **changes)
    request = FakeRequest("cmpl-r1-1-0-0123abcd", list(PROMPT))
    source.run(request)
    offer = source.offers.offer(ask(request))
    prepared = destination.arrivals.prepare(prepare(offer, request.all_token_ids))
    source.step()
    return Pair(source, destination, request, offer, prepared)


def continued(request: FakeRequest) -> FakeRequest:
    return FakeRequest("cmpl-r1-2-0-89abcdef", list(request.all_token_ids))


# ------------------------------------------------------------ as it should go


@pytest.mark.parametrize("workers", [1, 2])
def test_destination_loads_the_full_blocks_and_computes_the_rest(
    tmp_path: Path, workers: int
) -> None:
    moving = pair(tmp_path, with_workers(workers))
    report = moving.fetch_first_stage()
    assert (report.refusal, report.stage) == (0, 1)
    assert (report.tokens, report.source_tokens) == (16, 17)
    assert report.bytes == 4 * FACTS.layers * 64 * workers
    there = continued(moving.request)
    assert moving.destination.admit(there) == 16
    assert moving.destination.has(there, 16)


@pytest.mark.parametrize("layer_bytes", [(1 << 20) - 64, 1 << 20, (2 << 20) + 64])
def test_layers_that_a_chunk_cannot_hold_are_split(tmp_path: Path, layer_bytes: int) -> None:
    facts = replace(with_workers(2), block_bytes=FACTS.layers * layer_bytes)
    moving = pair(tmp_path, facts=facts)
    fetched, sizes = moving.fetch, []

    def measured(address: str, request: pb.ExportRequest) -> Iterator[pb.KvChunk]:
        for chunk in fetched(address, request):
            sizes.append(len(chunk.data))
            yield chunk

    moving.fetch = measured  # type: ignore[method-assign]
    report = moving.fetch_first_stage()
    assert (report.tokens, report.bytes) == (16, 4 * 2 * facts.block_bytes)
    assert max(sizes) <= 1 << 20
    there = continued(moving.request)
    assert moving.destination.admit(there) == 16 and moving.destination.has(there, 16)


@pytest.mark.parametrize("spoil", ["twice", "left out", "longer", "early", "empty"])
def test_a_layer_whose_parts_do_not_fit_ends_the_transfer(tmp_path: Path, spoil: str) -> None:
    facts = replace(FACTS, block_bytes=FACTS.layers * (3 << 20))
    moving = pair(tmp_path, facts=facts)
    honest = moving.fetch

    def spoilt(address: str, request: pb.ExportRequest) -> Iterator[pb.KvChunk]:
        for at, chunk in enumerate(honest(address, request)):
            if at == 1 and spoil == "left out":
                continue
            if at == 1 and spoil in ("longer", "empty"):
                chunk.data = chunk.data * 4 if spoil == "longer" else b""
                chunk.crc32 = zlib.crc32(chunk.data)
            if at == 1 and spoil == "early":
                chunk.layers = 1
            yield chunk
            if at == 1 and spoil == "twice":
                yield chunk

    moving.fetch = spoilt  # type: ignore[method-assign]
    (report,) = moving.pull()
    assert report.refusal == pb.REFUSAL_TRANSFER
    assert moving.destination.admit(continued(moving.request)) == 0


def test_a_slow_transfer_keeps_its_leases_by_its_chunks(tmp_path: Path) -> None:
    """Leases of 1 s, and 0.6 s a chunk: no stage ends in time."""
    moving = pair(tmp_path)
    fetched = moving.fetch

    def slow(address: str, request: pb.ExportRequest) -> Iterator[pb.KvChunk]:
        for chunk in fetched(address, request):
            for engine in (moving.source, moving.destination):
                engine.now += 0.6
                engine.offers.end_leases()
                engine.arrivals.end_leases()
            yield chunk

    moving.fetch = slow  # type: ignore[method-assign]
    report = moving.fetch_first_stage()
    assert (report.refusal, report.tokens) == (0, 16) and moving.source.now > 2.0
    assert moving.destination.admit(continued(moving.request)) == 16


def test_blocks_that_fill_up_while_the_source_decodes_follow(tmp_path: Path) -> None:
    moving = pair(tmp_path)
    reports = moving.pull()
    assert next(reports).tokens == 16
    for token in range(40, 47):
        moving.source.decode(moving.request, token)
    report = next(reports)
    assert (report.stage, report.tokens, report.source_tokens) == (2, 24, 24)
    del reports
    there = continued(moving.request)
    assert moving.destination.admit(there) == 24 and moving.destination.has(there, 24)


def test_nothing_is_copied_of_requests_that_do_not_move(tmp_path: Path) -> None:
    engine = FakeEngine(tmp_path)
    engine.run(FakeRequest("cmpl-r1-0", list(PROMPT)))
    assert engine.step().saves == []


def test_a_step_copies_no_more_than_it_may(tmp_path: Path) -> None:
    engine = FakeEngine(tmp_path, blocks_per_step=3)
    request = FakeRequest("cmpl-r1-0", list(PROMPT))
    engine.run(request)
    engine.offers.offer(ask(request))
    assert [len(engine.step().saves) for _ in range(3)] == [3, 1, 0]


def test_tokens_of_a_step_under_way_are_not_taken_for_computed(tmp_path: Path) -> None:
    engine = FakeEngine(tmp_path)
    request = FakeRequest("cmpl-r1-0", list(PROMPT[:16]))
    engine.run(request)
    request.num_computed_tokens, request.num_output_placeholders = 16, 1
    engine.offers.offer(ask(request))
    assert len(engine.step().saves) == 3


def test_what_the_kv_cache_has_is_not_loaded(tmp_path: Path) -> None:
    moving = pair(tmp_path)
    moving.fetch_first_stage()
    assert moving.destination.admit(continued(moving.request), cached_tokens=8) == 8


def test_one_token_is_left_to_compute(tmp_path: Path) -> None:
    moving = pair(tmp_path)
    moving.fetch_first_stage()
    there = FakeRequest("cmpl-r1-2-0", PROMPT[:16])
    assert moving.destination.admit(there) == 12


def test_what_another_move_has_brought_is_not_fetched_again(tmp_path: Path) -> None:
    moving = pair(tmp_path)
    moving.fetch_first_stage()
    again = prepare(moving.offer, moving.request.all_token_ids, move_id="m2")
    assert moving.destination.arrivals.prepare(again).cached_tokens == 16
    moving.destination.arrivals.release(MOVE)
    assert moving.destination.admit(continued(moving.request)) == 16


@pytest.mark.parametrize(
    "changes",
    [
        {"lora_request": object()},
        {"mm_features": [object()]},
        {"prompt_embeds": object()},
        {"cache_salt": "tenant"},
    ],
)
def test_what_ids_do_not_tell_is_not_loaded(tmp_path: Path, changes: dict[str, object]) -> None:
    moving = pair(tmp_path)
    moving.fetch_first_stage()
    there = replace(continued(moving.request), **changes)  # type: ignore[arg-type]
    assert moving.destination.admit(there) == 0


# ------------------------------------------------------------ what is refused


def test_calls_that_cannot_be_offered(tmp_path: Path) -> None:
    engine = FakeEngine(tmp_path)
    unknown = FakeRequest("cmpl-r1-0", list(PROMPT))
    assert engine.offers.offer(ask(unknown)).refusal == pb.REFUSAL_UNKNOWN
    for changes in ({"lora_request": object()}, {"num_output_tokens": 0}):
        request = replace(unknown, **changes)
        engine.run(request)
        assert engine.offers.offer(ask(request)).refusal == pb.REFUSAL_NOT_DECODING


@pytest.mark.parametrize("other", ["cmpl-r11-0", "cmpl-r1-00", "cmpl-r1-1", "cmpl-r1-0-0123abcdx"])
def test_calls_are_found_by_their_whole_name(tmp_path: Path, other: str) -> None:
    engine = FakeEngine(tmp_path)
    engine.run(FakeRequest(other, list(PROMPT)))
    asked = pb.OfferRequest(move_id=MOVE, call_id="r1", epoch=1)
    assert engine.offers.offer(asked).refusal == pb.REFUSAL_UNKNOWN


def test_other_layouts_are_refused(tmp_path: Path) -> None:
    moving = pair(tmp_path)
    for field, value in (("dtype", "bfloat16"), ("block_tokens", 8), ("tensor_parallel", 2)):
        asked = prepare(moving.offer, PROMPT, move_id="m2")
        setattr(asked.manifest, field, value)
        assert moving.destination.arrivals.prepare(asked).refusal == pb.REFUSAL_LAYOUT


def test_what_does_not_fit_the_store_is_refused(tmp_path: Path) -> None:
    assert pair(tmp_path, limit_blocks=5).prepared.refusal == pb.REFUSAL_NO_MEMORY


def test_moves_are_bounded(tmp_path: Path) -> None:
    moving = pair(tmp_path, max_moves=1)
    asked = prepare(moving.offer, PROMPT, move_id="m2")
    assert moving.destination.arrivals.prepare(asked).refusal == pb.REFUSAL_BUSY
    moving.destination.arrivals.release(MOVE)
    assert moving.destination.arrivals.prepare(asked).refusal == 0


def test_a_repeated_call_gets_the_same_answer(tmp_path: Path) -> None:
    moving = pair(tmp_path)
    assert moving.source.offers.offer(ask(moving.request)) == moving.offer
    asked = prepare(moving.offer, moving.request.all_token_ids)
    assert moving.destination.arrivals.prepare(asked) == moving.prepared


@pytest.mark.parametrize("wrong", ["token", "lease"])
def test_nothing_goes_out_without_the_secrets(tmp_path: Path, wrong: str) -> None:
    moving = pair(tmp_path)
    (report,) = moving.pull(**{wrong: b"x" if wrong == "token" else "x"})  # type: ignore[arg-type]
    assert report.refusal == pb.REFUSAL_TOKEN
    assert moving.destination.admit(continued(moving.request)) == 0


def test_a_token_is_good_for_one_export(tmp_path: Path) -> None:
    moving = pair(tmp_path)
    moving.fetch_first_stage()
    asked = pb.ExportRequest(move_id=MOVE, transfer_token=moving.offer.transfer_token)
    (chunk,) = moving.source.offers.export(asked, active)
    assert chunk.refusal == pb.REFUSAL_TOKEN


# ------------------------------------------------------------ what fails


def test_a_request_that_ends_ends_its_export(tmp_path: Path) -> None:
    moving = pair(tmp_path)
    moving.source.scheduler.ended(moving.request)
    (report,) = moving.pull()
    assert report.refusal == pb.REFUSAL_FINISHED
    assert moving.destination.admit(continued(moving.request)) == 16  # what came before is good


def test_a_source_that_is_lost_is_told(tmp_path: Path) -> None:
    moving = pair(tmp_path)

    def lost(address: str, request: pb.ExportRequest) -> Iterator[pb.KvChunk]:
        yield next(moving.source.offers.export(request, active))
        raise SourceLost("gone")

    moving.fetch = lost  # type: ignore[method-assign]
    *_, report = moving.pull()
    assert report.refusal == pb.REFUSAL_TRANSFER


@pytest.mark.parametrize(
    "spoil",
    [
        {"data": b"\0" * 192},
        {"first_token": 4},
        {"first_layer": 1},
        {"layers": 2},
        {"tokens": 8},
        {"block_key": b"short"},
    ],
)
def test_a_spoilt_chunk_ends_the_transfer(tmp_path: Path, spoil: dict[str, object]) -> None:
    moving = pair(tmp_path)
    honest = moving.fetch

    def spoilt(address: str, request: pb.ExportRequest) -> Iterator[pb.KvChunk]:
        for chunk in honest(address, request):
            for name, value in spoil.items():
                setattr(chunk, name, value)
            yield chunk

    moving.fetch = spoilt  # type: ignore[method-assign]
    (report,) = moving.pull()
    assert report.refusal == pb.REFUSAL_TRANSFER
    assert moving.destination.admit(continued(moving.request)) == 0


@pytest.mark.parametrize("damage", ["missing", "corrupt"])
@pytest.mark.parametrize("block", [0, 2])
def test_a_block_that_cannot_be_loaded_is_computed(tmp_path: Path, damage: str, block: int) -> None:
    moving = pair(tmp_path)
    moving.fetch_first_stage()
    there = continued(moving.request)
    key = moving.destination.arrivals.keys(there, block, block + 1)[0]
    file = moving.destination.folder.path / f"{key.hex()}.0"
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    good = moving.destination.admit(there)
    assert good == 4 * block
    assert moving.destination.has(there, good)


def test_a_source_without_space_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shunter_vllm.offers.COPIED_S", 0.0)
    source = FakeEngine(tmp_path / "a")
    source.caches[0].full = True
    request = FakeRequest("cmpl-r1-0", list(PROMPT))
    source.run(request)
    offer = source.offers.offer(ask(request))
    assert len(source.step().saves) == 4  # the step goes on
    asked = pb.ExportRequest(move_id=MOVE, transfer_token=offer.transfer_token)
    (chunk,) = source.offers.export(asked, active)
    assert chunk.refusal == pb.REFUSAL_TRANSFER


def test_a_full_store_ends_the_copy_where_it_is(tmp_path: Path) -> None:
    moving = pair(tmp_path, limit_blocks=6)
    reports = moving.pull()
    next(reports)
    for token in range(40, 56):
        moving.source.decode(moving.request, token)
    *_, report = reports
    assert report.refusal == pb.REFUSAL_NO_MEMORY
    there = continued(moving.request)
    assert moving.destination.admit(there) == 24 and moving.destination.has(there, 24)


# ------------------------------------------------------------ what is left


@pytest.mark.parametrize("how", ["told", "lease"])
def test_both_sides_forget(tmp_path: Path, how: str) -> None:
    moving = pair(tmp_path)
    moving.fetch_first_stage()
    for engine in (moving.source, moving.destination):
        assert list(engine.folder.path.iterdir()) and not engine.ledger.empty
        if how == "told":
            assert engine.offers.release(MOVE) or engine.arrivals.release(MOVE)
        engine.now += 1.1
        engine.offers.end_leases()
        engine.arrivals.end_leases()
        assert list(engine.folder.path.iterdir()) == [] and engine.ledger.empty
        assert not engine.offers.state(MOVE) and not engine.arrivals.state(MOVE)
    assert moving.destination.admit(continued(moving.request)) == 0


def test_blocks_of_an_ended_move_do_not_come_back(tmp_path: Path) -> None:
    moving = pair(tmp_path)
    reports = moving.pull()
    next(reports)
    moving.destination.arrivals.release(MOVE)
    for token in range(40, 47):
        moving.source.decode(moving.request, token)
    *_, report = reports
    assert report.refusal == pb.REFUSAL_NO_MEMORY
    assert list(moving.destination.folder.path.iterdir()) == []


def test_an_idle_export_is_heard_of_and_keeps_its_leases(tmp_path: Path) -> None:
    moving = pair(tmp_path)
    reports = moving.pull()
    for stage in range(1, 5):
        report = next(reports)
        assert (report.stage, report.tokens, report.refusal) == (stage, 16, 0)
        for engine in (moving.source, moving.destination):
            engine.now += 0.75
            engine.offers.end_leases()
            engine.arrivals.end_leases()
        moving.source.now += 0.25  # the next stage's end is due
