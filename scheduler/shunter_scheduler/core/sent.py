"""What was sent to an engine and is not in its own numbers yet."""

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class Sent:
    """Between two looks every request that is sent counts. A look shows the ones before: of what it
    does not show the latest ones are still on their way."""

    requests: int = 0
    kv_tokens: int = 0  # of their prompts
    _latest: deque[int] = field(default_factory=lambda: deque(maxlen=256))

    def add(self, prompt_tokens: int) -> None:
        self.requests += 1
        self.kv_tokens += prompt_tokens
        self._latest.append(prompt_tokens)

    def looked(self, not_shown: int) -> None:
        """`not_shown` requests of the ledger are not in the engine's numbers."""
        self.requests = max(0, not_shown)
        while len(self._latest) > self.requests:
            self._latest.popleft()
        self.kv_tokens = sum(self._latest)
