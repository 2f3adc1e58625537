"""Builds an engine's moves and serves them beside its HTTP server."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from shunter_engine.generation import TakeOver, never_taken_over
from shunter_engine.loading import EngineStartError
from shunter_engine.moves.layout import MAX_CHUNK_BYTES
from shunter_engine.moves.ports import KvHost
from shunter_engine.options import EngineOptions
from shunter_engine.server import EngineParts, EngineServer
from shunter_runtime.grpc_polling import poll_directly
from shunter_runtime.tls import TlsError, TlsFiles


@asynccontextmanager
async def serving_moves(
    options: EngineOptions, parts: EngineParts, server: EngineServer
) -> AsyncIterator[TakeOver]:
    """Gives what takes moved sequences over. Raises `EngineStartError`."""
    if options.moves_port < 0:
        yield never_taken_over
        return
    poll_directly(os.environ)
    from shunter_engine.moves.moves import Moves, MovesCollector, MovesParts
    from shunter_engine.moves.service import MovesListener
    from shunter_engine.moves.source_client import connector

    if not isinstance(parts.backend, KvHost):
        raise EngineStartError(f"--moves-port: the {options.backend} backend cannot move its KV")
    if options.max_moves < 1:
        raise EngineStartError(f"--max-moves {options.max_moves}: at least 1")
    layout = parts.backend.layout(await asyncio.to_thread(parts.tokenizer.digest))
    if layout.block_tokens * layout.layer_bytes_per_token > MAX_CHUNK_BYTES:
        raise EngineStartError(
            f"--block-tokens {layout.block_tokens}: a block of one layer is more than a chunk of "
            f"{MAX_CHUNK_BYTES >> 20} MiB holds: take smaller blocks, or no --moves-port"
        )
    try:
        tls = _tls(options)
        connect = connector(tls)
        clock = asyncio.get_running_loop()
        moves = Moves(
            MovesParts(parts.backend, layout, server.calls, connect, clock, options.max_moves)
        )
        listener = MovesListener(moves, tls)
        port = await listener.start(options.host, options.moves_port)
    except (OSError, TlsError) as error:
        raise EngineStartError(f"--moves-port {options.moves_port}: {error}") from error
    server.registry.register(MovesCollector(layout, port, moves.slots))
    structlog.get_logger("shunter.engine").info("moves", port=port, layout=layout.word())
    try:
        yield moves.incoming.attach
    finally:
        await listener.close()


def _tls(options: EngineOptions) -> TlsFiles | None:
    """Raises `TlsError`."""
    files = TlsFiles(options.moves_tls_cert, options.moves_tls_key, options.moves_tls_ca)
    if files.ca is not None and files.cert is None:
        raise TlsError("--moves-tls-ca needs --moves-tls-cert and --moves-tls-key")
    return files if files.cert is not None else None
