"""The command line. Each command is a function of its words that returns the exit status, with a dataclass of flags.

A new command: a function in a module here, its entry in `COMMANDS`, its line in `USAGE`.
"""

import errno
import io
import os
import pkgutil
import select
import sys
from collections.abc import Sequence

import seqrl
from seqrl.cli.usage import print_usage
from seqrl.errors import UserError, nearest
from seqrl.interrupt import ends_on_interrupt
from seqrl.visible import visible

COMMANDS = {
    "train": "training:train",
    "evaluate": "evaluation:evaluate",
    "report": "reporting:report",
    "inspect": "inspection:inspect",
    "compare": "comparison:compare",
    "collect": "collecting:collect",
    "import": "datasets:import_",
    "export": "exporting:export",
    "audit": "datasets:audit",
    "reward": "rewarding:reward",
    "calibrate": "calibration:calibrate",
    "adapt": "adaptation:adapt",
    "chat": "chatting:chat",
    "label": "labelling:label",
    "frontier": "shipping:frontier",
    "turns": "shipping:turns",
    "ship": "shipping:ship",
    "actors": "actors:actors",
    "envs": "environments:envs",
}
"""Where each stands. What a command imports is imported for it alone: some draw, by what takes a second to import."""

TRAINS = ("train", "compare")
"""Commands that begin run folders."""

ALSO_CALLED = {
    "list": "envs",
    "environments": "envs",
    "eval": "evaluate",
    "test": "evaluate",
    "play": "evaluate",
    "plot": "report",
    "resume": "train --resume",
    "run": "train",
    "version": "--version",
}
"""Words that other programs have for a command of ours."""

UNREAD = 128 + 13
"""The exit status of a tool that SIGPIPE ends, such as in `seqrl envs | head -1`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, 2 for bad input, 130 after Ctrl-C, 141 where nobody reads on.

    `seqrl audit` has 1 besides, for a dataset in which something is wrong, and `seqrl ship` for what should not ship.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed before we began, as by `>&-`
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  (for as long as we run)
    try:
        status = _run(arguments)
        sys.stdout.flush()  # what is still kept would else fail when Python ends
        return status
    except BrokenPipeError:
        if not _nobody_reads():  # a pipe of ours, to an actor
            raise
        return UNREAD
    except SystemExit as stop:
        if not isinstance(stop.__context__, BrokenPipeError):
            raise
        _nobody_reads()
        return UNREAD  # rich found it out while it printed a table, and would end with 1


def _nobody_reads() -> bool:
    """Whether what we print goes nowhere any more; then it is thrown away from here on, so that nothing else fails."""
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        poll.register(stream, 0)  # errors alone are asked for: that a pipe's other end is closed
    closed = [file for file, event in poll.poll(0) if event & select.POLLERR]
    for file in closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), file)
    return bool(closed)


def _run(arguments: Sequence[str] | None) -> int:
    args = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ± or … shows ? instead
    asks = bool(args) and args[0] in ("-h", "--help", "help")
    if not args or (asks and len(args) == 1):
        print_usage()
        return 0
    if asks:  # seqrl help train
        args = [*args[1:], "--help"]
    if args[0] == "--version":
        print(f"seqrl {seqrl.__version__}")
        return 0
    try:
        if args[0] not in COMMANDS:
            meant = ALSO_CALLED.get(args[0].lower())
            hint = f"did you mean '{meant}'?" if meant else nearest(args[0], COMMANDS)
            raise UserError(f"unknown command '{args[0]}': {hint}")
        with ends_on_interrupt():
            command = pkgutil.resolve_name(f"seqrl.cli.{COMMANDS[args[0]]}")
        return command(args[1:])
    except UserError as error:
        print(f"seqrl: {visible(str(error))}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            way_out = "free some space; a run keeps its last checkpoint, continue with --resume"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG):
            way_out = "choose another place, or change what is there"
        else:
            raise
        where = f" at {error.filename}" if error.filename else ""
        print(f"seqrl: {visible(f'{error.strerror}{where}')}: {way_out}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        way_on = "; a run folder that was begun can be continued with --resume" if args[0] in TRAINS else ""
        print(f"seqrl: {visible(str(stop)) or f'interrupted{way_on}'}", file=sys.stderr)
        return 130
