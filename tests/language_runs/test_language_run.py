"""Runs of what speaks come back whole: their vocabulary, and models that began as another's."""

import pytest
import torch

from seqrl.algorithms import bc, load_speaker
from seqrl.data.dialogues import Dialogue, Turn, write_dialogues
from seqrl.errors import UserError
from seqrl.language.play import play
from seqrl.text import TextMaze
from tests.language.test_hugging_face_models import fast_tokenizer


@pytest.fixture
def log(tmp_path):
    turns = (
        Turn(speaker="customer", text="Is the lamp there? ☃"),
        Turn(speaker="shop", text="The lamp is there.", reward=1.0),
    )
    path = tmp_path / "log.jsonl"
    write_dialogues(path, [Dialogue(id=str(k), agent="shop", turns=turns) for k in range(4)])
    return str(path)


def trained(log, tmp_path, **changes):
    sizes = {"hidden_size": 16, "num_steps": 2, "batch_size": 2, "held_out": 0.0}
    return bc.train(bc.Config(dialogues=log, run_dir=str(tmp_path / "run"), **sizes | changes))


def test_a_vocabulary_with_bytes_comes_back(log, tmp_path):
    # Mutation: let vocabulary.json keep the pieces alone. Then the run cannot be loaded.
    agent, again = trained(log, tmp_path), load_speaker(tmp_path / "run")
    text = "The snowman ☃ is no word of the log"
    assert again.tokenizer.encode(text) == agent.tokenizer.encode(text)
    assert again.tokenizer.decode(again.tokenizer.encode(text)) == text


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_a_folder_with_a_model_is_trained_further_and_talks_to_tasks(log, tmp_path, lora_rank):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "gpt2"
    fast_tokenizer().save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=320, n_embd=16, n_layer=1, n_head=2, n_positions=512)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)

    agent = trained(log, tmp_path, model=str(folder), lora_rank=lora_rank, hidden_size=128)
    # Mutation: leave `add_lora` out of `_load_folder`.
    trained_shares = [p.numel() for p in agent.policy.parameters() if p.requires_grad]
    assert (sum(trained_shares) < 3_000) == (lora_rank > 0)
    again = load_speaker(tmp_path / "run")
    tokens = torch.randint(6, len(agent.tokenizer), (9, 2))
    torch.testing.assert_close(again.policy(tokens), agent.policy(tokens))
    # The task has a vocabulary of its own. Mutation: `load_weights` leaves the layers out.
    played = [
        play(TextMaze(max_turns=2), each.voice(), 2, tokenizer=each.tokenizer, max_tokens=3) for each in (agent, again)
    ]
    assert played[0] == played[1]
    heard = TextMaze(max_turns=2).describe((1, 1))
    assert agent.tokenizer.decode(agent.tokenizer.encode(heard)) == heard


def test_adapters_are_for_folders(log, tmp_path):
    with pytest.raises(UserError, match="--lora-rank 2 with --model gru"):
        trained(log, tmp_path, lora_rank=2)
