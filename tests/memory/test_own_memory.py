"""A memory of one's own by the name `module:Class`: trained, resumed, loaded, exported, compared, refused."""

import itertools
import json
import os
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from own_ema import EMA

import seqrl
from seqrl.cli import exporting, main
from seqrl.comparison.plot import OWN, _look
from seqrl.comparison.report import Comparison, Row
from seqrl.memory import LinearAttention, make_memory
from seqrl.memory.make import MEMORIES, simplicity

# "brain" is a name that rich's tables would make an emoji of: `impala:brain:Ema`.
BRAIN = (
    EMA
    + """

class Half(Ema):
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size // 2)


class Locked(Ema):
    def __init__(self, input_size, hidden_size):
        {}["door"]


class Unlike(Ema):
    def __init__(self, size):
        super().__init__(size, size)


class Unfinished(Memory):
    pass


class Sized(Ema):
    def __init__(self, input_size, hidden_size, state_size=4, rate=0.1):
        super().__init__(input_size, hidden_size)
        self.state_size = state_size
        self.read, self.linear = nn.Linear(input_size, state_size), nn.Linear(state_size, hidden_size)

    def initial_state(self, batch_size):
        return self.linear.weight.new_zeros(batch_size, self.state_size)

    def unroll(self, x, state, is_first):
        return super().unroll(self.read(x), state, is_first)


class Anything(Ema):
    def __init__(self, input_size, hidden_size, **settings):
        super().__init__(input_size, hidden_size)
        self.settings = settings


linear = nn.Linear
"""
)
DOOR = BRAIN.splitlines().index('        {}["door"]') + 1
TINY = ["--env-kwargs", "length=3", "--num-envs", "4", "--rollout-length", "8", "--hidden-size", "8"]
PPO = ["train", "ppo", "--env", "seqrl/TMaze-v0", *TINY, "--num-epochs", "1", "--num-minibatches", "2"]


pytestmark = pytest.mark.usefixtures("forked_comparisons")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with modules, found as with PYTHONPATH=. (also by the processes of comparisons)."""
    for name, text in {"brain": BRAIN, "raises": "{}['door']", "needs": "import nowhere"}.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("brain", "raises", "needs"):
        monkeypatch.delitem(sys.modules, name, raising=False)


# Breaks if `default_run_dir` keeps the colon, or the config's name is not the one that is made again.
def test_trained_resumed_loaded_and_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert main([*PPO, "--memory", "brain:Ema", "--num-steps", "128"]) == 0
    whole = Path("runs/seqrl-TMaze-v0_brain-Ema_s0")
    assert json.loads((whole / "config.json").read_text())["memory"] == "brain:Ema"
    short = [*PPO, "--memory", "brain:Ema", "--learning-rate-schedule", "constant", "--run-dir"]
    assert main([*short, "straight", "--num-steps", "128"]) == 0
    assert main([*short, "halved", "--num-steps", "64"]) == 0
    assert main(["train", "--resume", "halved", "--num-steps", "128"]) == 0
    straight, halved = seqrl.load("straight"), seqrl.load("halved")
    assert type(halved.memory).__name__ == "Ema"
    for one, other in zip(straight.parameters(), halved.parameters(), strict=True):
        assert torch.equal(one, other)
    assert main(["evaluate", "halved", "--num-episodes", "2"]) == 0
    assert set(halved.act(torch.zeros(2, 3).numpy())) <= {0, 1, 2, 3}
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(exporting, "export_run", partial(exporting.export_run, num_steps=50))
    assert main(["export", "halved"]) == 0


# Breaks if `Approach.folder` keeps the colon, `COLOURS[row.memory]` or `MEMORIES.index` is back, or with emoji.
def test_compared(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["compare", "seqrl/TMaze-v0", *TINY, "--num-steps", "64", "--num-seeds", "1", "--num-episodes", "2"]
    args += ["--num-minibatches", "2", "--run-dir", "compared", "--override", "ppo:brain:Ema.num_epochs=1"]
    assert main([*args, "--approaches", "ppo:none", "ppo:brain:Ema", "impala:brain:Ema"]) == 0
    assert "impala:brain:Ema" in capsys.readouterr().out
    runs = {folder.name for folder in Path("compared").iterdir() if folder.is_dir()}
    assert runs == {"none_s0", "brain-Ema_s0", "impala_brain-Ema_s0"}
    assert json.loads(Path("compared/brain-Ema_s0/config.json").read_text())["num_epochs"] == 1
    assert json.loads(Path("compared/impala_brain-Ema_s0/config.json").read_text())["memory"] == "brain:Ema"


# Breaks if `simplicity` gives 0 for unknown names, or all of one's own have the first colour.
def test_own_memories_come_last_and_have_colours_of_their_own() -> None:
    assert sorted(["brain:Ema", *reversed(MEMORIES)], key=simplicity) == [*MEMORIES, "brain:Ema"]
    names = ["a:A", "gru", "b:B", "c:C", "d:D"]
    values = {"mean": 0.0, "half_width": 0.0, "seed_means": [0.0], "steps_per_second": 1.0, "num_parameters": 1}
    values |= {"seconds": 1.0, "best_run": "", "curves": []}
    rows = [Row(approach=f"ppo:{name}", memory=name, **values) for name in names]
    result = Comparison(env="", num_steps=1, num_episodes=2, optimal=None, memoryless=None, rows=rows)
    colours = [_look(result, row)[0] for row in rows if row.memory != "gru"]
    assert colours == list(itertools.islice(itertools.cycle(OWN), 4))


REFUSED = [
    ("brain:Emma", "brain has no 'Emma': did you mean 'Ema'?"),
    ("raises:Ema", "raises cannot be imported (KeyError: 'door', raises.py line 1): mend it"),
    ("needs:Ema", "needs cannot be imported (ModuleNotFoundError: No module named 'nowhere', needs.py line 1)"),
    ("nowhere:Ema", "there is no module 'nowhere'; one in this folder is found with PYTHONPATH=."),
    ("brain.inner:Ema", "there is no module 'brain.inner'"),
    ("brain.py:Ema", "there is no module 'brain.py'; call it brain:Ema; one in this folder is found with PYTHONPATH=."),
    ("./brain.py:Ema", "no module './brain.py'; call it brain:Ema; one in this folder is found with PYTHONPATH=."),
    ("inner/brain:Ema", "no module 'inner/brain'; call it brain:Ema; one in inner is found with PYTHONPATH=inner"),
    ("nowhere.py:Ema", "no module 'nowhere.py'; call it nowhere:Ema; one in this folder is found with PYTHONPATH=."),
    ("torch.nn.functional:Ema", "torch.nn.functional has no 'Ema': it has no subclass of seqrl.memory.Memory"),
    ("brain:linear", "is no subclass of seqrl.memory.Memory"),
    (
        "brain:Locked",
        f"cannot be made (KeyError: 'door', brain.py line {DOOR}): it is called as Locked(input_size=8, hidden_size=8",
    ),
    ("brain:Unlike", "cannot be made (TypeError: Unlike.__init__() got an unexpected keyword argument 'input_size')"),
    ("brain:Unfinished", "Can't instantiate abstract class Unfinished"),
    ("brain:Half", "has input_size 8 and output_size 4: set them to"),
    ("brain:", "unknown memory 'brain:' ({}): known: frame_stack"),
    (":Ema", "unknown memory ':Ema' ({}): known: frame_stack"),
    ("gruu", "unknown memory 'gruu' ({}): did you mean 'gru'?"),
]  # fmt: skip


# Breaks where `_make_own` or `_import` lacks the clause that the message comes from, or `check` does not build.
@pytest.mark.parametrize(("name", "message"), REFUSED, ids=[name for name, _ in REFUSED])
def test_refused_before_there_is_a_folder(name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    compare = ["compare", "seqrl/TMaze-v0", *TINY]
    for args, flag in [
        ([*PPO, "--memory", name], "--memory"),
        ([*compare, "--memories", "none", name], "--memories"),
        ([*compare, "--approaches", "ppo:none", f"impala:{name}"], f"--approaches impala:{name}"),
    ]:
        before = set(os.listdir())
        assert main(args) == 2
        out, err = capsys.readouterr()
        assert message.format(flag) in err
        assert err.count("\n") == 1
        assert out == ""
        assert set(os.listdir()) - {"__pycache__"} == before - {"__pycache__"}


# Breaks if the class is called with positions, or with ours' options.
def test_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    import brain

    assert make_memory("brain:Anything", 3, 5, kwargs={"rate": 0.5}).settings == {"rate": 0.5}
    called, init = [], brain.Ema.__init__
    monkeypatch.setattr(brain.Ema, "__init__", lambda self, **sizes: called.append(sizes) or init(self, **sizes))
    memory = make_memory("brain:Ema", 3, 5, num_frames=2, memory_horizon=9)
    assert called == [{"input_size": 3, "hidden_size": 5}]
    assert memory.stores_state


# Breaks where `make_agent` does not pass `memory_kwargs`, or the list is not split at commas.
def test_arguments_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    sized = [*PPO, "--memory", "brain:Sized", "--num-steps", "64", "--learning-rate-schedule", "constant"]
    assert main([*sized, "--memory-kwargs", "state_size=7,rate=0.5", "--run-dir", "run"]) == 0
    assert json.loads(Path("run/config.json").read_text())["memory_kwargs"] == ["state_size=7", "rate=0.5"]
    assert main(["train", "--resume", "run", "--num-steps", "96"]) == 0
    assert seqrl.load("run").memory.state_size == 7
    assert main(["evaluate", "run", "--num-episodes", "2"]) == 0
    monkeypatch.setattr(exporting, "export_run", partial(exporting.export_run, num_steps=50))
    assert main(["export", "run", "--format", "torch"]) == 0


# Breaks where `memory_kwargs` has no default: folders of before have no such setting.
def test_a_run_of_before_there_were_arguments() -> None:
    assert main([*PPO, "--memory", "brain:Sized", "--num-steps", "32", "--run-dir", "run"]) == 0
    config = json.loads(Path("run/config.json").read_text())
    del config["memory_kwargs"]
    Path("run/config.json").write_text(json.dumps(config))
    assert seqrl.load("run").memory.state_size == 4


# Breaks where `settings_of` gives them to ours too, which take none, or to PPO alone.
def test_arguments_in_comparisons(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["compare", "seqrl/TMaze-v0", *TINY, "--num-steps", "64", "--num-seeds", "1", "--num-episodes", "2"]
    args += ["--num-minibatches", "2", "--memory-kwargs", "state_size=5"]
    args += ["--override", 'ppo:brain:Sized.memory_kwargs=["state_size=6"]', "--run-dir", "compared"]
    assert main([*args, "--approaches", "ppo:none", "ppo:brain:Sized", "impala:brain:Sized"]) == 0
    for run, expected in {
        "none_s0": [],
        "brain-Sized_s0": ["state_size=6"],
        "impala_brain-Sized_s0": ["state_size=5"],
    }.items():
        assert json.loads(Path(f"compared/{run}/config.json").read_text())["memory_kwargs"] == expected
    capsys.readouterr()
    assert main([*args[:-4], "--memories", "none", "gru"]) == 2
    assert "these are for memories of your own, and none is compared" in capsys.readouterr().err


# Breaks where `make_memory` does not pass them.
def test_arguments_of_ours() -> None:
    assert make_memory("transformer", 8, 8, kwargs={"num_layers": 3, "num_heads": 2, "window": 5}).window == 5
    memory = make_memory("linear_attention", 8, 8, kwargs={"num_layers": 2, "num_heads": 2, "key_size": 3})
    assert isinstance(memory, LinearAttention)


# Breaks where `_check_keywords` or `_check_settings_of_ours` lacks the clause of the message.
@pytest.mark.parametrize(
    ("name", "pair", "message"),
    [
        (
            "brain:Sized",
            "stat_size=3",
            "'brain:Sized' has no argument 'stat_size' (--memory-kwargs): did you mean 'state_size'?",
        ),
        ("brain:Ema", "state_size=3", "has no argument 'state_size' (--memory-kwargs): it takes the sizes alone"),
        (
            "brain:Sized",
            "hidden_size=3",
            "--memory-kwargs hidden_size: the sizes of a memory are given by --hidden-size",
        ),
        ("brain:Sized", "state_size=x", "input_size=8, hidden_size=8, state_size='x')"),
        ("brain:Sized", "state_size", "--memory-kwargs 'state_size' is not KEY=VALUE"),
        (
            "gru",
            "size=3",
            "has no argument 'size' (--memory-kwargs), its flags are --hidden-size and --memory-horizon: leave",
        ),
        ("frame_stack", "num_frames=3", "its flags are --hidden-size and --num-frames: leave it out"),
        ("none", "size=3", "its flags are --hidden-size: leave it out"),
        ("transformer", "num_layer=3", "did you mean 'num_layers'?"),
        ("transformer", "num_layers=true", "--memory-kwargs num_layers=True: it must be a whole number"),
        ("transformer", "num_layers=0", "num_layers is 0 in Transformer: give at least 1"),
    ],
)
def test_arguments_that_are_none(name: str, pair: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PPO, "--num-steps", "64", "--memory", name, "--memory-kwargs", pair]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not Path("runs").exists()
