"""Fake engines: they generate by a rule, when told to."""

from collections.abc import Iterable

from shunter_gateway.lifecycle_ports import Clock
from shunter_gateway.ports import (
    Capabilities,
    EngineFailure,
    EngineRequest,
    TokenChunk,
    TokenLogprob,
    TokenSink,
)

TOKEN_LEVEL = Capabilities(
    token_ids=True,
    prefix_caching=True,
    priority=True,
    abort=True,
    output_offset=True,
    embeddings=False,
)
TEXT_LEVEL = Capabilities(
    token_ids=False,
    prefix_caching=False,
    priority=False,
    abort=True,
    output_offset=False,
    embeddings=False,
)


def next_token(token_ids: Iterable[int], vocab: int = 97) -> int:
    """Depends on all tokens before it, so that a wrong resume is seen at once."""
    state = 7
    for token_id in token_ids:
        state = (state * 31 + token_id + 1) % 1_000_003
    return state % vocab


def answer_ids(prompt: Iterable[int], count: int) -> list[int]:
    """What an undisturbed engine generates."""
    ids = list(prompt)
    start = len(ids)
    for _ in range(count):
        ids.append(next_token(ids))
    return ids[start:]


def logprob_of(token_id: int) -> TokenLogprob:
    """Tells which token it belongs to."""
    return TokenLogprob(token_id, -float(token_id))


class ScriptedCall:
    """One engine call that goes on when told to."""

    def __init__(self, engine: "ScriptedEngine", request: EngineRequest, sink: TokenSink) -> None:
        self._engine = engine
        self.request = request
        self._sink = sink
        self._ids = list(request.token_ids or ())
        self.made = 0
        self.over = False
        self.aborted = False
        self.paused = False

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Prompt and generated, those that were not read yet included."""
        return tuple(self._ids)

    def generate(self, tokens: int) -> list[int]:
        """Like `step`, but its reader gets the tokens by `send` only, later."""
        before = len(self._ids)
        for _ in range(tokens):
            self._ids.append(next_token(self._ids))
        self.made += tokens
        return self._ids[before:]

    def abort(self) -> None:
        self.aborted = self.aborted or not self.over
        self.over = True

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def step(self, tokens: int = 1, finish: bool = True) -> None:
        """Generates; ends the call once `max_tokens` are reached. Nothing while paused."""
        if self.over or self.paused:
            return
        if self.request.token_ids is None:
            self._step_text(tokens)
            return
        wanted = min(tokens, self.request.max_tokens - self.made)
        ids = []
        for _ in range(wanted):
            self._ids.append(next_token(self._ids))
            ids.append(self._ids[-1])
        self.made += wanted
        last = self.made >= self.request.max_tokens
        wanted_logprobs = self.request.sampling.logprobs is not None
        self._sink.on_chunk(
            TokenChunk(
                token_ids=ids,
                finish_reason="length" if last and finish else None,
                logprobs=[logprob_of(id_) for id_ in ids] if wanted_logprobs else (),
            )
        )
        if last and finish:
            self._end()

    def _step_text(self, tokens: int) -> None:
        self.made += tokens
        self._sink.on_chunk(TokenChunk(raw=b'{"n":%d}' % self.made, text="x" * tokens))

    def _end(self) -> None:
        if not self.over:
            self.over = True
            self._sink.on_end()

    def send(self, chunk: TokenChunk) -> None:
        if not self.over:
            self._sink.on_chunk(chunk)

    def end(self, chunk: TokenChunk | None = None) -> None:
        if chunk is not None:
            self.send(chunk)
        self._end()

    def fail(self, failure: EngineFailure) -> None:
        if not self.over:
            self.over = True
            self._sink.on_failure(failure)


class ScriptedEngine:
    """An `EngineAdapter` that records its calls; `next_failure` ends the next one at once."""

    engine_type = "simulated"

    def __init__(self, clock: Clock, capabilities: Capabilities = TOKEN_LEVEL) -> None:
        self._clock = clock
        self.capabilities = capabilities
        self.unordered: set[str] = set()
        self.calls: list[ScriptedCall] = []
        self.next_failure: EngineFailure | None = None

    @property
    def live(self) -> list[ScriptedCall]:
        return [call for call in self.calls if not call.over]

    def start(self, request: EngineRequest, sink: TokenSink) -> ScriptedCall:
        call = ScriptedCall(self, request, sink)
        self.calls.append(call)
        failure, self.next_failure = self.next_failure, None
        if failure is not None:
            self._clock.call_later(0, lambda: call.fail(failure))
        return call

    async def tokenize(self, address: str, model: str, text: str) -> list[int]:
        return list(text.encode())

    async def forward(self, address: str, path: str, body: bytes) -> tuple[int, bytes]:
        return 200, b"{}"
