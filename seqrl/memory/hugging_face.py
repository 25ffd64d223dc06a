"""A Hugging Face language model as a memory. The only memory that needs `transformers`."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from seqrl.errors import UserError
from seqrl.hugging_face import DynamicCache, PreTrainedModel, check_model, rope
from seqrl.memory.base import Memory, State
from seqrl.memory.sizes import check_sizes
from seqrl.memory.sliding_window import SlidingCache, positions, unroll_in_blocks, visible_keys


class HuggingFace(Memory):
    """A causal Hugging Face language model that reads vectors in place of tokens.

        y_t = model(inputs_embeds = W x, past_key_values = state, attention_mask, position_ids)_t

    y is the last hidden state, after the final norm: of a model with a head (`LlamaForCausalLM`), the body is kept. In
    each layer a row attends to itself and to the window − 1 rows before it in its episode: the sliding cache of
    `seqrl.memory.Transformer`, which takes the place of any `sliding_window` in the model's own config. `position_ids`
    count the rows since `is_first`. The weights are trained, and yet the model stays in eval mode: with dropout, acting
    and training would compute two functions. Its table of tokens remains, unused.

    With rotary positions an episode may last for ever. (`transformers` takes their angles in float32 and caches keys
    already rotated: at position p an angle is off by about 6e-8 · p radians, 0.006 at p = 100,000.) With any other
    positions, learned ones as in GPT-2, an episode longer than `config.max_position_embeddings` is an error.

    Shapes: x [T, B, input_size] -> y [T, B, output_size], the model's hidden size. State: `SlidingCache`; num_heads are
    those of the keys.
    Raises UserError where `transformers` is missing, a size is below 1, the model cannot be used in this way, or an
    episode outgrows the model's positions.

    Tested with GPT-2, OPT, Llama, Qwen 2, Mistral and Gemma 3.
    """

    stores_state = False

    def __init__(self, model: nn.Module, input_size: int, window: int = 64) -> None:
        super().__init__()
        check_sizes("HuggingFace", input_size=input_size, window=window)
        if not isinstance(model, PreTrainedModel):
            raise UserError(f"model is a {type(model).__name__} in HuggingFace: give a transformers.PreTrainedModel")
        check_model(model)
        token_table: Any = model.get_input_embeddings()
        embedding_size = token_table.weight.shape[1]
        self.input_size = input_size
        self.window = window
        self.max_positions = None if rope(model) else model.config.max_position_embeddings
        self.model = model.base_model.eval()
        self.input = nn.Linear(input_size, embedding_size, device=model.device, dtype=model.dtype)
        # One row through the model shows its sizes, which configs spell in many ways.
        with torch.no_grad():
            cache = DynamicCache()
            row = self.model(inputs_embeds=self.input.weight.new_zeros(1, 1, embedding_size), past_key_values=cache)
        self.output_size = row.last_hidden_state.shape[-1]
        self.head_shapes = [(keys.shape[1::2], values.shape[1::2]) for keys, values, *_ in cache]

    def train(self, mode: bool = True) -> "HuggingFace":
        """As `torch.nn.Module.train`, but the language model stays in eval mode."""
        super().train(mode)
        self.model.eval()
        return self

    def initial_state(self, batch_size: int) -> SlidingCache:
        """An empty cache: zeros, of which `num_steps` = 0 hides every key."""
        weight = self.input.weight

        def empty(num_heads: int, head_size: int) -> Tensor:
            return weight.new_zeros(batch_size, num_heads, self.window - 1, head_size)

        return SlidingCache(
            keys=tuple(empty(*key_shape) for key_shape, _ in self.head_shapes),
            values=tuple(empty(*value_shape) for _, value_shape in self.head_shapes),
            num_steps=torch.zeros(batch_size, dtype=torch.int64, device=weight.device),
        )

    def unroll(
        self, x: Float[Tensor, "T B D"], state: State, is_first: Bool[Tensor, "T B"]
    ) -> tuple[Float[Tensor, "T B H"], SlidingCache]:
        """Read T rows; see `Memory.unroll`."""
        return unroll_in_blocks(self._unroll_block, x, state, is_first, self.window)

    def _unroll_block(self, x: Tensor, cache: SlidingCache, is_first: Tensor) -> tuple[Tensor, SlidingCache]:
        T = len(x)
        position = positions(is_first.T, cache.num_steps)
        if self.max_positions is not None and position.max() >= self.max_positions:
            raise UserError(
                f"an episode has lasted {int(position.max()) + 1} steps in HuggingFace, whose model has "
                f"{self.max_positions} positions: give it more of them, or a model with rotary positions"
            )
        inputs = self.input(x.transpose(0, 1))
        # Added to the scores, which is what both "eager" and "sdpa" attention make of a mask in floating point.
        visible = visible_keys(position, self.window)[:, None]
        mask = inputs.new_zeros(visible.shape).masked_fill(~visible, torch.finfo(inputs.dtype).min)
        past = DynamicCache()
        for layer, (keys, values) in enumerate(zip(cache.keys, cache.values, strict=True)):
            past.update(keys, values, layer)
        y = self.model(inputs_embeds=inputs, past_key_values=past, attention_mask=mask, position_ids=position)
        new_cache = SlidingCache(
            # T rows came, so T leave: what is left are the last window - 1.
            keys=tuple(keys[:, :, T:] for keys, *_ in past),
            values=tuple(values[:, :, T:] for _, values, *_ in past),
            num_steps=position[:, -1] + 1,
        )
        return y.last_hidden_state.transpose(0, 1), new_cache
