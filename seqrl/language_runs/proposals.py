"""What a language model proposes at the turns of a log: drawn once, and kept in the run folder."""

from collections.abc import Sequence
from pathlib import Path

import torch

from seqrl.checkpoint import load_checkpoint, save_checkpoint, write_atomically
from seqrl.data.dialogues import Dialogue
from seqrl.errors import UserError
from seqrl.language.discriminator import corrupted
from seqrl.language.generation import Sampling
from seqrl.language.model import LanguageModel
from seqrl.language.reranking import draw_proposals
from seqrl.language.rows import TokenRows, rows_of, token_turns
from seqrl.language.utterances import Drawn, UtteranceDataset, speaking, turns_of
from seqrl.language_runs.config import LanguageConfig, read_log
from seqrl.run import progress_bar
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
    the run folder `other`.
    """
    if other and not (folder / PROPOSALS).exists():
        if not (Path(other) / PROPOSALS).is_file():
            raise UserError(f"{other} has no {PROPOSALS} (--proposals): give a run of chai")
        write_atomically(folder / PROPOSALS, (Path(other) / PROPOSALS).read_bytes())
    dialogues = [each for each in read_log(config) if any(turn.speaker == each.agent for turn in each.turns)]
    rows = speaking([rows_of(token_turns(each, tokenizer), tokenizer) for each in dialogues])
    drawn = _kept(folder / PROPOSALS, config, policy, tokenizer, rows, num_proposals, features, 1.0)
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
    return UtteranceDataset(rows, drawn, gamma, list(zip(*examples, strict=True)) if examples else [], flagged)


def _kept(
    path: Path, config: LanguageConfig, policy: LanguageModel, tokenizer: Tokenizer, rows: list[TokenRows],
    num_proposals: int, features: bool, temperature: float,
) -> Drawn:  # fmt: skip
    """What is in the file at `path`, which is written first if it is not there."""
    if not path.exists():
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
        save_checkpoint(path, drawn._asdict(), {})
    tree, _ = load_checkpoint(path)
    drawn = Drawn(**tree)
    if drawn.length.shape != (sum(len(turns_of(each)) for each in rows), num_proposals):
        raise UserError(f"{path} has proposals for another log than {config.dialogues}, or another number of them")
    return drawn


def _flagged(dialogues: list[Dialogue]) -> list[bool]:
    """Of each of the agent's turns, whether it has thumbs down."""
    return [turn.thumbs == -1 for each in dialogues for turn in each.turns if turn.speaker == each.agent]
