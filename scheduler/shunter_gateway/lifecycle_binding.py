"""How one request speaks to the engines of the pool that it was given to."""

from dataclasses import replace
from functools import partial

from shunter_gateway.continued_seed import continued_seed
from shunter_gateway.lifecycle_answer import Answer
from shunter_gateway.lifecycle_events import sampling_state
from shunter_gateway.lifecycle_ports import Services
from shunter_gateway.ports import EngineAdapter, EngineRequest
from shunter_gateway.request import RequestSpec
from shunter_gateway.topology import Pool


class Binding:
    """Pool, adapter, and what they make possible: tokens or text, a seed, moves."""

    __slots__ = (
        "_answer",
        "_decoder",
        "_drawn_seed",
        "_services",
        "_spec",
        "_text_level_because",
        "adapter",
        "pool",
        "token_level",
    )

    def __init__(self, services: Services, spec: RequestSpec, answer: Answer, pool: Pool) -> None:
        """Before the first token only: the answer is prepared for the pool's model."""
        self._services = services
        self._spec = spec
        self._answer = answer
        self.pool = pool
        self.adapter: EngineAdapter = services.adapters[pool.engine_type]
        self._decoder = services.decoders.decoder(pool, spec.prompt_token_ids or ())
        self._text_level_because = self._why_text_level()
        self.token_level = not self._text_level_because
        self._drawn_seed: int | None = None
        if self.token_level:
            self._prepare_answer()

    def _why_text_level(self) -> str:
        """Why ids are not sent; empty if they are."""
        if self._spec.prompt_token_ids is None or not self.adapter.capabilities.token_ids:
            return "text_level"
        source, decoders = self._tokenizer_source(), self._services.decoders
        if source and not decoders.same_tokenizer(source, self.pool.model_source):
            return "other_tokenizer"
        if self._decoder is None:  # others were needed more while the request waited
            return "no_tokenizer"
        return "tokenizer_mismatch" if decoders.mismatch(self.pool) else ""

    def _tokenizer_source(self) -> str:
        """The model source whose tokenizer made the prompt's ids."""
        if self._spec.tokenizer_source:
            return self._spec.tokenizer_source
        topology = self._services.topology()
        pool = topology.pools_by_model.get(self._spec.model) if topology is not None else None
        return pool.model_source if pool is not None else ""

    def _prepare_answer(self) -> None:
        decoders, pool, sampling = self._services.decoders, self.pool, self._spec.sampling
        able = self.adapter.capabilities
        context_length = max(pool.context_length - able.unused_context_tokens, 0)
        self._answer.prepare(self._decoder, decoders.eos_token_ids(pool), context_length)
        self._answer.ids_within = partial(decoders.ids_within, pool)
        # With a seed, on an engine that counts on, sampling goes on unchanged elsewhere.
        wants_seed = sampling.seed is None and sampling.temperature != 0
        if wants_seed and able.output_offset:
            self._drawn_seed = self._services.rng.getrandbits(48)

    def unmovable_reason(self) -> str:
        """Why the request cannot go on elsewhere once it has begun; empty if it can."""
        if self._spec.unmovable_reason:
            return self._spec.unmovable_reason
        if not self.token_level:
            return self._text_level_because
        return sampling_state(self._spec.sampling, self.adapter.capabilities)

    def out_of_order(self, instance: str) -> bool:
        """That engine takes requests as they come, though others of its type go by priorities."""
        topology = self._services.topology() if self.adapter.unordered else None
        found = topology.instances.get(instance) if topology is not None else None
        return found is not None and found.address in self.adapter.unordered

    @property
    def _counts_draws(self) -> bool:
        """A call's n-th draw is the n-th of its seed, whatever was generated before."""
        able = self.adapter.capabilities
        return not (able.output_offset or able.seed_by_position)

    def same_revision(self, pool: Pool | None) -> bool:
        if pool is None:
            return False
        return pool.name == self.pool.name or pool.revision == self.pool.revision != ""

    def engine_request(
        self, address: str, epoch: int, priority: int, trace_parent: str
    ) -> EngineRequest:
        """A call that goes on from the journal."""
        spec, answer = self._spec, self._answer
        sampling, position = spec.sampling, len(answer.journal.generated)
        if self._drawn_seed is not None:
            sampling = replace(sampling, seed=self._drawn_seed)
        elif sampling.seed is not None and position and self._counts_draws:
            sampling = replace(sampling, seed=continued_seed(sampling.seed, position))
        return EngineRequest(
            request_id=spec.request_id,
            epoch=epoch,
            address=address,
            model=self.pool.model_names[0],
            path=spec.path,
            token_ids=answer.journal.token_ids() if self.token_level else None,
            output_offset=position,
            max_tokens=answer.remaining_tokens,
            min_tokens=answer.remaining_min_tokens,
            sampling=sampling,
            priority=priority,
            body=spec.body,
            trace_parent=trace_parent,
        )
