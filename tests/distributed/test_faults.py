"""Actors killed again and again under a whole training run. Slow: two minutes for each engine."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

MINUTES, EVERY = 2.0, 5.0


def actors(run):
    """Process ids of the actors of a training run, whose processes are those of its session."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if not folder.name.isdigit() or os.getsid(int(folder.name)) != run.pid:
                continue
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:  # gone in the meantime
            continue
        if b"spawn_main" in words or b"_RemoteActor" in words:
            found.append(int(folder.name))
    return sorted(found)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="finds processes under /proc")
@pytest.mark.parametrize("engine", ["async", "ray"])
def test_the_learner_goes_on_while_actors_are_killed(engine, tmp_path):
    """One of two actors every five seconds: the learner never stops, they come back, and all is counted."""
    if engine == "ray":
        pytest.importorskip("ray")
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "seqrl.cli", "train", "masked_cartpole_impala", "--engine", engine]
    command += ["--num-steps", "1000000000", "--run-dir", str(folder)]
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        metrics = folder / "metrics.jsonl"
        while not (metrics.exists() and metrics.stat().st_size):
            assert run.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
        killed, steps, end = 0, [], time.monotonic() + 60 * MINUTES
        while time.monotonic() < end:
            time.sleep(EVERY)
            assert run.poll() is None, (tmp_path / "log").read_text()
            steps.append(json.loads(metrics.read_text().splitlines()[-1])["step"])
            alive = actors(run)
            if alive:
                os.kill(alive[killed % len(alive)], signal.SIGKILL)
                killed += 1
        time.sleep(2 * EVERY)
        last = json.loads(metrics.read_text().splitlines()[-1])
    finally:
        run.send_signal(signal.SIGINT)
        run.wait(60)
        subprocess.run(["pkill", "-9", "-s", str(run.pid)], check=False)
    print(f"{engine}: {killed} killed, {last['actors_restarted']:.0f} restarted, steps {steps}")
    assert killed > 60 * MINUTES / EVERY / 2
    assert killed - 2 <= last["actors_restarted"] <= killed
    assert last["trajectories_lost"] == last["actors_restarted"]
    assert len(set(steps)) > 0.8 * len(steps)  # it went on between nearly any two kills
    resumed = subprocess.run([sys.executable, "-m", "seqrl.cli", "train", "--resume", str(folder), "--num-steps",
                              str(last["step"] + 20_000)], capture_output=True, text=True, timeout=120)  # fmt: skip
    assert resumed.returncode == 0, resumed.stderr
