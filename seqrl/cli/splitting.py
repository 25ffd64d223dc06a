"""seqrl audit --keep-good, --held-out: what a log of dialogues is parted into."""

import hashlib
from pathlib import Path

from seqrl.audit import Audit
from seqrl.config import require
from seqrl.data.dialogues import Dialogue, numbered_dialogues, shown, write_dialogues
from seqrl.data.held_out import together


def check_parts(keep_good: str, held_out: str, share: float, output: str) -> None:
    """Raise UserError, before anything is read, for files that cannot be written."""
    require(bool(keep_good) or not held_out, "--held-out without --keep-good: name a file for the others too")
    require(0 < share < 1, f"--share is {share}: it must be above 0 and below 1")
    for flag, name in (("--keep-good", keep_good), ("--held-out", held_out)):
        require(
            not name or not Path(name).exists(), f"{shown(name, 1000)} exists already ({flag}): choose another file"
        )
        require(Path(name).parent.is_dir(), f"{shown(name, 1000)} is in no folder that exists ({flag}): make it")
    names = [Path(name).resolve() for name in (keep_good, held_out, output) if name]
    require(len({*names}) == len(names), "--keep-good, --held-out and --output: name another file for each")


def write_good(result: Audit, keep_good: str, held_out: str, share: float) -> str:
    """Write the dialogues that nothing is wrong with, and say how many. Raises UserError where a part has none."""
    good = [each for line, each in numbered_dialogues(result.folder) if line not in result.bad_lines]
    require(bool(good), "something is wrong with every dialogue: mend the log, none is good as it is")
    removed, parts = len(result.bad_lines), {keep_good: good}
    if held_out:
        parts = {
            keep_good: [each for each in good if not is_held_out(each, share)],
            held_out: [each for each in good if is_held_out(each, share)],
        }
    few = f"one of the two files would have none of {len(good):,} good dialogues: give another --share"
    require(all(parts.values()), few)
    said = [f"{shown(name, 1000)}: {write_dialogues(name, part):,} dialogues" for name, part in parts.items()]
    left = [each.kind for each in result.findings if each.severity == "wrong" and not each.lines]
    rest = f" Wrong with the log as a whole, and still so: {', '.join(left)}." if left else ""
    return f"{'; '.join(said)}; {removed:,} left out.{rest}"


def is_held_out(dialogue: Dialogue, share: float) -> bool:
    """By a hash of what is said, so that copies stay together, or of what it has in common with others that belong
    together."""
    said = [dialogue.agent, *((turn.speaker, turn.text) for turn in dialogue.turns)]
    common = together(dialogue)
    content = repr(said) if common is None else common
    digest = hashlib.blake2b(content.encode(), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64
