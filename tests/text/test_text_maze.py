"""The maze's words, and its exact optimum against breadth-first search and the whole tree of what may be heard."""

from collections import deque

import numpy as np
import pytest
import torch

from seqrl.errors import UserError
from seqrl.text import MazeOptimum, TextMaze, converse
from seqrl.text.text_maze import MOVES, MazeState

# From the two corridors alike, one must walk to find out where one is.
TWIN = ("#######", "#.#.#.#", "#..G..#", "#.###.#", "#######")


def test_what_is_said():
    full, partly = TextMaze(), TextMaze(partly_observed=True)
    # Broken by columns before rows, and by a wall read from the wrong side.
    expected = "You are at row 5, column 3. The goal is at row 8, column 6. Walls: below, left."
    assert full.describe((5, 3)) == expected
    assert partly.describe((5, 3)) == "Walls: below, left."
    assert TextMaze(("#####", "##.##", "#...#", "##G##", "#####")).describe((2, 2)).endswith(" No walls.")


def test_rewards_and_ends():
    task, generator = TextMaze(max_turns=3), torch.Generator()
    state = MazeState(cell=(7, 6))
    won = task.reply(state, "move down", generator)
    assert (won.text, won.reward, won.ended) == ("You have reached the goal.", 0.0, True)
    bump = task.reply(state, "move left", generator)
    assert (bump.text, bump.reward, bump.state.cell) == (task.describe((7, 6)), -1.0, (7, 6))
    lost = task.reply(bump.state, "move  down", generator)  # broken by comparing without spaces
    assert (lost.reward, lost.ended) == (-4.0, False)
    assert lost.text == "That is no move. " + task.describe((7, 6))
    over = task.reply(lost.state, "move up", generator)
    assert (over.text, over.reward, over.ended) == ("Your time is over.", -1.0, True)
    assert task.reply(lost.state, "move down", generator).reward == 0.0  # in time with the last utterance
    with pytest.raises(UserError, match="has ended"):
        task.reply(over.state, "move down", generator)


def test_starts_are_all_cells_but_the_goal():
    task, generator = TextMaze(), torch.Generator().manual_seed(0)
    cells = {task.start(generator)[0].cell for _ in range(600)}
    assert cells == set(task.starts)
    assert len(cells) == 25
    assert task.goal not in cells


def distances(task: TextMaze) -> dict:
    found, queue = {task.goal: 0}, deque([task.goal])
    while queue:
        cell = queue.popleft()
        for dy, dx in MOVES.values():
            to = (cell[0] + dy, cell[1] + dx)
            if task.layout[to[0]][to[1]] != "#" and to not in found:
                found[to] = found[cell] + 1
                queue.append(to)
    return found


def test_fully_observed_optimum_is_the_published_one():
    # −6.84 (LMRL-Gym, "best possible"). Broken by −1 for the move onto the goal: −7.84.
    task = TextMaze()
    assert MazeOptimum(task).expected_return == pytest.approx(-6.84, abs=1e-9)
    far = distances(task)
    assert MazeOptimum(task).expected_return == pytest.approx(np.mean([1 - far[cell] for cell in task.starts]))


def test_optimum_when_time_is_short():
    task = TextMaze(max_turns=4)
    far = distances(task)
    returns = [1 - far[cell] if far[cell] <= 4 else -4 for cell in task.starts]
    assert MazeOptimum(task).expected_return == pytest.approx(np.mean(returns))


def best_by_tree(task: TextMaze, horizon: int) -> float:
    """Over all policies of what was heard: every history is told apart by its texts, and no belief is shared."""

    def value(cells: list, horizon: int) -> float:
        if horizon == 0 or not cells:
            return 0.0
        totals = []
        for move in MOVES:
            heard: dict = {}
            for cell in (task.moved(cell, move) for cell in cells):
                if cell != task.goal:
                    heard.setdefault(task.describe(cell), []).append(cell)
            totals.append(sum(value(group, horizon - 1) - len(group) for group in heard.values()))
        return max(totals)

    groups: dict = {}
    for cell in task.starts:
        groups.setdefault(task.describe(cell), []).append(cell)
    return sum(value(group, horizon) for group in groups.values()) / len(task.starts)


@pytest.mark.parametrize("horizon", [1, 3, 6])
def test_partly_observed_optimum_equals_the_tree(horizon):
    # Broken by planning as if the cell were known: `_told_apart` by cell.
    task = TextMaze(TWIN, partly_observed=True, max_turns=horizon)
    assert MazeOptimum(task).expected_return == pytest.approx(best_by_tree(task, horizon))
    assert MazeOptimum(task).expected_return <= MazeOptimum(TextMaze(TWIN, max_turns=horizon)).expected_return


@pytest.mark.parametrize("partly_observed", [False, True])
def test_optimum_is_attained(partly_observed):
    task = TextMaze(partly_observed=partly_observed)
    speaker, generator, returns = MazeOptimum(task), torch.Generator(), []
    for cell in task.starts:
        state, texts, total = MazeState(cell=cell), (task.describe(cell),), 0.0
        while not state.ended:
            move = speaker(texts)
            turn = task.reply(state, move, generator)
            state, texts, total = turn.state, (*texts, move, turn.text), total + turn.reward
        returns.append(total)
    assert np.mean(returns) == pytest.approx(speaker.expected_return)


def test_what_hiding_the_place_costs():
    # 0.4 moves a conversation: a few walks to a corner that tells one where one is.
    assert MazeOptimum(TextMaze(partly_observed=True)).expected_return == pytest.approx(-7.24)


def test_walls_alone_without_a_memory():
    task, known = TextMaze(partly_observed=True), MazeOptimum(TextMaze())
    value = dict.fromkeys([*task.starts, task.goal], 0.0)
    for _ in range(task.max_turns):
        last = dict(value)
        for cell in task.starts:
            level = task.describe(cell) == "Walls: above, below."  # the one pattern where the way is not the same
            moves = ["move left", "move right"] if level else [known((TextMaze().describe(cell),))]
            cells = [task.moved(cell, move) for move in moves]
            value[cell] = np.mean([last[to] - (to != task.goal) for to in cells])
    assert np.mean([value[cell] for cell in task.starts]) == pytest.approx(-12.6, abs=1e-3)


def test_optimum_after_words_that_are_no_move():
    task = TextMaze(partly_observed=True)
    speaker = MazeOptimum(task)
    opening = task.describe((1, 1))
    texts = (opening, "<b>up</b>", "That is no move. " + opening)
    assert speaker.belief(texts) == {(1, 1), (1, 7)}
    assert speaker(texts) == "move right"
    with pytest.raises(UserError, match="no cell of this maze fits"):
        speaker(("Walls: everywhere.",))


def test_conversation_is_within_the_vocabulary():
    task, generator = TextMaze(max_turns=5), torch.Generator().manual_seed(0)
    texts = converse(task, lambda texts: ["move up", "\x1b[2J", "move down"][len(texts) // 2 % 3], generator).texts
    for text in (texts[0], *texts[2::2]):
        assert task.tokenizer.decode(task.tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ((), "at least one"),
        (("###", "##"), "same length"),
        (("####", "#GX#", "####"), "not 'X'"),
        (("####", "#G.#", "##.#"), "open at its border"),
        (("####", "#..#", "####"), "0 goals"),
        (("####", "#GG#", "####"), "2 goals"),
        (("#####", "#G#.#", "#####"), "no way leads from row 1, column 3"),
        (("###", "#G#", "###"), "no floor"),
    ],
)
def test_bad_layouts(layout, message):
    with pytest.raises(UserError, match=message):
        TextMaze(layout)


def test_bad_clock():
    with pytest.raises(UserError, match="max_turns is 0"):
        TextMaze(max_turns=0)
