"""Bandwidth of KV copies: each instance sends over one link and receives over another, and what is
on a link at a time shares it evenly."""

from collections.abc import Callable
from dataclasses import dataclass

from shunter_simulator.virtual.agenda import Agenda


@dataclass(slots=True, eq=False)
class Transfer:
    """Bytes on the way from `source` to `target`; `due` counts how often its end was set anew."""

    source: str
    target: str
    bytes_left: float
    arrived: Callable[[], None]
    bytes_per_s: float = 0.0
    since_s: float = 0.0
    due: int = 0


class Links:
    """A transfer goes as fast as the more crowded of its two links allows; what the other link
    could give beyond that stays unused."""

    def __init__(self, agenda: Agenda, bytes_per_s: float) -> None:
        self._agenda = agenda
        self._bytes_per_s = bytes_per_s
        self._out: dict[str, dict[Transfer, None]] = {}  # in order, so that runs repeat
        self._in: dict[str, dict[Transfer, None]] = {}

    def send(
        self, source: str, target: str, size_bytes: float, arrived: Callable[[], None]
    ) -> Transfer:
        """`arrived` is called once all bytes are there; at the soonest in this very instant."""
        transfer = Transfer(source, target, size_bytes, arrived, since_s=self._agenda.now)
        self._out.setdefault(source, {})[transfer] = None
        self._in.setdefault(target, {})[transfer] = None
        self._share(transfer)
        return transfer

    def stop(self, transfer: Transfer) -> None:
        """Its bytes do not arrive; nothing to do where they have."""
        if self._out.get(transfer.source, {}).pop(transfer, transfer) is None:
            del self._in[transfer.target][transfer]
            transfer.due += 1
            self._share(transfer)

    def _share(self, changed: Transfer) -> None:
        """Sets anew when all those end that share a link with `changed`."""
        now = self._agenda.now
        out, into = self._out[changed.source], self._in[changed.target]
        for one in {**out, **into}:
            one.bytes_left -= (now - one.since_s) * one.bytes_per_s
            one.since_s = now
            crowd = max(len(self._out[one.source]), len(self._in[one.target]))
            one.bytes_per_s = self._bytes_per_s / crowd
            one.due += 1
            self._agenda.after(max(0.0, one.bytes_left) / one.bytes_per_s, self._end, one, one.due)

    def _end(self, transfer: Transfer, due: int) -> None:
        if due == transfer.due:
            self.stop(transfer)
            transfer.arrived()
