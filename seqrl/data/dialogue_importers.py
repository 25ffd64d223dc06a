"""Dialogues of other programs in our schema: CaSiNo, Deal or No Deal, and the conversational formats of Hugging Face.

The form is recognised: `.json` is CaSiNo's, `.txt` Deal or No Deal's, and `.jsonl` is Hugging Face's where its first
line has messages, prompt, completion, chosen or rejected. Nothing is downloaded.

Negotiations are rewarded alike: each of the agent's turns has 0, but its last, which has the points that the agent came
away with; the outcome has the points of both. So the undiscounted return is the points, and no reward comes before the
agent's last word.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from seqrl.data.dialogues import (
    Dialogue,
    Value,
    dialogue_of,
    first_line,
    numbered_lines,
    parse_json,
    place,
    shown,
    write_dialogues,
)
from seqrl.data.messages import PARTS, after_prompt, check_columns, messages_of
from seqrl.errors import UserError

Form = Literal["casino", "deal", "messages", "seqrl"]


def import_dialogues(source: str | Path, path: str | Path) -> int:
    """Write the dialogues of `source` to `path`, by its form, and return how many there are.

    Raises UserError for a form that is not known, a `path` that exists, and whatever its reader refuses.
    """
    form = form_of(source)
    if form is None:
        raise UserError(
            f"{shown(source, 1000)} holds no dialogues of a known form: give CaSiNo's .json, Deal or No Deal's .txt, "
            f"or .jsonl with {', '.join(PARTS)}"
        )
    if form == "seqrl":
        raise UserError(f"{shown(source, 1000)} is in seqrl's own form already: use it as it is")
    if Path(path).exists():
        raise UserError(f"{shown(path, 1000)} exists already: choose another file")
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {shown(path, 1000)} ({error.strerror}): choose another file") from None
    return write_dialogues(path, READERS[form](source))


def form_of(source: str | Path) -> Form | None:
    """The form of a file of dialogues, by its suffix and first line, or None: it may hold episodes."""
    path = Path(source)
    if not path.is_file():
        return None
    if path.suffix in (".json", ".txt"):
        return "casino" if path.suffix == ".json" else "deal"
    if path.suffix != ".jsonl":
        return None
    content = first_line(path)
    if any(part in content for part in PARTS):
        return "messages"
    return "seqrl" if "turns" in content else None


# CaSiNo


def from_casino(path: str | Path) -> Iterator[Dialogue]:
    """CaSiNo's negotiations (Chawla et al., NAACL 2021), each twice: once with either participant to be learnt.

    The agent's points come on its last turn, 0 on its others; where one walked away, both have the 5 points that the
    study paid. A deal's turn says what its speaker would get, `Submit-Deal Firewood=2 Food=1 Water=1`: the other gets
    the rest of the 3 of each. `outcome` has agreement, points, satisfaction and opponent_likeness, and the partner's
    as partner_…; `meta` has the dialogue (one for both copies: split by it), the agent's high, medium and low priority,
    its reasons, and the partner's priorities, which the agent did not know. Annotations of strategies are left out.

    Raises UserError, naming the dialogue's place in the list.
    """
    name = shown(path, 1000)
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is no text in UTF-8 ({error.reason}): write it again as UTF-8") from None
    except OSError as error:
        raise UserError(f"cannot read {name} ({error.strerror}): give CaSiNo's JSON file") from None
    content = parse_json(text, name)
    if not isinstance(content, list) or not content:
        raise UserError(f"{name} is no list of dialogues: give CaSiNo's JSON file")
    for k, dialogue in enumerate(content):
        where = f"{name}, dialogue {k}"
        people = _part(dialogue, "participant_info", dict, where)
        if len(people) != 2:
            raise UserError(f"{where} has {len(people)} participants: CaSiNo's dialogues have two")
        for agent in people:
            yield _casino_side(dialogue, agent, where)


def _casino_side(dialogue: dict[str, Any], agent: str, where: str) -> Dialogue:
    logs = _part(dialogue, "chat_logs", list, where)
    turns = [_casino_turn(turn, f"{where}, chat_logs[{k}]") for k, turn in enumerate(logs)]
    number = _part(dialogue, "dialogue_id", int | str, where)
    agreement = bool(turns) and turns[-1]["text"] == "Accept-Deal"
    outcome: dict[str, Value] = {"agreement": agreement}
    meta: dict[str, Value] = {"dialogue": str(number)}
    for person, info in dialogue["participant_info"].items():
        mine, what = "" if person == agent else "partner_", f"{where}, {shown(person)}"
        results = _part(info, "outcomes", dict, what)
        outcome[f"{mine}points"] = _part(results, "points_scored", int | float, what)
        for key in ("satisfaction", "opponent_likeness"):
            outcome[mine + key] = _part(results, key, str, what)
        for level, issue in _part(info, "value2issue", dict, what).items():
            meta[mine + level.lower()] = issue
        reasons = _part({"value2reason": {}} | info, "value2reason", dict, what)  # some have none
        for level, reason in reasons.items() if not mine else ():
            meta[f"{level.lower()}_reason"] = reason
    _reward_last(turns, agent, outcome["points"])
    content = {"id": f"casino-{number}-{agent}", "turns": turns, "agent": agent, "outcome": outcome, "meta": meta}
    return dialogue_of(content, where)


def _casino_turn(turn: Any, where: str) -> dict[str, Any]:
    text, speaker = _part(turn, "text", str, where), _part(turn, "id", str, where)
    if text == "Submit-Deal":
        task = _part(turn, "task_data", dict, where)
        mine, theirs = _part(task, "issue2youget", dict, where), _part(task, "issue2theyget", dict, where)
        for issue, number in mine.items():
            if not (_is_count(number) and _is_count(theirs.get(issue)) and int(number) + int(theirs[issue]) == 3):
                raise UserError(f"{where} does not share out the 3 packages of {shown(issue)}: mend it or leave it out")
        text = " ".join([text, *(f"{issue}={number}" for issue, number in sorted(mine.items()))])
    return {"speaker": speaker, "text": text}


def _is_count(value: Any) -> bool:
    return str(value) in ("0", "1", "2", "3")


def _part(content: Any, key: str, kind: Any, where: str) -> Any:
    if not isinstance(content, dict) or not isinstance(content.get(key), kind):
        raise UserError(f"{where} has no '{key}' as CaSiNo's have: give CaSiNo's JSON file")
    return content[key]


def _reward_last(turns: list[dict[str, Any]], agent: str, points: Value) -> None:
    """The points on the agent's last turn, 0 on its others."""
    mine = [turn for turn in turns if turn["speaker"] == agent]
    for turn in mine:
        turn["reward"] = 0.0
    if mine:
        mine[-1]["reward"] = points


# Deal or No Deal

_DEAL = re.compile(
    r"<input> (.*) </input> <dialogue> (.*) </dialogue> <output> (.*) </output> <partner_input> (.*) </partner_input>"
)
_ITEMS = ("book", "hat", "ball")
_FAILED = ("<no_agreement>", "<disagree>", "<disconnect>")


def from_deal_or_no_deal(path: str | Path) -> Iterator[Dialogue]:
    """Deal or No Deal's negotiations (Lewis et al. 2017, arXiv 1706.05125), a line each: YOU is to be learnt, of THEM.

    A line has six numbers of input (count and value of books, hats and balls), the dialogue with `<eos>` between turns,
    six shares `item0=…` (three of YOU, three of THEM), and the partner's six numbers. The dataset has each negotiation
    twice, from both sides, so THEM is not learnt a second time here. `<selection>` stays as the turn that ends talking.
    The points, 0 without agreement, come on YOU's last turn, 0 on the others. `meta` has counts and values, also
    the partner's values, which YOU did not know; `outcome` has agreement, points, partner_points, the shares of YOU,
    and how it failed.

    Raises UserError, naming the line, for another form, or shares that are not all there is.
    """
    for number, line in numbered_lines(path):
        where = place(path, number)
        match = _DEAL.fullmatch(" ".join(line.split()))
        if not match:
            raise UserError(f"{where} is not of Deal or No Deal's form: <input> <dialogue> <output> <partner_input>")
        yield _deal(match, f"{Path(path).stem}-{number}", where)


def _deal(match: re.Match[str], name: str, where: str) -> Dialogue:
    counts, values = _six(match[1], where)
    partner_counts, partner_values = _six(match[4], where)
    if counts != partner_counts:
        raise UserError(f"{where} has other counts in <partner_input>: both sides see the same items")
    turns: list[dict[str, Any]] = []
    for text in match[2].split("<eos>"):
        speaker, colon, said = text.strip().partition(":")
        if speaker not in ("YOU", "THEM") or not colon:
            raise UserError(f"{where} has the turn '{shown(text.strip(), 30)}': begin turns with YOU: or THEM:")
        turns.append({"speaker": speaker, "text": said.strip()})
    meta: dict[str, Value] = {}
    for k, item in enumerate(_ITEMS):
        meta |= {f"{item}_count": counts[k], f"{item}_value": values[k], f"partner_{item}_value": partner_values[k]}
    outcome = _deal_outcome(match[3].split(), counts, values, partner_values, where)
    _reward_last(turns, "YOU", outcome["points"])
    return dialogue_of({"id": name, "turns": turns, "agent": "YOU", "outcome": outcome, "meta": meta}, where)


def _six(text: str, where: str) -> tuple[list[int], list[int]]:
    words = text.split()
    if len(words) != 6 or not all(re.fullmatch(r"[0-9]{1,6}", word) for word in words):
        raise UserError(f"{where} has '{shown(text, 30)}' where count and value of three items should be: give six")
    return [int(word) for word in words[::2]], [int(word) for word in words[1::2]]


def _deal_outcome(
    words: list[str], counts: list[int], values: list[int], partner_values: list[int], where: str
) -> dict[str, Value]:
    failed = next((word for word in words if word in _FAILED), None)
    if failed:
        return {"agreement": False, "points": 0, "partner_points": 0, "failure": failed.strip("<>")}
    matches = [re.fullmatch(rf"item{k % 3}=([0-9]{{1,6}})", word) for k, word in enumerate(words)]
    shares = [int(match[1]) for match in matches if match]
    if len(words) != 6 or len(shares) != 6:
        raise UserError(f"{where} has the output '{shown(' '.join(words), 40)}': give item0=, item1=, item2= of both")
    mine, theirs = shares[:3], shares[3:]
    for item, count, ours, other in zip(_ITEMS, counts, mine, theirs, strict=True):
        if ours + other != count:
            raise UserError(f"{where} shares out {ours} + {other} of {count} {item}s: mend it or leave it out")
    return {
        "agreement": True,
        "points": sum(share * value for share, value in zip(mine, values, strict=True)),
        "partner_points": sum(share * value for share, value in zip(theirs, partner_values, strict=True)),
        **{f"{item}s": share for item, share in zip(_ITEMS, mine, strict=True)},
    }


# Hugging Face


def from_messages(path: str | Path, agent: str = "assistant") -> Iterator[Dialogue]:
    """Conversational datasets of TRL and Hugging Face in JSON lines; roles become speakers, `agent` is to be learnt.

    =============================  ==============================================================================
    messages                       one dialogue
    prompt, completion             one dialogue; with `label` (true or false), thumbs 1 or −1
    chosen, rejected, maybe        two dialogues: thumbs 1 and −1, and the same `meta.pair`
    prompt
    =============================  ==============================================================================

    Parts are lists of {role, content}, or strings: a prompt is then said by the user, the others by the agent. Thumbs
    come on the agent's last turn. A prompt that chosen and rejected begin with is not said twice. There are no rewards
    and no outcome. `id` is the line's, or made of the file's name and the line's number. Other columns that hold
    strings, numbers or booleans go into `meta`, null is left out.

    Raises UserError, naming the line: for columns that hold anything else, or are nearly named like one of these.
    """
    for number, line in numbered_lines(path):
        where = place(path, number)
        content = parse_json(line, where)
        if not isinstance(content, dict):
            raise UserError(f"{where} is no object: give one with {', '.join(PARTS)}")
        content = {key: value for key, value in content.items() if value is not None}
        name = content.pop("id", None)
        if isinstance(name, bool) or not isinstance(name, str | int | None):
            raise UserError(f"{where}: id is neither a string nor an integer: leave it out, lines are numbered")
        name = f"{Path(path).stem}-{number}" if name is None else str(name)
        yield from _conversations(content, name, agent, where)


def _conversations(content: dict[str, Any], name: str, agent: str, where: str) -> Iterator[Dialogue]:
    parts = {key: content.pop(key) for key in PARTS if key in content}
    has = set(parts)
    pair = {"chosen", "rejected"}
    if has not in ({"messages"}, {"prompt", "completion"}, pair, pair | {"prompt"}):
        raise UserError(
            f"{where} has {' and '.join(sorted(has)) or 'no text'}: give messages, or prompt and completion, or chosen "
            "and rejected with or without prompt, and nothing besides"
        )
    label = content.pop("label", None) if "completion" in has else None
    for column, of in (("label", "a thumb on a completion"), ("pair", "made of chosen and rejected")):
        if column in content and (column == "label" or has >= pair):
            raise UserError(f"{where} has the column '{column}', which is {of}: rename it to keep it in meta")
    if label is not None and not isinstance(label, bool):
        raise UserError(f"{where}: label is neither true nor false: rename it to keep it in meta")
    check_columns(content, where)
    prompt = messages_of(parts["prompt"], "user", f"{where}: prompt") if "prompt" in has else []
    if has >= pair:
        for key, thumbs in (("chosen", 1), ("rejected", -1)):
            said = after_prompt(prompt, messages_of(parts[key], agent, f"{where}: {key}"))
            _give_thumbs(said, agent, thumbs, f"{where}: {key}")
            meta = content | {"pair": name}
            yield dialogue_of({"id": f"{name}-{key}", "turns": prompt + said, "agent": agent, "meta": meta}, where)
        return
    key = "messages" if "messages" in has else "completion"
    said = messages_of(parts[key], agent, f"{where}: {key}")
    if label is not None:
        _give_thumbs(said, agent, 1 if label else -1, f"{where}: {key}")
    yield dialogue_of({"id": name, "turns": prompt + said, "agent": agent, "meta": content}, where)


def _give_thumbs(said: list[dict[str, Any]], agent: str, thumbs: int, where: str) -> None:
    mine = [turn for turn in said if turn["speaker"] == agent]
    if not mine:
        raise UserError(
            f"{where}: nothing is said by '{shown(agent)}', so no turn can have its thumbs: check the roles"
        )
    mine[-1]["thumbs"] = thumbs


READERS: dict[Form, Callable[[str | Path], Iterator[Dialogue]]] = {
    "casino": from_casino,
    "deal": from_deal_or_no_deal,
    "messages": from_messages,
}
