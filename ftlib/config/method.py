"""What training changes in a model, and what it minimises."""

from typing import Annotated, Literal

from pydantic import Field

from ftlib.config.base import Config, PathStr


class MethodConfig(Config):
    """What is trained."""

    kind: Literal["lora", "qlora", "full"] = "lora"
    """Low-rank adapters, adapters on a quantised base (needs a CUDA device), or all weights."""

    rank: Annotated[int, Field(ge=1)] = 16
    """LoRA rank."""

    alpha: Annotated[float, Field(gt=0)] | None = None
    """LoRA alpha; the update is scaled by alpha / rank. Default: twice the rank, also of modules in `rank_pattern`."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """LoRA dropout."""

    target_modules: str | list[str] = "all-linear"
    """Modules that get an adapter: `all-linear`, names, or one regular expression."""

    target_parameters: list[str] = []
    """Parameters that get an adapter though they are no module's weight: fused experts, such as `mlp.experts.gate_up_proj`."""

    use_rslora: bool = False
    """Scale by alpha / √rank (rank-stabilised LoRA)."""

    use_dora: bool = False
    """Train the norm of each weight apart from its direction (DoRA)."""

    init: Annotated[str, Field(pattern=r"^(default|gaussian|orthogonal|pissa|pissa_niter_[1-9]\d*|olora|eva)$")] = (
        "default"
    )
    """First weights of the adapter. `pissa`, `pissa_niter_N` (fast SVD of N iterations) and `olora` take them off the base: the exported adapter has twice the rank and fits the unchanged base. `eva` takes them from activations of training rows."""

    rank_pattern: dict[str, Annotated[int, Field(ge=1)]] = {}
    """Ranks of single modules: regular expression of the end of a module's name → rank."""

    alpha_pattern: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Alphas of single modules, by the same names."""

    lora_plus_ratio: Annotated[float, Field(ge=1)] = 1.0
    """LoRA+: learning rate of the adapter's B matrices as a multiple of A's (8 to 16 is usual); 1: LoRA."""

    bits: Literal[4, 8] = 4
    """Bits of the quantised base of `qlora`: NF4 or LLM.int8."""

    neftune_alpha: Annotated[float, Field(gt=0)] | None = None
    """NEFTune: uniform noise of alpha / √(length · width) on the embeddings of training inputs (5 to 15 is usual)."""

    new_tokens: list[Annotated[str, Field(min_length=1)]] = []
    """Words of the domain that become single tokens. Their rows start as the mean of their pieces and train (all rows do with `full`)."""

    adapter: PathStr | None = None
    """An adapter, run or sweep to go on from. It decides rank, alpha, modules and new tokens; set none of them otherwise."""

    def check(self) -> None:
        """Raise ValueError for settings that exclude each other."""
        self._check_fused()
        defaults = {name: field.default for name, field in type(self).model_fields.items()}
        if self.kind == "full":
            of_adapters = ("target_parameters", "use_dora", "init", "rank_pattern", "alpha_pattern", "lora_plus_ratio")
            for name in (*of_adapters, "adapter"):
                if getattr(self, name) != defaults[name]:
                    raise ValueError(f"method.{name} is about adapters, and method.kind full trains none")
        if self.bits != defaults["bits"] and self.kind != "qlora":
            raise ValueError(f"method.bits {self.bits} quantises the base of method.kind qlora, not of {self.kind}")
        if self.adapter is not None and self.init != "default":
            raise ValueError(f"method.init {self.init}: first weights come from method.adapter")
        if self.kind == "qlora" and self.init.startswith(("pissa", "olora")):
            raise ValueError(f"method.init {self.init} changes the base's weights, which qlora has quantised; use eva")
        if self.init == "orthogonal" and any(rank % 2 for rank in (self.rank, *self.rank_pattern.values())):
            raise ValueError("method.init orthogonal needs an even method.rank")
        if len(set(self.new_tokens)) != len(self.new_tokens) or any(not token.strip() for token in self.new_tokens):
            raise ValueError("method.new_tokens must be words that differ from each other")

    def _check_fused(self) -> None:
        """Fused parameters take plain LoRA only."""
        if self.target_parameters:
            for name, wrong in (
                ("dropout", self.dropout > 0),
                ("use_dora", self.use_dora),
                ("init", self.init not in ("default", "gaussian")),
            ):
                if wrong:
                    raise ValueError(
                        f"method.{name} {getattr(self, name)} is not possible with method.target_parameters"
                    )


class ObjectiveConfig(Config):
    """What is minimised."""

    kind: Literal["sft", "dpo", "kto"] = "sft"
    """Likelihood of answers and plain text; or preferences: `dpo` of records with `rejected`, `kto` of answers with or without."""

    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """`sft`: share of each target spread over the vocabulary; `dpo`: share of pairs taken to be the wrong way round."""

    beta: Annotated[float, Field(gt=0)] = 0.1
    """`dpo`, `kto`: how strongly the model is held to the one it starts from."""

    desirable_weight: Annotated[float, Field(gt=0)] = 1.0
    """`kto`: weight of chosen answers."""

    undesirable_weight: Annotated[float, Field(gt=0)] = 1.0
    """`kto`: weight of rejected answers."""
