"""One `/metrics` page for workers that share a port: each asks all the others and adds up.

A scrape reaches whichever worker the kernel chose. Each worker tells its own figures over a Unix
socket in a folder that the parent process made.
"""

import asyncio
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

_TIMEOUT_S = 2.0
_MAX_PAGE_BYTES = 16 << 20


class WorkerMetrics:
    """The page of one process; with `peers` that of all workers. End it with `close()`."""

    def __init__(self, registry: CollectorRegistry, peers: Path | None) -> None:
        self._registry = registry
        self._peers = peers
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        if self._peers is not None:
            path = self._peers / f"{os.getpid()}.sock"
            self._server = await asyncio.start_unix_server(self._tell, path)

    async def close(self) -> None:
        if self._server is not None and self._peers is not None:
            self._server.close()
            await self._server.wait_closed()
            (self._peers / f"{os.getpid()}.sock").unlink(missing_ok=True)

    async def page(self) -> bytes:
        own = generate_latest(self._registry)
        if self._peers is None:
            return own
        mine = f"{os.getpid()}.sock"
        others = [path for path in self._peers.glob("*.sock") if path.name != mine]
        return added([own, *await asyncio.gather(*map(_ask, others))])

    async def _tell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(generate_latest(self._registry))
            async with asyncio.timeout(_TIMEOUT_S):
                await writer.drain()
        except (TimeoutError, ConnectionError):
            writer.transport.abort()
        finally:
            writer.close()


async def _ask(path: Path) -> bytes:
    """Another worker's page; empty where it has just ended."""
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(path, limit=_MAX_PAGE_BYTES)
            try:
                return await reader.read(-1)
            finally:
                writer.close()
                with suppress(ConnectionError):
                    await writer.wait_closed()
    except (TimeoutError, OSError):
        return b""


def added(pages: Sequence[bytes]) -> bytes:
    """The sum of Prometheus pages, sample by sample."""
    return generate_latest(_Pages(pages))


class _Pages:
    def __init__(self, pages: Sequence[bytes]) -> None:
        self._pages = pages

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        sums: dict[str, dict[tuple[str, frozenset[tuple[str, str]]], float]] = {}
        for page in self._pages:
            for family in text_string_to_metric_families(page.decode()):
                if family.name.endswith("_created"):
                    continue  # instants do not add up
                families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                values = sums.setdefault(family.name, {})
                for sample in family.samples:
                    key = (sample.name, frozenset(sample.labels.items()))
                    values[key] = values.get(key, 0.0) + sample.value
        for name, metric in families.items():
            for (sample_name, labels), value in sums[name].items():
                metric.add_sample(sample_name, dict(labels), value)
            yield metric
