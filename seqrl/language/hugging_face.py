"""Any causal language model of Hugging Face, and its tokenizer, as ours."""

import copy
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn

from seqrl.errors import UserError
from seqrl.hugging_face import (
    AutoModelForCausalLM,
    DynamicCache,
    FastTokenizer,
    PreTrainedModel,
    check_model,
    rope,
)
from seqrl.language.gpt2_folder import load_gpt2
from seqrl.language.model import LanguageModel
from seqrl.text import Tokenizer
from seqrl.text.tokenizer import SPECIALS

NUM_SPECIALS = len(SPECIALS)


@dataclass
class HuggingFaceContext:
    """What each column has read: keys and values of all slots, which slots count, and how many tokens those are.

    Every `read` adds its T slots to all columns; those behind a column's own tokens stay hidden.
    """

    cache: DynamicCache
    counts: Bool[Tensor, "B S"]
    length: Int[Tensor, "B"]


class HuggingFaceModel(LanguageModel):
    """A causal Hugging Face model behind six special tokens of ours: token i + 6 is the model's own token i.

        y = model(inputs_embeds = e_token, position_ids = 0, 1, …),   logits = [E y, head(y)]

    The specials have vectors e and E of their own, which begin as the mean of the model's. The model stays in eval mode
    while it is trained: with dropout, speaking and training would compute two functions.

    `context_length` is what the model has positions for, or its sliding window where that is less.
    Shapes: tokens [T, B] -> y [T, B, hidden size] -> logits [T, B, 6 + the model's own vocabulary].
    Raises UserError for a model that cannot be used in this way, and for conversations that outgrow it.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if not isinstance(model, PreTrainedModel) or model.get_output_embeddings() is None:
            raise UserError(f"{type(model).__name__} says no tokens in HuggingFaceModel: give an AutoModelForCausalLM")
        check_model(model)
        body: Any = model.base_model.eval()
        head: Any = model.get_output_embeddings()
        self.body, self.head = body, head
        some = torch.arange(min(4096, head.weight.shape[0]), device=model.device)  # a large table's mean is slow
        with torch.no_grad():
            y = self.body(inputs_embeds=self.table(some[:1])[None]).last_hidden_state
            if not torch.allclose(self.head(y), model(input_ids=some[None, :1]).logits, rtol=1e-3, atol=1e-3):
                raise UserError(
                    f"{type(model).__name__} bends its logits behind its last layer in HuggingFaceModel: give another"
                )
            self.special_table = nn.Parameter(self.table(some).mean(0).expand(NUM_SPECIALS, -1).clone())
            self.special_head = nn.Parameter(head.weight[some].mean(0).expand(NUM_SPECIALS, -1).clone())
        self.output_size = y.shape[-1]
        self.vocabulary_size = NUM_SPECIALS + head.weight.shape[0]
        config = model.config
        positions = getattr(config, "max_position_embeddings", None)
        windows = [size for size in (positions, getattr(config, "sliding_window", None)) if size]
        self.context_length = min(windows) if windows else None
        self.has_rotary_positions = bool(rope(model))
        self.checkpointed: list[nn.Module] = []
        """Layers whose inner results are computed again for the gradient."""

    def train(self, mode: bool = True) -> "HuggingFaceModel":
        """As `torch.nn.Module.train`, but the model stays in eval mode."""
        super().train(mode)
        self.body.eval()
        return self

    @property
    def table(self) -> Any:
        """The model's own tokens' vectors; part of the body."""
        body: Any = self.body
        return body.get_input_embeddings()

    def _embed(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T E"]:
        own = self.table((tokens - NUM_SPECIALS).clamp(min=0))
        special = F.embedding(tokens.clamp(max=NUM_SPECIALS - 1), self.special_table)
        return torch.where((tokens < NUM_SPECIALS)[..., None], special, own)

    def forward(self, tokens: Tensor) -> Tensor:
        self._check_length(len(tokens))
        place = torch.arange(len(tokens), device=tokens.device).expand(tokens.shape[1], -1)
        with self._checkpointing():
            y = self.body(inputs_embeds=self._embed(tokens.T), position_ids=place, use_cache=False)
        return y.last_hidden_state.transpose(0, 1)

    def blocks(self) -> list[nn.Module]:
        """Those that the model itself says are not to be taken apart."""
        body: Any = self.body
        kinds = set(body._no_split_modules or ())
        return [module for module in body.modules() if type(module).__name__ in kinds]

    def enable_gradient_checkpointing(self) -> None:
        """By the model's own method. Its layers do so only while they themselves, not what is in them, are said to be
        trained; dropout of a layer's own would then begin, so there is none."""
        body: Any = self.body
        if body.supports_gradient_checkpointing:
            # The method was renamed on the way to transformers 6.
            enable = getattr(body, "activation_checkpointing_enable", body.gradient_checkpointing_enable)
            enable({"use_reentrant": False})
            layers = [module for module in body.modules() if not isinstance(module, PreTrainedModel)]
            self.checkpointed = [layer for layer in layers if getattr(layer, "gradient_checkpointing", False)]
        if not self.checkpointed:
            raise UserError(f"--gradient-checkpointing with {type(body).__name__}, which cannot do so: leave it out")
        for layer in self.checkpointed:
            for name in [name for name, value in vars(layer).items() if "drop" in name and type(value) is float]:
                setattr(layer, name, 0.0)

    @contextmanager
    def _checkpointing(self) -> Iterator[None]:
        """Where a gradient is wanted, and it was asked for. Never while speaking: it knows no cache."""
        layers = self.checkpointed if torch.is_grad_enabled() else []
        for layer in layers:
            layer.training = True
        try:
            yield
        finally:
            for layer in layers:
                layer.training = False

    def logits(self, y: Tensor) -> Tensor:
        return torch.cat([F.linear(y, self.special_head), self.head(y)], -1)

    def start(self, batch_size: int) -> HuggingFaceContext:
        counts = torch.zeros(batch_size, 0, dtype=torch.bool, device=self.device)
        return HuggingFaceContext(DynamicCache(), counts, counts.sum(1))

    @torch.no_grad()
    def read(
        self, tokens: Tensor, count: Tensor, context: HuggingFaceContext
    ) -> tuple[Float[Tensor, "B H"], HuggingFaceContext]:
        T, B = tokens.shape
        length = context.length + count
        self._check_length(int(length.max()))
        step = torch.arange(T, device=tokens.device)
        place = context.length[:, None] + step
        if self.context_length is not None:
            place = place.clamp(max=self.context_length - 1)
        before = context.counts[:, None].expand(-1, T, -1)
        visible = torch.cat([before, (step <= step[:, None]).expand(B, T, T)], -1)  # [B, T, S + T]
        inputs = self._embed(tokens.T)
        mask = inputs.new_zeros(visible.shape).masked_fill(~visible, torch.finfo(inputs.dtype).min)
        y = self.body(
            inputs_embeds=inputs, position_ids=place, attention_mask=mask[:, None], past_key_values=context.cache
        ).last_hidden_state
        counts = torch.cat([context.counts, step < count[:, None]], 1)
        last = y[torch.arange(B, device=y.device), (count - 1).clamp(min=0)]
        return last, HuggingFaceContext(context.cache, counts, length)

    def take(self, context: HuggingFaceContext, index: Int[Tensor, "N"]) -> HuggingFaceContext:
        cache = DynamicCache()
        for layer, (keys, values, *_) in enumerate(context.cache):
            cache.update(keys.index_select(0, index), values.index_select(0, index), layer)
        return HuggingFaceContext(cache, context.counts[index], context.length[index])

    def _check_length(self, length: int) -> None:
        if self.context_length is not None and length > self.context_length:
            raise UserError(
                f"a conversation has {length} tokens, but {type(self.body).__name__} reads {self.context_length}: "
                "give a model that reads more, or let utterances and conversations be shorter"
            )


class HuggingFaceTokenizer(Tokenizer):
    """A Hugging Face tokenizer behind our special tokens: token i + 6 is its own token i.

    Its own special tokens never come from text, and are left out when they are drawn and read. Byte-level ones (GPT-2,
    Llama 3, Qwen) encode any text and give it back; others may change spaces.
    """

    def __init__(self, fast: FastTokenizer, vocabulary_size: int = 0) -> None:
        """`vocabulary_size` is the model's own, which may have more ids than the tokenizer knows."""
        self.fast = FastTokenizer.from_str(fast.to_str())  # a copy, since this one is changed
        self.fast.encode_special_tokens = True
        self.fast.no_padding()
        self.fast.no_truncation()
        self.size = max(vocabulary_size, self.fast.get_vocab_size())
        self.pieces, self.byte_fallback = (), False

    def __len__(self) -> int:
        return NUM_SPECIALS + self.size

    @property
    def reads_all(self) -> bool:
        return True

    def encode(self, text: str) -> list[int]:
        if not isinstance(text, str):
            raise UserError(f"what is encoded is a str, not {type(text).__name__}")
        return [NUM_SPECIALS + token for token in self.fast.encode(text, add_special_tokens=False).ids]

    def decode(self, ids: Iterable[int]) -> str:
        checked = [self.checked_id(token) for token in ids]
        parts = []
        for special, run in groupby(checked, lambda token: token < NUM_SPECIALS):
            if special:
                parts += [SPECIALS[token] for token in run]
            else:
                parts.append(self.fast.decode([token - NUM_SPECIALS for token in run], skip_special_tokens=True))
        return "".join(parts)

    def to_json(self) -> dict[str, Any]:
        return {"kind": "hugging face", "size": self.size, "tokenizer": json.loads(self.fast.to_str())}

    @classmethod
    def of_json(cls, content: dict[str, Any], where: str) -> "HuggingFaceTokenizer":
        """What `to_json` gave. Raises UserError, beginning with `where`."""
        try:
            return cls(FastTokenizer.from_str(json.dumps(content["tokenizer"])), int(content["size"]))
        except Exception as error:  # tokenizers raises plain exceptions
            raise UserError(f"{where} is damaged ({str(error)[:80]}): restore it from a copy") from None


def load_hugging_face(folder: str | Path, *, own: bool = True) -> tuple[LanguageModel, HuggingFaceTokenizer]:
    """The model and the tokenizer of a folder that `save_pretrained` wrote, in float32; nothing is downloaded.

    A GPT-2 becomes our own `GPT2`, which speaks faster, unless `own` is False. Raises UserError for a folder that has
    no such model, or none that can be used.
    """
    fast = read_fast_tokenizer(folder)
    model = _load(folder)
    size = model.get_output_embeddings().weight.shape[0]
    if own and model.config.model_type == "gpt2" and (Path(folder) / "model.safetensors").exists():
        return load_gpt2(folder, new_tokens=NUM_SPECIALS), HuggingFaceTokenizer(fast, size)
    return HuggingFaceModel(model), HuggingFaceTokenizer(fast, size)


def save_hugging_face(model: HuggingFaceModel, folder: str | Path) -> None:
    """Write config.json and model.safetensors into a folder that is there, of a model of the same kind that has all of
    our tokens for its own: the special ones first, with what they are read as and said by, and adapters added in."""
    body: Any = model.body
    config = copy.deepcopy(body.config)
    config.vocab_size, config.tie_word_embeddings = model.vocabulary_size, False
    config.bos_token_id = config.eos_token_id = config.pad_token_id = None
    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(config)
    config.architectures = [type(whole).__name__]
    config.save_pretrained(folder)
    names = {module: name for name, module in whole.named_modules()}
    table, head = names[whole.get_input_embeddings()], names[whole.get_output_embeddings()]
    weights = {f"{whole.base_model_prefix}.{name}": value for name, value in added_in(body)}
    scale = getattr(model.table, "embed_scale", 1.0)  # Gemma multiplies what it reads in its table
    weights[f"{table}.weight"] = torch.cat([model.special_table / scale, weights[f"{table}.weight"]])
    for leaf, value in added_in(model.head):
        special = model.special_head if leaf == "weight" else value.new_zeros(NUM_SPECIALS)
        weights[f"{head}.{leaf}"] = torch.cat([special, value])
    named = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    save_file(named, Path(folder) / "model.safetensors", {"format": "pt"})


def added_in(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters of a module, by the names that they have without adapters, whose products are added in."""
    adapted = {name: each for name, each in module.named_modules() if hasattr(each, "get_delta_weight")}
    for name, value in module.named_parameters(remove_duplicate=False):
        parent, _, leaf = name.rpartition(".")
        owner = parent.removesuffix(".base_layer")
        if owner != parent:
            layer: Any = adapted[owner]
            yield f"{owner}.{leaf}", value + layer.get_delta_weight("default") if leaf == "weight" else value
        elif not any(parent.startswith(f"{each}.lora_") for each in adapted):
            yield name, value


def read_fast_tokenizer(folder: str | Path) -> FastTokenizer:
    """The folder's tokenizer.json, without which a folder has no texts. Raises UserError."""
    if not Path(folder).is_dir():
        raise UserError(f"there is no folder {folder}: give one with a model that save_pretrained wrote")
    path = Path(folder) / "tokenizer.json"
    if not path.exists():
        raise UserError(f"there is no tokenizer.json in {folder}: save the model's (fast) tokenizer there too")
    try:
        return FastTokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain exceptions
        raise UserError(f"{path} is damaged ({str(error)[:80]}): copy the folder again") from None


def _load(folder: str | Path) -> PreTrainedModel:
    try:
        return AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
    except Exception as error:  # of many kinds: a file is missing, damaged, or of a model that transformers lacks
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"cannot read a language model from {folder} ({reason}): copy the folder again") from None
