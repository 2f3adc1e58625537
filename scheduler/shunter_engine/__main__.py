"""`shunter engine`: builds backend, tokenizer and server, and runs them until a signal comes."""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Literal, Protocol, get_args, runtime_checkable

import structlog
from aiohttp import web

from shunter_engine.kv_publisher import open_publisher
from shunter_engine.loading import EngineStartError, load
from shunter_engine.moves.start import serving_moves
from shunter_engine.options import ArrayModule, BackendName, EngineOptions
from shunter_engine.server import EngineServer, listen
from shunter_runtime.logs import configure_logging
from shunter_runtime.loop import run as run_loop
from shunter_runtime.metrics import port_of
from shunter_runtime.signals import stop_signals

__all__ = ["EngineFailed", "EngineOptions", "EngineStartError", "main", "run", "serve"]


_CHOICES = {"backend": get_args(BackendName), "array_module": get_args(ArrayModule)}


class EngineFailed(Exception):
    """The backend broke while it ran. The process ends, and its streams are moved elsewhere."""


@runtime_checkable
class WatchedBackend(Protocol):
    """A backend with a task of its own that can break."""

    async def failed(self) -> None:
        """Returns only by raising what broke the backend."""


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m shunter_engine`: flags as `EngineOptions` has fields."""
    configure_logging()
    try:
        run(_parse(arguments))
    except (EngineStartError, EngineFailed) as error:
        structlog.get_logger("shunter.engine").error("engine ended", error=str(error))
        return 1
    return 0


def run(options: EngineOptions) -> None:
    """Serves until SIGTERM or SIGINT. Raises `EngineStartError` and `EngineFailed`."""
    run_loop(_run(options))


async def _run(options: EngineOptions) -> None:
    with stop_signals() as stop:
        loaded = await serve(options, stop, lambda port: _announce(options, port))
    if not loaded:
        os._exit(0)  # a download or conversion goes on in a thread, which nothing can end


async def serve(
    options: EngineOptions, stop: asyncio.Event, on_listening: Callable[[int], None]
) -> bool:
    """Listens at once (`/health` says 503), loads the model, serves until `stop` is set.

    `on_listening` gets the bound port. False: stopped before the model was loaded. Raises
    `EngineStartError` and `EngineFailed`.
    """
    server = EngineServer(options.model_name, options.seed, options.allow_faults)
    try:
        runner = await listen(server, options.host, options.port)
    except OSError as error:
        raise EngineStartError(f"{options.host}:{options.port}: {error.strerror}") from error
    try:
        on_listening(port_of(runner))
        return await _serve_until(stop, options, server, runner)
    finally:
        await runner.cleanup()


async def _serve_until(
    stop: asyncio.Event, options: EngineOptions, server: EngineServer, runner: web.AppRunner
) -> bool:
    publisher = open_publisher(options.kv_events_config)
    stopping = asyncio.ensure_future(stop.wait())
    loading = asyncio.ensure_future(load(options))
    try:
        await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            return False
        parts = loading.result()
        try:
            if publisher is not None:
                parts.backend.watch_cache(publisher)
            async with serving_moves(options, parts, server) as take_over:
                server.load(parts, take_over)
                structlog.get_logger("shunter.engine").info("ready", model=options.model_name)
                await _stopped_or_failed(stopping, parts.backend)
                # Connections break before the backend ends: the gateway moves what was running.
                await runner.cleanup()
        finally:
            await parts.backend.stop()
        return True
    finally:
        loading.cancel()
        stopping.cancel()
        await asyncio.gather(loading, stopping, return_exceptions=True)
        if publisher is not None:
            await publisher.close()


async def _stopped_or_failed(stopping: "asyncio.Task[Literal[True]]", backend: object) -> None:
    if not isinstance(backend, WatchedBackend):
        await stopping
        return
    failing = asyncio.ensure_future(backend.failed())
    await asyncio.wait({stopping, failing}, return_when=asyncio.FIRST_COMPLETED)
    failure = failing.exception() if failing.done() else None
    failing.cancel()
    if failure is not None:
        raise EngineFailed(f"the backend broke: {failure!r}") from failure


def _announce(options: EngineOptions, port: int) -> None:
    structlog.get_logger("shunter.engine").info(
        "listening", host=options.host, port=port, model=options.model_name
    )
    if options.port_file is not None:
        part = options.port_file.with_name(options.port_file.name + ".part")
        part.write_text(f"{port}\n", encoding="utf-8")
        os.replace(part, options.port_file)


def _parse(arguments: Sequence[str] | None) -> EngineOptions:
    parser = argparse.ArgumentParser(prog="python -m shunter_engine", description=__doc__)
    for field in fields(EngineOptions):
        flag = "--" + field.name.replace("_", "-")
        default = field.default
        if isinstance(default, bool):
            parser.add_argument(flag, action="store_true")
        elif field.name in _CHOICES:
            parser.add_argument(flag, choices=_CHOICES[field.name], default=default)
        else:
            kind = Path if default is None else type(default)
            parser.add_argument(flag, type=kind, default=default)
    return EngineOptions(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
