"""Good language from bad: what is learnt of it, how its confidence is measured, and what is bad."""

import pytest
import torch

from seqrl.language.discriminator import Discriminator, calibration_error, corrupted, discriminator_loss
from seqrl.language.utterances import UtteranceBatch
from seqrl.learner import Learner
from seqrl.text import Tokenizer

SAID = Tokenizer.end_of_utterance_id


def test_calibration_error() -> None:
    # By hand: bin 0.9 holds four, of which 3 are good: |3 − 3.6| = 0.6; bin 0.2 two, none good: 0.4. Of 6: 1 / 6.
    # Breaks if bins' gaps are summed before their absolute value is taken, or if weights are left out.
    confidence = torch.tensor([0.9, 0.9, 0.9, 0.9, 0.2, 0.2])
    label = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    assert float(calibration_error(confidence, label, torch.ones(6))) == pytest.approx(1 / 6)
    weight = torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0, 1.0])
    assert float(calibration_error(confidence, label, weight)) == pytest.approx((0.3 + 0.4) / 5)


def batch(good: list[list[int]], bad: list[list[int]]) -> UtteranceBatch:
    columns = [torch.tensor(ids) for ids in (*good, *bad)]
    said = torch.arange(len(good))[None]
    number = torch.arange(len(good), len(columns))[None, :, None]
    return UtteranceBatch(
        segments=torch.nn.utils.rnn.pad_sequence(columns), length=torch.tensor([len(ids) for ids in columns]),
        heard=said, said=said, proposals=number, log_prob=torch.zeros(1, len(good), 1),
        features=torch.zeros(1, len(good), 2, 0), reward=torch.zeros(1, len(good)), bad=number,
        valid=torch.ones(1, len(good), dtype=torch.bool), good=torch.ones(1, len(good), dtype=torch.bool),
    )  # fmt: skip


def test_learns_to_tell_them_apart_and_says_so() -> None:
    torch.manual_seed(0)
    guard = Discriminator(12, "gru", 16)
    learner = Learner(guard, 1e-2, 1.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(80):  # good is in rising order
        words = torch.rand(16, 6, generator=generator).argsort(-1)[:, :4] + 6
        rising = words.sort(-1).values
        swapped = torch.where((words == rising).all(-1, keepdim=True), words.flip(-1), words)
        good, bad = ([[*ids, SAID] for ids in each.tolist()] for each in (rising, swapped))
        loss, metrics = discriminator_loss(guard, batch(good, bad))
        learner.update(loss)
    assert metrics["discriminator_accuracy"] > 0.9
    assert metrics["discriminator_calibration_error"] < 0.15
    confidence = guard.confidence([[6, 7, 8, 9, SAID], [9, 7, 8, 6, SAID]])
    assert confidence[0] > 0.8 > 0.2 > confidence[1]


def test_both_kinds_weigh_the_same() -> None:
    # One good and three bad, all thought good by a blank head: ½ of the weight is right. Breaks with plain means (¼).
    guard = Discriminator(12, "gru", 4)
    torch.nn.init.zeros_(guard.head[-1].weight)
    torch.nn.init.ones_(guard.head[-1].bias)
    some = batch([[6, SAID]], [[7, SAID], [8, SAID], [9, SAID]])._replace(bad=torch.tensor([[[1, 2, 3]]]))
    _, metrics = discriminator_loss(guard, some)
    assert float(metrics["discriminator_accuracy"]) == pytest.approx(0.5)


def test_corrupted_language_still_ends() -> None:
    generator = torch.Generator().manual_seed(0)
    ids = (6, 7, 8, 9, 10, SAID)
    several = [corrupted(ids, 12, generator) for _ in range(200)]
    assert all(each[-1] == SAID for each in several)
    assert all(token > Tokenizer.end_of_dialogue_id for each in several for token in each[:-1])
    assert sum(each == ids for each in several) < 40
    assert len({len(each) for each in several}) > 3  # some twice, some left out
    assert corrupted((SAID,), 12, generator)[-1] == SAID
