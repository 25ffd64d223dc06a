"""A maze that is described in words and walked through by saying so."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from seqrl.errors import UserError
from seqrl.text.task import TaskState, TextTask, Turn
from seqrl.text.tokenizer import Tokenizer

Cell = tuple[int, int]  # row, column

MOVES: dict[str, Cell] = {"move up": (-1, 0), "move down": (1, 0), "move left": (0, -1), "move right": (0, 1)}
_SIDES = ("above", "below", "left", "right")  # of the moves, in their order

DOUBLE_T = (
    "#############",
    "#.....#.....#",
    "###.#####.###",
    "###.#####.###",
    "###.#####.###",
    "###.......###",
    "######.######",
    "######.######",
    "######G######",
    "#############",
)
"""Two T-shaped arms over a stem that ends at the goal: 25 cells to start from."""

INVALID = "That is no move."
ARRIVED = "You have reached the goal."
TIME_OVER = "Your time is over."


@dataclass(frozen=True, kw_only=True)
class MazeState(TaskState):
    """A conversation, and the cell that the walker is in."""

    cell: Cell


class TextMaze(TextTask[MazeState]):
    """Reach the goal from a cell drawn anew each time, all but the goal as likely.

    `layout` has a string a row: '#' wall, '.' floor, 'G' the goal (one). The four utterances of `MOVES` move a cell;
    against a wall one stays, which is a step like others. The reply describes the new cell: where it is, where the goal
    is and which sides have walls, or, `partly_observed`, only the walls. Any other utterance moves nothing and is told
    so before the description. Reward: 0 for the move onto the goal, −1 for any other, −4 for what is no move. It ends
    at the goal, or after `max_turns` utterances.

    Source: the maze of LMRL-Gym (Abdulhai et al. 2023, arXiv 2311.18232), with its layout, rewards and start cells.
    Differs: sentences are our own; the last utterance is the `max_turns`-th, where theirs is one more, which moves
    nothing and costs 1; theirs shows only the newest description by default, here the conversation is all there.

    Exact optima (`MazeOptimum`): −6.84 fully observed, as published; −7.24 partly observed, where −25.75 is
    published as the best possible; without a memory, taking sides at random in level corridors, one gets −12.6.

    Raises: UserError for a layout with other characters, rows of different lengths, not exactly one goal, an open
    border, no floor, or floor that has no way to the goal; for `max_turns` below 1.
    """

    def __init__(self, layout: Sequence[str] = DOUBLE_T, partly_observed: bool = False, max_turns: int = 100) -> None:
        if max_turns < 1:
            raise UserError(f"max_turns is {max_turns}: a maze needs at least one move")
        self.layout, self.partly_observed, self.max_turns = tuple(layout), partly_observed, max_turns
        self.goal = _check(self.layout)
        self.starts = tuple((y, x) for y, row in enumerate(layout) for x, cell in enumerate(row) if cell == ".")
        self._check_ways()
        texts = [self.describe(cell) for cell in (self.goal, *self.starts)]
        texts += [ARRIVED, TIME_OVER]
        self.tokenizer = Tokenizer.of_words([*MOVES, *texts, *(f"{INVALID} {text}" for text in texts)])

    def start(self, generator: torch.Generator) -> tuple[MazeState, str]:
        cell = self.starts[int(torch.randint(len(self.starts), (), generator=generator))]
        return MazeState(cell=cell), self.describe(cell)

    def describe(self, cell: Cell) -> str:
        """What is said of a cell."""
        (y, x), walls = cell, self.walls(cell)
        sides = [side for side, wall in zip(_SIDES, walls, strict=True) if wall]
        told = f"Walls: {', '.join(sides)}." if sides else "No walls."
        if self.partly_observed:
            return told
        return f"You are at row {y}, column {x}. The goal is at row {self.goal[0]}, column {self.goal[1]}. {told}"

    def walls(self, cell: Cell) -> tuple[bool, ...]:
        """Whether there is a wall above, below, left and right."""
        return tuple(self.moved(cell, move) == cell for move in MOVES)

    def moved(self, cell: Cell, move: str) -> Cell:
        """Where `move` leads from `cell`."""
        y, x = cell[0] + MOVES[move][0], cell[1] + MOVES[move][1]
        return cell if self.layout[y][x] == "#" else (y, x)

    def _reply(self, state: MazeState, utterance: str, generator: torch.Generator) -> Turn[MazeState]:
        valid = utterance in MOVES
        cell = self.moved(state.cell, utterance) if valid else state.cell
        turns, arrived = state.turns + 1, cell == self.goal
        state = replace(state, cell=cell, turns=turns, ended=arrived or turns == self.max_turns)
        text = ARRIVED if arrived else TIME_OVER if state.ended else self.describe(cell)
        return Turn(
            state=state,
            text=text if valid else f"{INVALID} {text}",
            reward=0.0 if arrived else -1.0 if valid else -4.0,
        )

    def _check_ways(self) -> None:
        reached, edge = {self.goal}, [self.goal]
        while edge:
            cell = edge.pop()
            new = {self.moved(cell, move) for move in MOVES} - reached
            reached |= new
            edge += new
        cut_off = [cell for cell in self.starts if cell not in reached]
        if cut_off:
            y, x = cut_off[0]
            raise UserError(f"no way leads from row {y}, column {x} to the goal: wall it up ('#') or open a way")
        if not self.starts:
            raise UserError("the maze has no floor ('.') to start from")


class MazeOptimum:
    """The exact optimum of a `TextMaze`, and the speaker that attains it.

    What the agent knows is the set B of cells where it may be, all as likely: the start is uniform, moves are certain,
    and cells that a description does not tell apart have the same walls, so that no two of them become one. With h
    utterances left, dynamic programming over the beliefs that moves can reach gives

        V_h(B) = max over moves of Σ over what may be described next |B'| / |B| · (r + V_{h−1}(B')),    V_0 = 0

    with r = 0 and V = 0 for the cell that is the goal. Fully observed, each B is one cell. Exact for any horizon.
    """

    def __init__(self, task: TextMaze) -> None:
        self._task = task
        self._first = self._told_apart(frozenset(task.starts))
        self._next = self._reachable()
        self._plans = self._plan()

    @property
    def expected_return(self) -> float:
        return sum(len(b) * self._plans[-1][b][0] for b in self._first) / len(self._task.starts)

    def __call__(self, texts: tuple[str, ...]) -> str:
        belief = self.belief(texts)
        left = self._task.max_turns - len(texts) // 2
        return self._plans[left][belief][1]

    def belief(self, texts: tuple[str, ...]) -> frozenset[Cell]:
        """The cells where the agent may be after `texts`."""
        at = [cell for cell in self._task.starts if self._task.describe(cell) == texts[0]]
        for utterance, reply in zip(texts[1::2], texts[2::2], strict=True):
            if utterance in MOVES:
                at = [self._task.moved(cell, utterance) for cell in at]
                at = [cell for cell in at if cell != self._task.goal and self._task.describe(cell) == reply]
        if not at:
            raise UserError("no cell of this maze fits what was described: the texts are another maze's, or changed")
        return frozenset(at)

    def _told_apart(self, cells: frozenset[Cell]) -> tuple[frozenset[Cell], ...]:
        """`cells` without the goal, grouped by what is said of them."""
        groups: dict[str, set[Cell]] = {}
        for cell in cells - {self._task.goal}:
            groups.setdefault(self._task.describe(cell), set()).add(cell)
        return tuple(frozenset(groups[text]) for text in sorted(groups))

    def _reachable(self) -> dict[frozenset[Cell], dict[str, tuple[frozenset[Cell], ...]]]:
        found: dict[frozenset[Cell], dict[str, tuple[frozenset[Cell], ...]]] = {}
        edge = list(self._first)
        while edge:
            belief = edge.pop()
            if belief in found:
                continue
            found[belief] = {}
            for move in MOVES:
                cells = frozenset(self._task.moved(cell, move) for cell in belief)
                assert len(cells) == len(belief)  # else the belief would not be uniform
                found[belief][move] = self._told_apart(cells)
                edge += found[belief][move]
        return found

    def _plan(self) -> list[dict[frozenset[Cell], tuple[float, str]]]:
        """For 0 … max_turns utterances left: each belief's value and best move."""
        plans = [{belief: (0.0, next(iter(MOVES))) for belief in self._next}]
        for _ in range(self._task.max_turns):
            last = plans[-1]
            plans.append(
                {
                    belief: max(
                        (sum(len(b) * (last[b][0] - 1) for b in after) / len(belief), move)
                        for move, after in moves.items()
                    )
                    for belief, moves in self._next.items()
                }
            )
        return plans


def _check(layout: tuple[str, ...]) -> Cell:
    """The goal of a layout that is fit for use."""
    if not layout or len({len(row) for row in layout}) != 1 or not layout[0]:
        raise UserError("the rows of a layout are strings of the same length, at least one")
    other = sorted({cell for row in layout for cell in row} - set("#.G"))
    if other:
        raise UserError(f"a layout knows '#' wall, '.' floor and 'G' goal, not {other[0]!a}")
    border = layout[0] + layout[-1] + "".join(row[0] + row[-1] for row in layout)
    if set(border) != {"#"}:
        raise UserError("the maze is open at its border: put '#' all around")
    goals = [(y, x) for y, row in enumerate(layout) for x, cell in enumerate(row) if cell == "G"]
    if len(goals) != 1:
        raise UserError(f"the maze has {len(goals)} goals ('G'): it needs one")
    return goals[0]
