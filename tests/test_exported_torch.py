"""A .pt2 file is read only where nothing in it is unpickled or evaluated."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable

import pytest

from seqrl.errors import UserError
from seqrl.export import export_agent
from seqrl.exported import from_bytes
from tests.exported_agents import NUMBERS, agent, observations

MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("exported") / "agent.pt2"
    export_agent(agent("none"), path, "torch", num_steps=20)
    return path.read_bytes()


def changed(contents: bytes, name: str, change: Callable[[bytes], bytes]) -> bytes:
    """The archive with the entry `name` changed, or added."""
    source, target = zipfile.ZipFile(io.BytesIO(contents)), io.BytesIO()
    names = [entry for entry in source.namelist() if not entry.endswith(name)]
    with zipfile.ZipFile(target, "w") as archive:
        for entry in names:
            archive.writestr(entry, source.read(entry))
        root = names[0].partition("/")[0]
        whole = f"{root}/{name}"
        archive.writestr(whole, change(source.read(whole) if whole in source.namelist() else b""))
    return target.getvalue()


def test_acts_as_the_agent(contents: bytes) -> None:
    exported, made = from_bytes(contents), agent("none")
    for (o,) in observations(NUMBERS, 10, 1):
        assert made.act(o, reward=1) == exported.act(o, reward=1)


def in_json(change: Callable[[dict], object]) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        tree = json.loads(data)
        change(tree)
        return json.dumps(tree).encode()

    return edit


def pickled_weight(tree: dict) -> None:
    next(iter(tree["config"].values()))["use_pickle"] = True


def first_node(**fields: str) -> Callable[[dict], object]:
    return lambda tree: tree["graph_module"]["graph"]["nodes"][0].update(fields)


def in_spec(tree: dict) -> None:
    signature = tree["graph_module"]["module_call_graph"][0]["signature"]
    signature["in_spec"] = signature["in_spec"].replace("builtins.tuple", "os.system", 1)


# Golden: each is the one thing that `_checked` no longer refuses if the line that looks for it is taken out.
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("data/sample_inputs/model.pt", lambda _: pickle.dumps([]), "pickled example inputs"),
        ("data/weights/model.pt", lambda _: pickle.dumps([]), "it holds 'agent/data/weights/model.pt'"),
        ("data/constants/opaque_obj_0", lambda _: pickle.dumps([]), "opaque_obj_0"),
        ("data/aotinductor/model/kernel.so", lambda _: b"", "kernel.so"),
        (WEIGHTS, in_json(pickled_weight), "is pickled"),
        (MODEL, in_json(first_node(target="torch.hub.load")), "the function 'torch.hub.load'"),
        (MODEL, in_json(first_node(target="torch.ops.aten.__class__")), "__class__"),
        (MODEL, in_json(first_node(expr_str="__import__('os').abort()")), "the shape"),
        (MODEL, in_json(lambda tree: tree["guards_code"].append("print(1)")), "the guard 'print(1)'"),
        (MODEL, in_json(in_spec), "the type 'os.system'"),
    ],
)
def test_refuses_what_could_run_code(
    contents: bytes, name: str, change: Callable[[bytes], bytes], message: str
) -> None:
    with pytest.raises(UserError) as error:
        from_bytes(changed(contents, name, change), "x.pt2")
    text = str(error.value).replace("archive/", "agent/")
    assert message in text
    assert "could run code" in text


def test_a_file_that_is_cut_short_is_damaged(contents: bytes) -> None:
    with pytest.raises(UserError, match="damaged"):
        from_bytes(contents[: len(contents) // 2])
