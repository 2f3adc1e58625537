"""All processes of one `shunter up`: their tasks, their health, their end."""

import asyncio
from collections.abc import Callable

import aiohttp

from shunter.failure import Failure
from shunter.up.child import Child, ChildSpec

HEALTH_TIMEOUT_S = 2.0
STARTING_POLL_S = 0.2
STEADY_POLL_S = 1.0
MAX_DEATHS_AT_START = 3
STOP_GRACE_S = 8.0
TAIL_LINES = 12


class Fleet:
    """Owns every child until `stop`. `changed` is called after each start and end of one."""

    def __init__(self, tell: Callable[[str], None], changed: Callable[[], None]) -> None:
        self.children: dict[str, Child] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._tell = tell
        self._changed = changed
        self._seen: set[str] = set()  # ready once: to be ready again is news

    def start(self, spec: ChildSpec) -> Child:
        child = Child(spec, self._heard)
        self.children[spec.name] = child
        self._tasks[spec.name] = asyncio.create_task(child.run(), name=spec.name)
        return child

    async def end(self, name: str) -> None:
        """Stop one child and forget it."""
        child, task = self.children.pop(name), self._tasks.pop(name)
        self._seen.discard(name)
        await child.stop(STOP_GRACE_S)
        await task
        self._changed()

    async def stop(self) -> None:
        """Gateways first: they end their streams while there are engines. Then all others."""
        gateways = [name for name, c in self.children.items() if c.spec.role == "gateway"]
        await asyncio.gather(*(self.end(name) for name in gateways))
        await asyncio.gather(*(self.end(name) for name in list(self.children)))

    async def probe(self) -> None:
        """Asks every child that is not known to serve whether it does. Ends by cancellation."""
        timeout = aiohttp.ClientTimeout(total=HEALTH_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                waiting = [c for c in self.children.values() if c.pid and not c.ready]
                await asyncio.gather(*(self._ask(session, child) for child in waiting))
                all_ready = all(child.ready for child in self.children.values())
                await asyncio.sleep(STEADY_POLL_S if all_ready else STARTING_POLL_S)

    async def wait_ready(self, names: list[str], deadline_s: float) -> None:
        """Until these children serve. Raises `Failure` where one does not come up."""
        try:
            async with asyncio.timeout(deadline_s):
                while late := [c for name in names if not (c := self.children[name]).ready]:
                    for child in late:
                        if child.deaths >= MAX_DEATHS_AT_START:
                            raise _failure(child, f"died {child.deaths} times at start")
                    await asyncio.sleep(STARTING_POLL_S / 2)
        except TimeoutError:
            late = [c for name in names if not (c := self.children[name]).ready]
            raise _failure(late[0], f"does not serve after {deadline_s:g} s") from None

    async def _ask(self, session: aiohttp.ClientSession, child: Child) -> None:
        pid = child.pid
        try:
            async with session.get(child.spec.health_url) as response:
                child.ready = response.status == 200 and child.pid == pid
        except (aiohttp.ClientError, TimeoutError):
            return
        if child.ready:
            if child.spec.name in self._seen:
                self._tell(f"{child.spec.name} serves again")
            self._seen.add(child.spec.name)

    def _heard(self, news: str) -> None:
        if news:
            self._tell(news)
        self._changed()


def _failure(child: Child, what: str) -> Failure:
    lines = dict.fromkeys(child.log_tail().splitlines())  # each try says the same
    tail = "\n".join(list(lines)[-TAIL_LINES:])
    said = f"; its log ends with:\n{tail}" if tail else ""
    return Failure(f"{child.spec.name} {what}{said}", f"the whole log is {child.spec.log}")
