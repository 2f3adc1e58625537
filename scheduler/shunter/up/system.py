"""Brings the whole system up, follows edits of its files, takes it down."""

import asyncio
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

from shunter.config import parse
from shunter.failure import Failure
from shunter.state import ProcessState, State, write_state
from shunter.up.config_directory import ConfigDirectory
from shunter.up.fleet import Fleet
from shunter.up.launch import Endpoints, Folders, engine_spec, gateway_spec, scheduler_spec
from shunter.up.plan import EnginePlan, plan_engines
from shunter.up.ports import Ports
from shunter.up.scheduler import SchedulerCalls
from shunter.up.screen import Served
from shunter_api.problems import ConfigurationError
from shunter_api.validate import Configuration
from shunter_scheduler.sources.files import Files, read_files, watch_files

WATCH_INTERVAL_S = 0.5


@dataclass(frozen=True, slots=True)
class SystemOptions:
    paths: tuple[Path, ...]
    state_dir: Path
    endpoints: Endpoints
    speed: float = 1.0
    api_keys: Path | None = None
    insecure_open: bool = False
    start_timeout_s: float = 120.0
    absent: Mapping[str, str] = field(default_factory=dict)  # pools not served here, and why


class System:
    """One `shunter up`. `close` leaves nothing behind but logs."""

    def __init__(self, options: SystemOptions, ports: Ports, tell: Callable[[str], None]) -> None:
        self.plans: dict[str, EnginePlan] = {}
        self.ready = False
        self.served = Served(
            options.endpoints, options.state_dir, keyed=options.api_keys is not None
        )
        self.fleet = Fleet(tell, self._write_state)
        self._options = options
        self._tell = tell
        self._free = ports
        self._ports: dict[str, int] = {}
        self._config = ConfigDirectory(options.state_dir)
        self._scheduler = SchedulerCalls(options.endpoints.scheduler)
        self.logs = options.state_dir / "logs"
        self._folders = Folders(self.logs, options.state_dir / "slots")

    async def start(self, files: Files, configuration: Configuration) -> None:
        """Until everything serves. Raises `Failure`. `probe` must run beside it."""
        self.logs.mkdir(parents=True, exist_ok=True)
        for log in self.logs.glob("*.log"):
            log.unlink()
        shutil.rmtree(self._folders.saved_slots, ignore_errors=True)
        self._folders.saved_slots.mkdir(mode=0o700)  # what is saved there was said by clients
        self.plans, remarks = plan_engines(configuration, self._options.absent)
        for remark in remarks:
            self._tell(remark)
        await self._start_engines(self.plans)
        self._publish(files)
        options = self._options
        self.fleet.start(scheduler_spec(options.endpoints, self._config.path, self.logs))
        self.fleet.start(
            gateway_spec(options.endpoints, self._folders, options.api_keys, options.insecure_open)
        )
        await self.fleet.wait_ready(list(self.fleet.children), options.start_timeout_s)
        await self._scheduler.wait_instances(list(self.plans), options.start_timeout_s)
        self.ready = True
        self._write_state()

    async def follow(self, running: Files) -> None:
        """Carries out edits of the files. Ends by cancellation."""
        contents = watch_files(self._options.paths, WATCH_INTERVAL_S, read_files)
        async with aclosing(contents):
            async for found in contents:
                if isinstance(found, ConfigurationError):
                    self._refuse(found)
                elif found != running:
                    running = found
                    try:
                        await self._edited(found)
                    except Failure as failure:
                        self._tell(f"the edit is not carried out in full: {failure}")
                        if failure.next_step:
                            self._tell(f"next: {failure.next_step}")

    async def follow_resumes(self) -> None:
        """Says when requests went on after a failure. Ends by cancellation."""
        await self._scheduler.follow_resumes(self._tell)

    async def close(self) -> None:
        await self.fleet.stop()
        await self._scheduler.close()
        shutil.rmtree(self._folders.saved_slots, ignore_errors=True)
        (self._options.state_dir / "state.json").unlink(missing_ok=True)

    async def _edited(self, files: Files) -> None:
        """New engines before the new configuration, engines of the past leave before it."""
        try:
            wanted, remarks = plan_engines(parse(files), self._options.absent)
        except ConfigurationError as error:
            self._refuse(error)
            self._publish(files)  # the scheduler refuses it as well and tells who asks it
            return
        now = self.plans
        added = {name: plan for name, plan in wanted.items() if name not in now}
        gone = [name for name in now if name not in wanted]
        changed = [name for name, plan in wanted.items() if name in now and now[name] != plan]
        try:
            await self._start_engines(added)
        except Failure:
            await asyncio.gather(*map(self._drop, added.keys() & self.fleet.children.keys()))
            raise
        await asyncio.gather(*map(self._scheduler.drain, gone))
        self.plans = wanted
        self._publish(files)
        await asyncio.gather(*map(self._drop, gone))
        for name in changed:
            await self._replace(wanted[name])
        self._tell(
            f"configuration reloaded: {len(added)} engines added, {len(gone)} removed, "
            f"{len(changed)} replaced"
        )
        for remark in remarks:
            self._tell(remark)

    async def _replace(self, plan: EnginePlan) -> None:
        """One after the other and on the same port, so that the rest of the pool serves on."""
        await self._scheduler.drain(plan.name)
        await self.fleet.end(plan.name)
        await self._start_engines({plan.name: plan})
        await self.fleet.wait_ready([plan.name], self._options.start_timeout_s)
        await self._scheduler.undrain(plan.name)

    async def _drop(self, name: str) -> None:
        await self.fleet.end(name)
        del self._ports[name]

    async def _start_engines(self, plans: dict[str, EnginePlan]) -> None:
        for name, plan in plans.items():
            self._ports[name] = plan.port or self._ports.get(name) or self._free.free()
            spec = await asyncio.to_thread(
                engine_spec, plan, self._ports[name], self._options.speed, self._folders
            )
            self.fleet.start(spec)

    def _publish(self, files: Files) -> None:
        entries = (p.entry(f"127.0.0.1:{self._ports[p.name]}") for p in self.plans.values())
        self._config.publish(files, entries)

    def _refuse(self, error: ConfigurationError) -> None:
        for problem in error.problems:
            self._tell(f"edit refused, the running configuration stays: {problem}")

    def _write_state(self) -> None:
        endpoints = self._options.endpoints
        processes = tuple(
            ProcessState(name, c.spec.role, c.pid, c.spec.address, str(c.spec.log))
            for name, c in self.fleet.children.items()
        )
        state = State(
            pid=os.getpid(),
            ready=self.ready,
            http=endpoints.http,
            grpc=endpoints.grpc,
            scheduler=endpoints.scheduler,
            processes=processes,
        )
        write_state(self._options.state_dir, state)
