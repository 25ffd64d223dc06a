"""Fine-tuning by rewards: what is exact before the first update, what a loss may depend on, what a budget holds."""

from dataclasses import replace

import pytest
import torch
from interrupted import ends_the_same

from seqrl.algorithms import bc, chai, ilql, load_speaker, rlhf, train
from seqrl.checkpoint import load_checkpoint
from seqrl.cli.speaking import evaluate_speaker
from seqrl.errors import UserError
from seqrl.language.generation import Plain, Sampling, sayable
from seqrl.language.likelihood import decided, log_probs, of_tokens
from seqrl.language.play import play
from seqrl.language.rows import rows_of
from seqrl.language.tuned import TunedAgent
from seqrl.language.tuning import observe, of_said, scored_rows
from seqrl.language_runs.config import LanguageConfig, make_model
from seqrl.language_runs.rlhf import Tuning
from seqrl.learner import Learner
from seqrl.run_folder import CHECKPOINT, read_metrics
from seqrl.seeds import derived_seed
from seqrl.text import make_task
from tests.rated import TOKENIZER, WORDLE, Rated, alone, cloned, conversations, tuned

TASK = "wordle"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A log and a run of bc."""
    return cloned(tmp_path_factory.mktemp("rlhf"), 30)


def settings(folder, **others):
    return rlhf.Config(**{
        "policy": str(folder / "bc"), "num_conversations": 8, "batch_size": 4, "num_steps": 6, "checkpoint_every": 2,
        "warmup": 0, "num_epochs": 2, "group_size": 4, **WORDLE, **others,
    })  # fmt: skip


def tuning_of(folder, agent=None, **others):
    config = settings(folder, **others)
    task = make_task(TASK, num_words=6)
    if agent is None:
        policy = make_model(LanguageConfig(hidden_size=8, seed=1), task.tokenizer)
        agent = TunedAgent(task.tokenizer, policy, has_values=config.method == "ppo", temperature=config.temperature)
    return Tuning.of(config, agent)


def said_now(agent, batch):
    return of_said(agent.log_probs(agent.policy, agent.features(agent.policy, batch.tokens, batch.said)), batch.said)


# Broken by log-probabilities of the generator as the old ones, by minibatches that are put together anew in each epoch,
# or by a reference that is asked about other conversations beside each other.
@pytest.mark.parametrize("model", ["gru", "transformer", "gpt2"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_before_the_first_update_ratios_are_one_and_the_kl_is_zero_to_the_last_bit(folder, model, precision):
    tokenizer = make_task(TASK, num_words=6).tokenizer
    policy = make_model(LanguageConfig(model=model, hidden_size=16), tokenizer)
    tuning = tuning_of(folder, TunedAgent(tokenizer, policy, temperature=0.7, precision=precision), method="grpo")
    played, scores = rlhf.speak(tuning, 0)
    batches, metrics = rlhf.experience(tuning.agent, played, scores, 0.1, tuning.config)
    assert metrics["kl"] == 0.0
    assert metrics["kl_estimate"] == 0.0
    for batch in batches:
        assert torch.equal(said_now(tuning.agent, batch), batch.log_prob)
        _, measured = rlhf.loss(tuning.agent, batch, tuning.config)
        assert float(measured["kl_from_old"]) == 0.0


# Broken by log-probabilities of all tokens, or at temperature 1.
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_what_is_trained_is_what_was_drawn(folder, temperature):
    tuning = tuning_of(folder, temperature=temperature)
    agent = tuning.agent
    played, _ = rlhf.speak(tuning, 0)
    rows = [rows_of(each.turns, agent.tokenizer) for each in played]
    batch = observe(agent, rows)
    spoken = of_tokens(log_probs(agent.voice(), rows, sayable(agent.tokenizer)), decided(rows))
    torch.testing.assert_close(batch.log_prob, spoken, rtol=1e-4, atol=1e-5)
    # That the voice is what drew: the same draws by a plain one at that temperature.
    again = play(
        tuning.task, Plain(agent.policy), 8, seed=derived_seed(tuning.config.seed, 6, 0), max_tokens=6,
        sampling=Sampling(temperature=temperature),
    )  # fmt: skip
    assert again == played


def gradients(tuning, batch):
    agent = tuning.agent
    agent.zero_grad()
    loss, _ = rlhf.loss(agent, batch, tuning.config)
    (loss + rlhf.value_loss(agent, batch)).backward()
    return loss.detach(), [p.grad.clone() for p in agent.parameters() if p.grad is not None]


# Broken by a mean over all rows, by what stands behind a conversation's end, or by NaN of rows that are not valid.
def test_a_loss_does_not_depend_on_padding_or_on_what_stands_beside(folder):
    tuning = tuning_of(folder, batch_size=8)
    tuning.agent = tuned(has_values=True, move=0.3)
    task = Rated({("a", "a"): 1.0, ("b",): -1.0}, max_turns=3)
    played = conversations(task, 1)
    scores = [list(each.dialogue.rewards) for each in played]
    (batch,), _ = rlhf.experience(tuning.agent, played, scores, 0.1, tuning.config)
    whole, grads = gradients(tuning, batch)
    pad = torch.randint(6, 8, (5, batch.tokens.shape[1]))
    padded, padded_grads = gradients(tuning, batch._replace(tokens=torch.cat([batch.tokens, pad])))
    torch.testing.assert_close(padded, whole)
    torch.testing.assert_close(padded_grads, grads)
    parts = torch.zeros(())
    for n in range(len(played)):
        one = alone(batch, n)
        parts += gradients(tuning, one)[0] * one.said.valid.sum()
    torch.testing.assert_close(parts / batch.said.valid.sum(), whole)


# Broken by any term over all rows: "none" remembers nothing, so that only rows that decide have a gradient.
@pytest.mark.parametrize("values", [False, True])
def test_no_gradient_comes_from_the_others_tokens_or_from_turns_found_said(folder, values):
    tokenizer = make_task(TASK, num_words=6).tokenizer
    policy = make_model(LanguageConfig(model="none", hidden_size=8), tokenizer)
    tuning = tuning_of(folder, TunedAgent(tokenizer, policy, has_values=True))
    agent = tuning.agent
    played, scores = rlhf.speak(tuning, 0)
    first = [next(k for k, turn in enumerate(each.turns) if turn.agent) for each in played]
    played = [
        replace(each, turns=(*each.turns[:k], replace(each.turns[k], given=True), *each.turns[k + 1 :]))
        for each, k in zip(played, first, strict=True)
    ]
    rows = scored_rows(played, [each[1:] for each in scores], 0.0, tokenizer)
    batch = observe(agent, rows)
    batch = batch._replace(advantage=torch.randn_like(batch.log_prob), target=torch.randn_like(batch.log_prob))
    model = agent.values.model if values else agent.policy
    kept = []
    forward = model.forward
    model.forward = lambda tokens: kept.append(forward(tokens)) or kept[-1].retain_grad() or kept[-1]
    (rlhf.value_loss(agent, batch) if values else rlhf.loss(agent, batch, tuning.config)[0]).backward()
    touched = kept[0].grad.abs().sum(-1) > 0
    own = torch.nn.utils.rnn.pad_sequence([each.mask for each in rows])[: len(touched)]
    if values:  # the head begins at 0, so that nothing reaches the model yet: look at rows through the head's gradient
        assert not touched.any()
        assert agent.values.head.bias.grad.abs() > 0
    else:
        assert torch.equal(touched, own)
        assert all(p.grad is None for p in agent.reference.parameters())


def test_the_penalty_of_the_kl_is_what_is_logged(folder):
    tuning = tuning_of(folder, kl_weight=0.3)
    with torch.no_grad():
        for parameter in tuning.agent.policy.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    played, scores = rlhf.speak(tuning, 0)
    for method, kl in (("rloo", "exact"), ("rloo", "k1")):
        config = replace(tuning.config, method=method, kl=kl, group_size=2, unfinished_penalty=0.0)
        given, metrics = rlhf.experience(tuning.agent, played, scores, 0.3, config)
        without, _ = rlhf.experience(tuning.agent, played, scores, 0.0, config)
        assert metrics["kl"] > 0
        # Advantages of a group sum to 0: what the first turns' lose by the KL, returns do not show. So by hand:
        total = sum(float(batch.estimate.sum()) for batch in given) / len(played)
        assert total == pytest.approx(metrics["kl_estimate"])
        first = torch.cat([(b.advantage - a.advantage)[0] for a, b in zip(given, without, strict=True)])
        penalty = torch.cat([batch.estimate.sum(0) for batch in given]) * 0.3
        pairs = penalty.view(-1, 2)
        torch.testing.assert_close(first, (pairs - pairs.flip(1)).flatten(), rtol=1e-4, atol=1e-5)


# Broken by a coefficient that is not divided by what advantages are: it would mean another thing at each update.
def test_ppos_coefficient_is_in_the_units_of_rewards_though_advantages_are_standardised(folder, monkeypatch):
    tuning = tuning_of(folder, kl_weight=0.3)
    played, scores = rlhf.speak(tuning, 0)
    batches, _ = rlhf.experience(tuning.agent, played, scores, 0.3, tuning.config)
    seen, real = [], rlhf.loss
    monkeypatch.setattr(rlhf, "loss", lambda *args: seen.append(args[1:]) or real(*args))
    rlhf.learn(tuning, batches, 0)
    every = torch.cat([batch.advantage[batch.said.valid] for batch in batches])
    standard = torch.cat([batch.advantage[batch.said.valid] for batch, _ in seen[: len(batches)]])
    assert float(standard.mean()) == pytest.approx(0, abs=1e-5)
    assert float(standard.std(correction=0)) == pytest.approx(1, abs=1e-4)
    assert [config.kl_weight for _, config in seen] == pytest.approx(
        [0.3 / float(every.std(correction=0))] * tuning.config.num_epochs * len(batches)
    )


# Broken by a generator of minibatches or conversations that a checkpoint does not know, or a part left out of it.
@pytest.mark.parametrize(
    "changes", [{"kl_budget": 0.3}, {"method": "grpo", "kl": "k3", "kl_in": "loss", "kl_control": "adaptive"}]
)
def test_a_run_that_is_cut_off_ends_as_one_that_was_not(folder, tmp_path, monkeypatch, changes):
    config = settings(folder, learning_rate=1e-2, **changes)
    lines = ends_the_same(config, tmp_path, monkeypatch, at=3)
    assert lines[0]["kl"] == 0.0
    assert lines[-1]["kl"] > 0
    assert len(lines) == 6
    watched = int(load_checkpoint(tmp_path / "part" / CHECKPOINT)[0]["monitor"]["updates"])
    assert watched == 6 or config.kl_budget  # what is taken back is not judged
    agent = load_speaker(tmp_path / "part")
    play(make_task(TASK, num_words=6), agent.voice(), 2, tokenizer=agent.tokenizer, max_tokens=3)


# Broken by a checkpoint that is read as if it held a policy alone.
@pytest.mark.parametrize("algorithm", [ilql, pytest.param(chai, marks=pytest.mark.slow)])
def test_a_tuned_policy_is_steered_and_what_steers_is_no_policy(folder, tmp_path, algorithm):
    agent = train(settings(folder, num_steps=1, run_dir=str(tmp_path / "tuned")))
    config = algorithm.Config(
        dialogues=str(folder / "log.jsonl"), policy=str(tmp_path / "tuned"), run_dir=str(tmp_path / "steered"),
        hidden_size=8, num_steps=1, held_out=0.0, num_proposals=2, **WORDLE,
    )  # fmt: skip
    steered = train(config)
    assert torch.equal(steered.policy.head.bias, agent.policy.head.bias)
    assert torch.equal(load_speaker(tmp_path / "steered").policy.head.bias, agent.policy.head.bias)
    message = f"steered is a run of {algorithm.__name__.split('.')[-1]}: give one of bc, .*, such as the policy in it"
    with pytest.raises(UserError, match=message):
        train(settings(folder, policy=str(tmp_path / "steered"), run_dir=str(tmp_path / "never")))


# Broken by a computation that is another the second time, in training or on the way back from a checkpoint.
@pytest.mark.slow
def test_computing_blocks_again_changes_no_run(folder, tmp_path, monkeypatch):
    bc.train(bc.Config(
        dialogues=str(folder / "log.jsonl"), run_dir=str(tmp_path / "bc"), model="gpt2", hidden_size=8, num_heads=2,
        num_steps=2, held_out=0.0, **WORDLE,
    ))  # fmt: skip
    config = settings(
        folder, policy=str(tmp_path / "bc"), method="grpo", num_steps=4, gradient_checkpointing=True, learning_rate=1e-2
    )
    lines = ends_the_same(config, tmp_path, monkeypatch, at=3)
    train(replace(config, gradient_checkpointing=False, run_dir=str(tmp_path / "plain")))
    for one, other in zip(lines, read_metrics(tmp_path / "plain"), strict=True):
        assert one == pytest.approx({name: other[name] for name in one}, rel=1e-5, abs=1e-7)


# Broken by leaving out either check of the budget, or `kept.put`.
def test_no_logged_policy_is_beyond_the_budget(folder, tmp_path):
    config = settings(
        folder, learning_rate=2e-2, kl_budget=0.05, kl_weight=0.0, num_steps=10, run_dir=str(tmp_path / "x")
    )
    agent = train(config)
    lines = list(read_metrics(tmp_path / "x"))
    assert all(line["kl"] + 2 * line["kl_error"] <= 0.05 for line in lines)
    assert sum(line["taken_back"] for line in lines) >= 2
    assert all("monitor" in line for line in lines)
    assert lines[-1]["final_kl"] <= 0.05
    assert lines[-1]["kl_weight"] > 0
    assert not torch.equal(agent.policy.head.bias, agent.reference.head.bias)
    # Its policy may be tuned further, and is then what the KL is measured from.
    again = train(settings(folder, policy=str(tmp_path / "x"), method="rloo", num_steps=1, run_dir=str(tmp_path / "y")))
    assert torch.equal(again.reference.head.bias, agent.policy.head.bias)
    assert next(read_metrics(tmp_path / "y"))["kl"] == 0.0


# Broken by leaving out `tuning.kept.restore()`, or by keeping what was not measured.
def test_an_update_that_turns_out_to_have_led_beyond_the_budget_is_taken_back(folder):
    tuning = tuning_of(folder, kl_budget=0.5)
    first = rlhf.update(tuning, 0)
    kept = {name: value.clone() for name, value in tuning.agent.policy.state_dict().items()}
    before = [copy.clone() for copy in tuning.kept.copies]
    with torch.no_grad():
        tuning.agent.policy.head.bias[8] += 9.0
    second = rlhf.update(tuning, tuning.config.num_steps - 1)  # the last one too
    assert second["final_kl"] == first["kl"]
    assert second["taken_back"] == 1
    assert second["kl"] == first["kl"]
    assert second["kl_weight"] > first["kl_weight"]
    assert all(torch.equal(now, then) for now, then in zip(tuning.kept.copy(), before, strict=True))
    assert not torch.equal(tuning.agent.policy.head.bias, kept["head.bias"])  # as it was before it learnt


def test_rollouts_depend_on_the_update_and_on_nothing_before(folder):
    tuning = tuning_of(folder, method="grpo")
    first, _ = rlhf.speak(tuning, 0)
    other, _ = rlhf.speak(tuning, 1)
    again, _ = rlhf.speak(tuning, 0)
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": ""}, "no policy to fine-tune"),
        ({"generator": "vllm"}, "--generator vllm with --model gru: vLLM speaks for a gpt2 or a folder's model"),
        ({"generator": "TGI"}, "--generator 'TGI': choose one of own, vllm"),
        ({"method": "dpo"}, "--method 'dpo': choose one of ppo, rloo, grpo"),
        ({"kl": "k1", "kl_in": "loss"}, "--kl k1 with --kl-in loss has not the gradient of a KL"),
        ({"method": "rloo", "group_size": 3}, "--num-conversations 8 does not part into groups of --group-size 3"),
        ({"reward": ("sentimant",)}, "unknown reward 'sentimant'"),
        ({"reward": ("length=x",)}, "--reward 'length=x' is not NAME=WEIGHT"),
        (
            {"prompts": "log.jsonl", "task": "", "task_kwargs": ()},
            "--reward task says nothing of an answer to a prompt",
        ),
        (
            {"prompts": "log.jsonl", "task": "", "task_kwargs": (), "reward": ("length", "sentiment=2")},
            "--reward sentiment says nothing",
        ),
        (
            {"prompts": "log.jsonl", "task": "", "task_kwargs": (), "reward": ("length",), "gold": ("thumbs",)},
            "--gold thumbs says nothing",
        ),
        ({"prompts": "log.jsonl"}, "either a --task to speak in or a log of --prompts"),
        ({"temperature": 0.0}, "--temperature is 0.0"),
        ({"kl_budget": -1.0}, "--kl-budget is -1.0"),
        ({"precision": "float16"}, "--precision 'float16'"),
    ],
)
def test_mistakes_are_named(folder, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train(settings(folder, run_dir=str(tmp_path / "run"), **changes))


def test_prompts_of_a_log_are_answered(folder, tmp_path, capsys):
    config = settings(
        folder, run_dir=str(tmp_path / "run"), num_steps=2, task="", task_kwargs=(), method="rloo",
        prompts=str(folder / "log.jsonl"), reward=("length=-0.5", "turns"), gold=("length",),
    )  # fmt: skip
    train(config)
    lines = list(read_metrics(tmp_path / "run"))
    assert lines[0]["turns"] == 1
    for line in lines:
        assert line["episode_return"] == pytest.approx(1 - 0.5 * line["gold_return"])
    assert evaluate_speaker(str(tmp_path / "run"), ["--num-dialogues", "3", "--sample"]) == 0
    assert "scored by length=-0.5 turns" in " ".join(capsys.readouterr().out.split())
    answering = ["--prompts", str(folder / "log.jsonl"), "--num-dialogues", "1", "--show", "1"]
    assert evaluate_speaker(str(folder / "bc"), [*answering, "--reward", "turns=7"]) == 0
    assert "return 7\n" in capsys.readouterr().out  # what is scored, not the task's
    for named in ("task", "clicks"):
        with pytest.raises(UserError, match=f"--reward {named} says nothing of an answer to a prompt"):
            evaluate_speaker(str(folder / "bc"), [*answering, "--reward", named])


ANSWERS = Rated({("",): -0.5, ("a",): 1.0, ("aa",): 0.3, ("ab",): 1.5, ("ba",): -1.0, ("bb",): 0.8})
STOPS = Rated({("a",): 0.2, ("b",): 0.8, ("a", "a"): 1.0, ("a", "b"): -1.0}, max_turns=2)


# RLOO with k1 has no variance left at the optimum, GRPO divides by the spread of each group and has another optimum.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "kl", "turns"), [("ppo", "exact", 1), ("ppo", "exact", 2), ("rloo", "exact", 1), ("rloo", "k1", 2)]
)
def test_the_best_policy_is_reached(folder, method, kl, turns):
    """π_ref exp(R/c)/Z over all answers, and over all conversations of up to two turns, which the policy may end."""
    task, max_tokens = {1: (ANSWERS, 2), 2: (STOPS, 1)}[turns]
    weight, steps = 0.5, 150
    agent = tuned(has_values=method == "ppo")
    tuning = tuning_of(
        folder, method=method, kl=kl, num_conversations=256, batch_size=256, kl_weight=weight, max_tokens=max_tokens,
        unfinished_penalty=0.0, num_epochs=4 if method == "ppo" else 1, learning_rate=0.02 if method == "ppo" else 0.03,
        num_steps=steps, monitor="off", group_size=8,
    )  # fmt: skip
    learners = {"policy_learner": Learner(agent.policy, 0.0, 1.0)}
    if agent.values is not None:
        learners["value_learner"] = Learner(agent.values, 0.0, 1.0)
    tuning = replace(tuning, agent=agent, task=task, learners=learners)
    for step in range(steps):
        rlhf.update(tuning, step)
    played = conversations(task, max_tokens)
    batch = observe(agent, [rows_of(each.turns, TOKENIZER) for each in played])
    reference = of_said(agent.log_probs(agent.reference, batch.reference), batch.said).sum(0)
    wanted = (reference + batch.said.reward.sum(0) / weight).softmax(0)
    found = batch.log_prob.sum(0).exp()
    assert 0.5 * (wanted - reference.exp()).abs().sum() > 0.3
    assert 0.5 * (wanted - found).abs().sum() <= 0.02
