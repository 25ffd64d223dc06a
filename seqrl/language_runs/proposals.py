"""What a language model proposes at the turns of a log: drawn once, and kept in the run folder."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqrl.checkpoint import load_checkpoint, save_checkpoint, write_atomically
from seqrl.data.dialogues import Dialogue
from seqrl.data.held_out import groups_of
from seqrl.errors import UserError
from seqrl.language.discriminator import corrupted
from seqrl.language.generation import Sampling
from seqrl.language.model import LanguageModel
from seqrl.language.reranking import draw_proposals
from seqrl.language.rewards import thumbs
from seqrl.language.rows import TokenRows, rows_of, token_turns
from seqrl.language.utterances import Drawn, UtteranceDataset, speaking, turns_of
from seqrl.language_runs.config import LanguageConfig, read_log
from seqrl.language_runs.lengths import ANSWER, check_lengths
from seqrl.progress import progress_bar
from seqrl.run_folder import CHECKPOINT, read_json
from seqrl.seeds import derived_seed
from seqrl.text import Tokenizer

PROPOSALS, WEAK = "proposals.safetensors", "bad_language.safetensors"


def proposed_dataset(
    config: LanguageConfig,
    policy: LanguageModel,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    num_proposals: int,
    gamma: float,
    features: bool,
    bad: Sequence[str] = (),
    bad_temperature: float = 2.0,
    other: str = "",
) -> UtteranceDataset:
    """The log of `config`, with what `policy` proposes at each turn, and bad language of the kinds `bad`.

    What is drawn is written to `folder`, and read from there if it was drawn before; proposals may also be taken from
    the run folder `other`. Raises UserError where these were drawn of something else.
    """
    if other and not (folder / PROPOSALS).exists() and not (Path(other) / PROPOSALS).is_file():
        raise UserError(f"{other} has no {PROPOSALS} (--proposals): give a run of chai")
    dialogues = [each for each in read_log(config) if any(turn.speaker == each.agent for turn in each.turns)]
    rows = speaking([rows_of(token_turns(each, tokenizer), tokenizer) for each in dialogues])
    named = zip((each.id for each in dialogues), rows, strict=True)
    lengths = ((name, _read_of(row, tokenizer, config.max_tokens)) for name, row in named)
    check_lengths(policy, lengths, f"dialogue {{}} with a proposal of {config.max_tokens} tokens", ANSWER)
    source = Path(other) / PROPOSALS if other else None
    drawn = _kept(folder / PROPOSALS, config, policy, tokenizer, rows, num_proposals, features, 1.0, source)
    examples: list[list[tuple[int, ...]]] = []
    if "sampled" in bad:
        weak = _kept(folder / WEAK, config, policy, tokenizer, rows, 1, False, bad_temperature)
        columns = zip(weak.said[:, 0].tolist(), weak.length[:, 0].tolist(), strict=True)
        examples.append([tuple(ids[:count]) for ids, count in columns])
    if "corrupted" in bad:
        generator = torch.Generator().manual_seed(derived_seed(config.seed, 5))
        said = (exchange.said for each in rows for exchange, _ in turns_of(each))
        examples.append([corrupted(ids, len(tokenizer), generator) for ids in said])
    flagged = _flagged(dialogues) if "flagged" in bad else []
    if "flagged" in bad and not examples and not any(flagged):
        raise UserError(f"no turn of {config.dialogues} has thumbs down: --bad flagged alone has no bad language")
    texts = list(zip(*examples, strict=True)) if examples else []
    return UtteranceDataset(rows, drawn, gamma, texts, flagged, groups_of(dialogues))


def _read_of(rows: TokenRows, tokenizer: Tokenizer, max_tokens: int) -> int:
    """Tokens that a policy reads of a dialogue: its last turn as logged, and as proposed."""
    agent = int((rows.tokens == tokenizer.agent_id).nonzero()[-1])
    end = int((rows.tokens == tokenizer.end_of_utterance_id).nonzero()[-1])
    return max(agent + 1 + max_tokens, end + 1)


def _kept(
    path: Path, config: LanguageConfig, policy: LanguageModel, tokenizer: Tokenizer, rows: list[TokenRows],
    num_proposals: int, features: bool, temperature: float, source: Path | None = None,
) -> Drawn:  # fmt: skip
    """What is in the file at `path`; if it is not there it is first taken from `source`, or drawn without one."""
    made_of: dict[str, Any] = {
        "texts": _hash(each.tokens for each in rows), "max_tokens": config.max_tokens, "temperature": temperature,
    }  # fmt: skip
    if not (path.parent / CHECKPOINT).exists():  # else the policy's weights are there, and not loaded yet
        made_of["policy"] = _hash(policy.state_dict().values())
    shape = (sum(len(turns_of(each)) for each in rows), num_proposals, policy.output_size if features else 0)

    def read(file: Path) -> Drawn:
        tree, known = load_checkpoint(file)
        if not isinstance(tree, dict) or {*tree} != {*Drawn._fields} or not isinstance(known.get("made_of", {}), dict):
            raise UserError(f"{file} is damaged: delete it, and proposals are drawn anew, or give another --proposals")
        drawn = Drawn(**tree)
        if drawn.length.shape != shape[:2]:
            raise UserError(f"{file} has proposals for another log than {config.dialogues}, or another number of them")
        if drawn.features.shape[-1] != shape[2]:
            raise UserError(
                f"{file} has {drawn.features.shape[-1]} features of a proposal, not {shape[2]}: give a run of the same "
                "policy and --features"
            )
        _check_same(file, known.get("made_of") or _older(file.parent), made_of | _older(path.parent))
        return drawn

    if not path.exists() and source is not None:
        read(source)
        write_atomically(path, source.read_bytes())
    elif not path.exists():
        with progress_bar() as progress:
            task = progress.add_task(
                f"{num_proposals} proposals a turn", total=len(rows), episode_return=None, steps_per_second=0.0
            )
            drawn = draw_proposals(
                policy, rows, num_proposals, tokenizer=tokenizer, max_tokens=config.max_tokens, features=features,
                generator=torch.Generator(policy.device).manual_seed(derived_seed(config.seed, 4)),
                sampling=Sampling(temperature=temperature),
                on_progress=lambda count: progress.update(task, completed=count),
            )  # fmt: skip
        save_checkpoint(path, drawn._asdict(), {"made_of": made_of})
    return read(path)


FLAGS = {
    "policy": "--policy", "policy.json": "--policy", "texts": "--dialogues", "max_tokens": "--max-tokens",
    "temperature": "temperature (--bad-temperature)",
}  # fmt: skip


def _check_same(file: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise UserError where proposals were drawn of something else than is wanted, as far as both are known."""
    for what in found.keys() & wanted.keys():
        if found[what] != wanted[what]:
            raise UserError(f"{file} was drawn with another {FLAGS[what]}: give a run with the same, or draw anew")


def _older(run: Path) -> dict[str, Any]:
    """What a run says of its proposals that has no fingerprint beside them."""
    if not (run / "policy.json").is_file():
        return {}
    max_tokens = read_json(run, "config.json").get("max_tokens")
    return {"policy.json": read_json(run, "policy.json"), "max_tokens": max_tokens}


def _hash(tensors: Iterable[Tensor]) -> str:
    """Of what is in tensors, and their shapes."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(repr(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _flagged(dialogues: list[Dialogue]) -> list[bool]:
    """Of each of the agent's turns, whether it has thumbs down."""
    return [value < 0 for each in dialogues for value in thumbs(each)]
