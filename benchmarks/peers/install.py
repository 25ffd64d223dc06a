"""Installs peers, each into an environment of its own, so that no library's needs bend another's.

python -m benchmarks.peers.install                # all
python -m benchmarks.peers.install sb3_contrib    # some of them
"""

import argparse
import subprocess
import venv

from benchmarks.peers import ENVIRONMENTS, HERE, PEERS, python


def install(peer: str) -> None:
    """Make `.peers/PEER` anew, with exactly what `benchmarks/peers/PEER.txt` pins."""
    venv.create(ENVIRONMENTS / peer, clear=True, with_pip=True)
    subprocess.run([python(peer), "-m", "pip", "install", "--quiet", "-r", HERE / f"{peer}.txt"], check=True)
    print(f"{peer}: installed", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", nargs="*", metavar="peer", help=f"which of {', '.join(PEERS)}; all by default")
    names = parser.parse_args().peers
    if unknown := set(names) - set(PEERS):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}")
    for peer in names or PEERS:
        install(peer)


if __name__ == "__main__":
    main()
