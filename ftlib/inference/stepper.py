"""One model with all its adapters, a step at a time: tokens of many requests in, logits of those that need them out.

transformers' own modules do the work on a flat row of tokens (`slots`), adapters are added layer by layer
(`lora_bank`). Any decoder whose attention goes through transformers' attention interface will do; that it does is
checked against stock attention when the model is loaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ftlib.core.errors import UserError
from ftlib.core.fingerprints import folder_sha256
from ftlib.core.logging import get_logger
from ftlib.inference.fused import JoinedLayers, fuse_layers, unfuse_layers
from ftlib.inference.grammar import GrammarCompiler
from ftlib.inference.linears import finding_siblings, lay_out_linears
from ftlib.inference.lora_bank import AdapterWeights, LoraBank, Span, read_adapter
from ftlib.inference.norms import fuse_norms
from ftlib.inference.slots import Plan, Segment, SlotCache, use_slots
from ftlib.models.adapt import check_adapter
from ftlib.models.chat import stop_token_ids
from ftlib.models.load import cpu_has_bfloat16, load_model, load_tokenizer, pick_dtype
from ftlib.models.vocabulary import num_rows_of

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ReadAdapter:
    """An adapter that was read and checked, not yet in the model."""

    weights: AdapterWeights
    tokenizer: Any
    """Its own, where it brings new tokens."""


class Stepper:
    """Owns a model; `step`, `add`, `remove` and `copy_prefix` in one thread."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        base_folder: Path | None = None,
        *,
        num_slots: int = 32,
        capacity: int = 2048,
        max_adapters: int = 8,
        int8: bool = False,
    ) -> None:
        """Take over a loaded model.

        Args:
            model: a causal language model.
            tokenizer: its tokenizer.
            base_folder: where it came from; adapters are checked against it.
            num_slots: requests whose states are held.
            capacity: tokens of each, at most.
            max_adapters: adapters that memory is set aside for; more make it grow.
            int8: linear layers in INT8.

        Raises:
            UserError: the model's attention is not of the standard kind.
        """
        self.model, self.tokenizer, self.base_folder = model.eval(), tokenizer, base_folder
        self.joined: JoinedLayers | None = None
        self.device: torch.device = next(model.parameters()).device
        self.stop_ids = frozenset(stop_token_ids(tokenizer, model.generation_config))
        self.max_positions = int(getattr(model.config, "max_position_embeddings", None) or 1 << 20)
        capacity = min(capacity, self.max_positions)
        if not set(getattr(model.config, "layer_types", None) or ()) <= {"full_attention", "sliding_attention"}:
            raise UserError(_NOT_STANDARD)
        with finding_siblings(model) as siblings:
            expected = _stock_logits(model, self.device)
        self.slots = SlotCache(num_slots, capacity)
        use_slots(model)
        self.bank = LoraBank(model, max_adapters)
        self._compare(expected)
        self._fuse(expected)
        lay_out_linears(model, siblings, int8)
        fuse_norms(model)
        self.bank = LoraBank(model, max_adapters)
        if not int8:
            self._compare(expected)
        self._join()
        self._tokenizers: dict[str, Any] = {}
        self._grammars: dict[int, GrammarCompiler] = {}

    @classmethod
    def load(cls, folder: Path, precision: str = "auto", device: str = "cpu", **options: Any) -> "Stepper":
        """Load a resolved model folder.

        `precision` may be `int8`: INT8 linear layers, on a CPU, in a model that is otherwise of bfloat16. That becomes
        float32 on a CPU that has no such arithmetic: emulated, it takes eight times as long.
        """
        int8 = precision == "int8"
        dtype = torch.bfloat16 if int8 else pick_dtype(precision, device)
        if int8 and torch.device(device).type != "cpu":
            raise UserError("precision int8 is for CPUs; use bfloat16 on a GPU")
        if dtype == torch.bfloat16 and torch.device(device).type == "cpu" and not cpu_has_bfloat16():
            if not int8:
                logger.warning("this CPU has no bfloat16 arithmetic: computing in float32")
            dtype = torch.float32
        return cls(load_model(folder, dtype, device), load_tokenizer(folder), folder, int8=int8, **options)

    @property
    def num_rows(self) -> int:
        """Length of the base's logits."""
        return int(self.model.config.get_text_config().vocab_size)

    def read(self, name: str, path: Path, sha256: str | None) -> ReadAdapter:
        """Read and check an adapter; in any thread, beside steps. Raises UserError."""
        if sha256 is not None and (actual := folder_sha256(path)) != sha256:
            raise UserError(
                f"adapter {name}: the files in {path} are not those expected (sha256 {actual[:12]}…, "
                f"expected {sha256[:12]}…)"
            )
        if self.base_folder is not None:
            check_adapter(path, self.base_folder)
        weights = read_adapter(name, path, self.bank.like.dtype, self.device)
        return ReadAdapter(weights, load_tokenizer(path) if num_rows_of(path) > self.num_rows else None)

    def has_room(self, adapter: ReadAdapter) -> bool:
        """Whether `add` can go on beside a step: into a place that is there and that no request uses."""
        return adapter.tokenizer is None and self.bank.has_room(adapter.weights)

    @torch.inference_mode()
    def add(self, adapter: ReadAdapter) -> None:
        """Put an adapter into the model, between two steps unless it `has_room`."""
        name = adapter.weights.name
        if name in self.bank:
            raise UserError(
                f"adapter {name} is loaded already; names stand for one content for as long as they are loaded"
            )
        self.bank.put(adapter.weights)
        if adapter.tokenizer is not None:
            self._tokenizers[name] = adapter.tokenizer

    @torch.inference_mode()
    def remove(self, name: str) -> None:
        """Forget an adapter; unknown names are ignored."""
        self.bank.remove(name)
        self._tokenizers.pop(name, None)

    def tokenizer_of(self, name: str | None) -> Any:
        """The tokenizer of an adapter that brings new tokens, else the base's."""
        return self._tokenizers.get(name, self.tokenizer) if name is not None else self.tokenizer

    def grammars_of(self, name: str | None) -> GrammarCompiler:
        """Grammars over that tokenizer."""
        tokenizer = self.tokenizer_of(name)
        if id(tokenizer) not in self._grammars:
            length = max(self.num_rows, len(tokenizer))
            self._grammars[id(tokenizer)] = GrammarCompiler(tokenizer, length, sorted(self.stop_ids))
        return self._grammars[id(tokenizer)]

    @torch.inference_mode()
    def step(
        self, segments: Sequence[Segment], ids: Sequence[int], wanted: Sequence[int], hidden: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Compute tokens; their states stay in their slots.

        Args:
            segments: whose tokens they are, sorted by adapter.
            ids: the tokens, one segment after the other.
            wanted: segments whose next token is to be chosen.
            hidden: whether the last hidden states are wanted too.

        Returns:
            float32 `[wanted, vocabulary]`: logits after the last token of each; float32 `[tokens, width]` or None.
        """
        plan = Plan(segments, self.slots.capacity, self.device)
        tokens = torch.tensor(ids, device=self.device)
        self.slots.plan = plan
        self.bank.prepare(_spans(segments))
        self.bank.token_rows.ids = tokens
        self.bank.token_rows.kept = [segments[at].adapter for at in wanted]
        last = torch.from_numpy(plan.last_tokens[list(wanted)]).to(self.device)
        states: Tensor | None
        if self.joined is not None and not plan.has_adapters:
            logits, states = self.joined(tokens, plan, last)
        else:
            logits, states = self._forward(tokens, plan, last, hidden)
        return logits[0].float(), states[0].float() if hidden and states is not None else None

    def _forward(self, tokens: Tensor, plan: Plan, last: Tensor, hidden: bool) -> tuple[Tensor, Tensor | None]:
        """A step by the model's own way."""
        found: list[Tensor] = []
        hook = self.model.base_model.register_forward_hook(lambda *call: found.append(call[2][0])) if hidden else None
        try:
            output = self.model(
                input_ids=tokens[None], position_ids=plan.positions[None], past_key_values=self.slots, use_cache=True,
                logits_to_keep=last, slots=self.slots,
            )  # fmt: skip
        finally:
            if hook is not None:
                hook.remove()
        return output.logits, found[0] if found else None

    def _fuse(self, expected: Tensor) -> None:
        """Fuse the layers where that gives the same."""
        if not (replaced := fuse_layers(self.model, self.slots)):
            return
        try:
            self._compare(expected)
        except UserError:
            logger.warning("fused layers give something else than the model's own, which are used instead")
            unfuse_layers(self.model, replaced)

    def _join(self) -> None:
        """Join the layers where that gives the same bits as one by one."""
        expected = self._few_steps()
        self.joined = JoinedLayers.of(self.model)
        if self.joined is not None and not torch.equal(self._few_steps(), expected):
            logger.warning("joined layers give something else than the model's own, which are used instead")
            self.joined = None

    def _compare(self, expected: Tensor) -> None:
        """Raise UserError unless slots give what stock attention gives."""
        try:
            found = self._few_steps()
        except (AssertionError, KeyError, TypeError, RuntimeError) as error:
            raise UserError(f"{_NOT_STANDARD} ({type(error).__name__})") from error
        if not _near(found, expected, self.model.dtype):
            raise UserError(_NOT_STANDARD)

    def _few_steps(self) -> Tensor:
        """float32 `[vocabulary]` after the probe, in three steps."""
        ids = _probe(self.num_rows)
        self.step([Segment(0, 0, 3)], ids[:3], [])
        self.step([Segment(0, 3, 4)], ids[3:7], [])
        return self.step([Segment(0, 7, 1)], ids[7:], [0])[0][0]


def _near(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Whether logits differ by what rounding makes of them, and none is missing."""
    tolerance = 1e-3 if dtype == torch.float32 else 0.1
    return float((found - expected).abs().max()) <= float(expected.abs().max()) * tolerance


_NOT_STANDARD = (
    "the embedded engine serves decoders with standard attention, and this model computes something else; use "
    "model.engine vllm"
)


def _probe(num_rows: int) -> list[int]:
    return [(17 * at + 5) % num_rows for at in range(8)]


@torch.inference_mode()
def _stock_logits(model: Any, device: torch.device) -> Tensor:
    """float32 `[vocabulary]` after eight tokens."""
    ids = torch.tensor([_probe(int(model.config.get_text_config().vocab_size))], device=device)
    return model(input_ids=ids, use_cache=False).logits[0, -1].float()  # type: ignore[no-any-return]


def _spans(segments: Sequence[Segment]) -> list[Span]:
    """Neighbouring segments of one adapter together; those without one are left out."""
    spans: list[Span] = []
    first = 0
    for segment in segments:
        last = first + segment.length
        if segment.adapter:
            if spans and spans[-1].index == segment.adapter:
                spans[-1] = Span(segment.adapter, spans[-1].first, last)
            else:
                spans.append(Span(segment.adapter, first, last))
        first = last
    return spans
