"""Installs peers, each into an environment of its own, so that no library's needs bend another's.

python -m benchmarks.peers.install                # all
python -m benchmarks.peers.install sb3_contrib    # some of them

CORL is no package: its file is taken from a clone of its repository, which the variable CORL_GIT names:

git clone https://github.com/tinkoff-ai/CORL ../CORL && CORL_GIT=../CORL python -m benchmarks.peers.install corl
"""

import argparse
import os
import subprocess
import sys
import venv

from benchmarks.peers import ENVIRONMENTS, HERE, PEERS, python

FILES = {"corl": ("CORL_GIT", "6afec90484bbf47dee05fdf525e26a3ebe028e9b", "algorithms/offline/dt.py")}
"""By peer that is no package: the variable that names a clone, the commit, and the file that its script runs."""


def install(peer: str) -> None:
    """Make `.peers/PEER` anew, with exactly what `benchmarks/peers/PEER.txt` pins."""
    taken = file_of(peer) if peer in FILES else {}
    venv.create(ENVIRONMENTS / peer, clear=True, with_pip=True)
    subprocess.run([python(peer), "-m", "pip", "install", "--quiet", "-r", HERE / f"{peer}.txt"], check=True)
    for name, text in taken.items():
        (ENVIRONMENTS / peer / name).write_bytes(text)
    print(f"{peer}: installed", flush=True)


def file_of(peer: str) -> dict[str, bytes]:
    """The name and the text of `peer`'s file. Raises RuntimeError, with the way out, where there is no clone of it."""
    variable, commit, path = FILES[peer]
    if variable not in os.environ:
        raise RuntimeError(f"{peer} comes from a clone: set {variable} (python -m benchmarks.peers.install --help)")
    command = ["git", "-C", os.environ[variable], "show", f"{commit}:{path}"]
    shown = subprocess.run(command, capture_output=True)
    if shown.returncode:
        raise RuntimeError(f"{variable} holds no {path} of {commit[:7]}: {shown.stderr.decode().strip()}")
    return {path.rpartition("/")[2]: shown.stdout}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", nargs="*", metavar="peer", help=f"which of {', '.join(PEERS)}; all by default")
    names = parser.parse_args().peers
    if unknown := set(names) - set(PEERS):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}")
    problems = []
    for peer in names or PEERS:
        try:
            install(peer)
        except RuntimeError as problem:
            problems.append(str(problem))
    sys.exit("\n".join(problems) or 0)


if __name__ == "__main__":
    main()
