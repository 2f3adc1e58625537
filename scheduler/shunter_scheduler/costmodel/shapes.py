"""What of a model's architecture decides how fast it runs."""

from dataclasses import dataclass

from shunter_scheduler.costmodel.precision import BF16, Precision


@dataclass(frozen=True, slots=True)
class Latent:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): the KV cache holds one vector of
    `kv_rank` and one rotated key of `rope_dim` per token for all heads. `q_rank` 0: queries are not
    compressed."""

    kv_rank: int
    rope_dim: int
    nope_dim: int
    value_dim: int
    q_rank: int = 0


@dataclass(frozen=True, slots=True)
class Mlp:
    """The MLP of `layers` layers: each token runs through `active` of `experts` of width `hidden`
    and through `shared_hidden` besides."""

    layers: int
    hidden: int
    experts: int = 1
    active: int = 1
    shared_hidden: int = 0


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A decoder-only transformer.

    `experts` is 1 for dense models; `mlp_hidden` is the width of one expert. Of a model with
    experts, `dense_layers` layers have none, but an MLP of `dense_mlp_hidden`; `shared_mlp_hidden`
    is the width that every token runs through in the others. `mlp_matrices` is 3 where the MLP is
    gated, else 2. In `windowed_layers` layers a token attends to the last `window` only.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_hidden: int
    vocab: int
    tied_embeddings: bool = False
    context_length: int = 4096
    experts: int = 1
    active_experts: int = 1
    shared_mlp_hidden: int = 0
    dense_layers: int = 0
    dense_mlp_hidden: int = 0
    mlp_matrices: int = 3
    latent: Latent | None = None
    window: int = 0
    windowed_layers: int = 0
    dtype_bytes: int = 2  # of activations, embeddings, and weights that are not quantised
    kv_dtype_bytes: int = 2
    weights: Precision = BF16
    source: str = ""

    @property
    def mlps(self) -> tuple[Mlp, ...]:
        """One for each kind of layer there is."""
        routed = Mlp(
            self.layers - self.dense_layers,
            self.mlp_hidden,
            self.experts,
            self.active_experts,
            self.shared_mlp_hidden,
        )
        if not self.dense_layers:
            return (routed,)
        return (routed, Mlp(self.dense_layers, self.dense_mlp_hidden))

    @property
    def attention_parameters(self) -> int:
        """Of the projections of one layer."""
        at = self.latent
        if at is None:
            return self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        query_width = self.heads * (at.nope_dim + at.rope_dim)
        queries = self.hidden * query_width
        if at.q_rank:
            queries = at.q_rank * (self.hidden + query_width)
        down = self.hidden * (at.kv_rank + at.rope_dim)
        up = at.kv_rank * self.heads * (at.nope_dim + at.value_dim)
        return queries + down + up + self.heads * at.value_dim * self.hidden

    def mlp_parameters(self, width: int) -> int:
        """Of an MLP of this width."""
        return self.mlp_matrices * self.hidden * width

    @property
    def head_parameters(self) -> int:
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        layers = self.layers * self.attention_parameters
        for mlp in self.mlps:
            router = self.hidden * mlp.experts if mlp.experts > 1 else 0
            width = mlp.experts * mlp.hidden + mlp.shared_hidden
            layers += mlp.layers * (self.mlp_parameters(width) + router)
        return layers + self._embedding_parameters

    @property
    def weights_bytes(self) -> int:
        """Of all weights. A quantised model keeps its routers, and mostly its embeddings, whole."""
        experts = sum(m.layers * self.mlp_parameters(m.experts * m.hidden) for m in self.mlps)
        shared = sum(m.layers * self.mlp_parameters(m.shared_hidden) for m in self.mlps)
        linear = self.layers * self.attention_parameters + shared
        rest = self.parameters - experts - linear
        quantised_bytes = experts * self.expert_bytes + linear * self.linear_bytes
        return round(quantised_bytes + rest * self.embedding_bytes)

    @property
    def expert_bytes(self) -> float:
        """Of one weight of the experts (a dense model's MLP is its one expert)."""
        return self._stored(True)

    @property
    def linear_bytes(self) -> float:
        """Of one weight of the attention's projections and of shared experts."""
        return self._stored(self.weights.scope != "experts")

    @property
    def embedding_bytes(self) -> float:
        """Of one weight of embeddings, output head and routers."""
        return self._stored(self.weights.scope == "all")

    def _stored(self, quantised: bool) -> float:
        return self.weights.weight_bytes if quantised else float(self.dtype_bytes)

    @property
    def _embedding_parameters(self) -> int:
        return self.head_parameters * (1 if self.tied_embeddings else 2)

    @property
    def kv_values_per_token(self) -> int:
        """Of one layer, for all heads."""
        if self.latent is not None:
            return self.latent.kv_rank + self.latent.rope_dim
        return 2 * self.kv_heads * self.head_dim

    @property
    def flops_per_pair(self) -> int:
        """Of one layer's attention, for a prompt's token and one that it attends to."""
        if self.latent is not None:
            at = self.latent
            return 2 * self.heads * (at.nope_dim + at.rope_dim + at.value_dim)
        return 4 * self.heads * self.head_dim

    @property
    def decode_flops_per_pair(self) -> int:
        """The same for a generated token. With latent attention engines multiply by the cached
        vectors themselves: more arithmetic, but they are read once for all heads."""
        if self.latent is not None:
            return 2 * self.heads * (2 * self.latent.kv_rank + self.latent.rope_dim)
        return self.flops_per_pair
