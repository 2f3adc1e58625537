"""`EngineMoves` of a vLLM engine, as far as vLLM can: nothing freezes, nothing is committed.

It is served by threads in the process of vLLM's scheduler, which has no event loop.
"""

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import grpc

from shunter_proto.v1 import moves_pb2 as pb
from shunter_proto.v1 import moves_pb2_grpc as pb_grpc
from shunter_runtime.tls import TlsFiles, bind_server, channel_credentials
from shunter_vllm.arrivals import Arrivals, Fetch, SourceLost
from shunter_vllm.chunks import MAX_CHUNK_BYTES
from shunter_vllm.leases import Store
from shunter_vllm.offers import Offers

MAX_ID_CHARS = 64
MAX_REQUEST_BYTES = 8 << 20  # Prepare brings the ids of a whole context
LONGEST_MOVE_S = 300.0
_TICK_S = 0.5
_ORPHAN_S = 10.0  # a worker may write what nobody waits for any more
_SERVER_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", MAX_CHUNK_BYTES + (64 << 10)),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.max_concurrent_streams", 256),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 2_000),
    ("grpc.so_reuseport", 0),
]
_CLIENT_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_CHUNK_BYTES + (64 << 10)),
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),
]
_log = logging.getLogger("vllm.shunter")


def fetcher(tls: TlsFiles | None, context: grpc.ServicerContext) -> Fetch:
    """Fetches from other engines until `context`'s caller hangs up. Raises `TlsError`."""
    credentials = channel_credentials(tls) if tls is not None else None

    def fetch(address: str, request: pb.ExportRequest) -> Iterator[pb.KvChunk]:
        if credentials is None:
            channel = grpc.insecure_channel(address, _CLIENT_OPTIONS)
        else:
            channel = grpc.secure_channel(address, credentials, _CLIENT_OPTIONS)
        with channel:
            call = pb_grpc.EngineMovesStub(channel).Export(request, timeout=LONGEST_MOVE_S)

            def hung_up() -> None:
                call.cancel()

            context.add_callback(hung_up)
            try:
                yield from call
            except grpc.RpcError as error:
                raise SourceLost(f"{address}: {error.code().name}") from error
            finally:
                call.cancel()

    return fetch


class EngineMovesService(pb_grpc.EngineMovesServicer):
    """Bounds what comes in, and hands it on."""

    def __init__(self, store: Store, offers: Offers, arrivals: Arrivals, tls: TlsFiles | None):
        self._store = store
        self._offers = offers
        self._arrivals = arrivals
        self._tls = tls

    def Describe(
        self, request: pb.DescribeRequest, context: grpc.ServicerContext
    ) -> pb.DescribeReply:
        facts = self._store.facts
        return pb.DescribeReply(
            manifest=facts.manifest(), layout=facts.word(), max_moves=self._store.max_moves
        )

    def Offer(self, request: pb.OfferRequest, context: grpc.ServicerContext) -> pb.OfferReply:
        _check(request.move_id, context)
        return self._offers.offer(request)

    def Prepare(self, request: pb.PrepareRequest, context: grpc.ServicerContext) -> pb.PrepareReply:
        _check(request.move_id, context)
        return self._arrivals.prepare(request)

    def Pull(
        self, request: pb.PullRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.PullReport]:
        _check(request.move_id, context)
        fetch = fetcher(self._tls, context)
        yield from self._arrivals.pull(request, fetch, context.is_active)

    def Export(
        self, request: pb.ExportRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.KvChunk]:
        _check(request.move_id, context)
        yield from self._offers.export(request, context.is_active)

    def Freeze(self, request: pb.FreezeRequest, context: grpc.ServicerContext) -> NoReturn:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "vLLM cannot freeze one request")

    def Commit(self, request: pb.CommitRequest, context: grpc.ServicerContext) -> NoReturn:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "what is fetched is found by its tokens")

    def Release(self, request: pb.ReleaseRequest, context: grpc.ServicerContext) -> pb.ReleaseReply:
        _check(request.move_id, context)
        known = self._offers.release(request.move_id)
        return pb.ReleaseReply(refusal=pb.REFUSAL_NONE if known else pb.REFUSAL_UNKNOWN)

    def Abort(self, request: pb.AbortRequest, context: grpc.ServicerContext) -> pb.AbortReply:
        _check(request.move_id, context)
        offered = self._offers.release(request.move_id)
        arrived = self._arrivals.release(request.move_id)
        known = offered or arrived
        return pb.AbortReply(refusal=pb.REFUSAL_NONE if known else pb.REFUSAL_UNKNOWN)

    def State(self, request: pb.StateRequest, context: grpc.ServicerContext) -> pb.StateReply:
        _check(request.move_id, context)
        phase = pb.StateReply.PHASE_NONE
        if self._offers.state(request.move_id):
            phase = pb.StateReply.PHASE_OFFERED
        elif self._arrivals.state(request.move_id):
            phase = pb.StateReply.PHASE_RESERVED
        return pb.StateReply(phase=phase)


def _check(move_id: str, context: grpc.ServicerContext) -> None:
    if not 0 < len(move_id) <= MAX_ID_CHARS:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"move_id: 1 to {MAX_ID_CHARS} characters")


class MovesServer:
    """Owns the gRPC server and the thread that ends leases."""

    def __init__(
        self, store: Store, offers: Offers, arrivals: Arrivals, tls: TlsFiles | None
    ) -> None:
        self._store = store
        self._offers = offers
        self._arrivals = arrivals
        self._tls = tls
        self._stopped = threading.Event()
        self._ticks = threading.Thread(target=self._tick, name="shunter-leases", daemon=True)
        # Each transfer under way takes a thread, on either side.
        pool = ThreadPoolExecutor(2 * store.max_moves + 4, thread_name_prefix="shunter-moves")
        self._server = grpc.server(pool, options=_SERVER_OPTIONS)

    def start(self, host: str, port: int) -> int:
        """The bound port. Raises `OSError` and `TlsError`."""
        service = EngineMovesService(self._store, self._offers, self._arrivals, self._tls)
        pb_grpc.add_EngineMovesServicer_to_server(service, self._server)
        bound = bind_server(self._server, f"{host}:{port}", self._tls)
        self._store.folder.make()
        self._server.start()
        self._ticks.start()
        return bound

    def close(self) -> None:
        """Cuts off what is under way. Idempotent."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        self._server.stop(grace=None).wait(5.0)
        self._store.folder.clear()

    def _tick(self) -> None:
        while not self._stopped.wait(_TICK_S):
            try:
                self._offers.end_leases()
                self._arrivals.end_leases()
                with self._store.changed:
                    self._store.folder.sweep(self._store.ledger.has, time.time() - _ORPHAN_S)
            except Exception:  # the thread's outermost level: leases have to end
                _log.exception("ending leases of KV moves")
