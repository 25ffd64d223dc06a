"""A language model that vLLM speaks for. The only file that needs `vllm`."""

import contextlib
import gc
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seqrl.errors import UserError
from seqrl.language.generation import DRAWN, Sampling, Utterances
from seqrl.language.gpt2 import GPT2
from seqrl.language.gpt2_folder import save_gpt2
from seqrl.language.model import LanguageModel

# In this process: weights and tokens pass by, and nobody else has to be found again after a crash.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
try:
    from vllm import LLM, SamplingParams
except ImportError as problem:
    raise UserError(f"--generator vllm needs vLLM ({problem}): pip install 'seqrl[vllm]'") from None

Context = list[list[int]]
"""The tokens that each column has read. vLLM finds again what it knows of them."""
SHARE = 0.3
"""Of a GPU's memory, that vLLM takes for its weights, and for keys and values."""


class VllmVoice:
    """Says whole utterances of many conversations at once, by vLLM, in float32.

    vLLM has a copy of the weights, which travel by a file in a folder of ours. Token ids are kept: what was said is
    never read again as text. Utterances depend on the generator, as others do, but are not those that the model itself
    would say: vLLM draws by other random numbers, and computes in another order.

    Source: Kwon et al. 2023 (arXiv 2309.06180).
    """

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = temperature
        self.folder = tempfile.TemporaryDirectory(prefix="seqrl-vllm-")
        self.engine: Any = None
        self.context_length: int | None = None

    def speaking_for(self, model: LanguageModel) -> "VllmVoice":
        """This voice, with the weights that `model` has now. Raises UserError for a model that vLLM does not know."""
        save(model, self.folder.name)
        if self.engine is None:
            self.context_length = model.context_length
            self.engine = self._begin()
        else:
            self.engine.collective_rpc("reload_weights", kwargs={"weights_path": self.folder.name})
            self.engine.reset_prefix_cache()  # keys and values of the weights before
        return self

    def _begin(self) -> Any:
        with _told():
            return LLM(
                model=self.folder.name,
                skip_tokenizer_init=True,
                dtype="float32",
                max_model_len=self.context_length,
                gpu_memory_utilization=SHARE,
                logprobs_mode="processed_logprobs",
                enforce_eager=not torch.cuda.is_available(),  # what is compiled for a CPU gains less than it takes
                enable_prefix_caching=True,
            )

    def close(self) -> None:
        """Give back vLLM's memory, and the folder of weights."""
        if self.engine is not None:
            self.engine.llm_engine.engine_core.shutdown()
            self.engine = None
            gc.collect()
        self.folder.cleanup()

    def start(self, batch_size: int) -> Context:
        """Nothing has been read."""
        return [[] for _ in range(batch_size)]

    def read(
        self, tokens: Int[Tensor, "T B"], count: Int[Tensor, "B"], context: Context
    ) -> tuple[Float[Tensor, "B 0"], Context]:
        """Go on by the first `count[b]` tokens of each column. Logits are not to be had."""
        columns = zip(context, tokens.T.tolist(), count.tolist(), strict=True)
        return torch.zeros(len(context), 0), [[*before, *ids[:number]] for before, ids, number in columns]

    def take(self, context: Context, index: Int[Tensor, "N"]) -> Context:
        """A copy of the columns `index`."""
        return [context[column] for column in index.tolist()]

    def speak(
        self,
        logits: Float[Tensor, "B 0"],
        context: Context,
        *,
        stop_id: int,
        max_tokens: int,
        speaks: Bool[Tensor, "B"],
        allowed: Bool[Tensor, "V"],
        sampling: Sampling = DRAWN,
        generator: torch.Generator | None = None,
    ) -> tuple[Utterances, Context]:
        """As `seqrl.language.generation.generate`."""
        columns = speaks.nonzero()[:, 0].tolist()
        self._check_length(max((len(context[column]) for column in columns), default=0))
        device = generator.device if generator is not None else "cpu"
        seeds = torch.randint(2**31, (len(speaks),), generator=generator, device=device).tolist()
        shared = {
            "temperature": self.temperature * sampling.temperature,
            "top_k": sampling.top_k,
            "max_tokens": max_tokens,
            "stop_token_ids": [stop_id],
            "allowed_token_ids": allowed.nonzero()[:, 0].tolist(),
            "ignore_eos": True,  # the model's own, which is a token like others here
            "logprobs": 0,
            "detokenize": False,
        }
        prompts = [{"prompt_token_ids": context[column]} for column in columns]
        with _told():
            settings = [SamplingParams(**shared, seed=seeds[column]) for column in columns]
            answers = self.engine.generate(prompts, settings, use_tqdm=False)
        return self._utterances(dict(zip(columns, answers, strict=True)), context, stop_id, max_tokens)

    def _utterances(
        self, answers: dict[int, Any], context: Context, stop_id: int, max_tokens: int
    ) -> tuple[Utterances, Context]:
        said: list[Sequence[int]] = [()] * len(context)
        log_prob: list[list[float]] = [[] for _ in context]
        for column, answer in answers.items():
            output = answer.outputs[0]
            said[column] = output.token_ids
            pairs = zip(output.logprobs, output.token_ids, strict=True)
            log_prob[column] = [each[token].logprob for each, token in pairs]
        length = torch.tensor([len(ids) for ids in said])
        ended = torch.tensor([bool(ids) and ids[-1] == stop_id for ids in said])
        ids, log_probs = (
            torch.nn.utils.rnn.pad_sequence([torch.tensor(list(each), dtype=kind) for each in columns])
            for columns, kind in ((said, torch.int64), (log_prob, torch.float32))
        )
        after = [[*before, *ids] for before, ids in zip(context, said, strict=True)]
        cut = (length > 0) & (length < max_tokens) & ~ended  # without a word, where the model has no positions left
        self._check_length(max((len(after[column]) for column in cut.nonzero()[:, 0].tolist()), default=0))
        return Utterances(ids, length, ended, log_probs), after

    def _check_length(self, length: int) -> None:
        if self.context_length is not None and length >= self.context_length:
            raise UserError(
                f"a conversation has more than the {self.context_length} tokens that the model reads: give a model "
                "that reads more, or let utterances and conversations be shorter"
            )


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What vLLM complains of, in a line: sizes and architectures that it does not know, memory that it has not."""
    try:
        yield
    except Exception as problem:  # of many kinds
        reason = " ".join(str(problem).split())[:200]
        raise UserError(
            f"vLLM does not speak for this model ({reason}): give another, or leave out --generator vllm"
        ) from None


def save(model: LanguageModel, folder: str) -> None:
    """The model as a folder that vLLM reads. Raises UserError for one that has no such form."""
    if isinstance(model, GPT2):
        return save_gpt2(model, folder, tied=False)  # vLLM 0.32 goes on speaking by the old table where there is one
    from seqrl.language.hugging_face import HuggingFaceModel, save_hugging_face

    if not isinstance(model, HuggingFaceModel):
        raise UserError(
            f"--generator vllm with a {type(model).__name__}: vLLM speaks for a gpt2 or a Hugging Face model: "
            "clone one with --model, or leave it out"
        )
    return save_hugging_face(model, folder)
