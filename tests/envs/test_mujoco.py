"""What MuJoCo says of Gymnasium's own models is not passed on to who trains; all else is."""

import contextlib
from pathlib import Path

import gymnasium
import pytest

from seqrl.envs import make
from seqrl.envs.mujoco import without_advice_on_models

mujoco = pytest.importorskip("mujoco", reason="seqrl[mujoco] is not installed")
MODEL = Path(str(gymnasium.__file__)).parent / "envs" / "mujoco" / "assets" / "half_cheetah.xml"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# Breaks without `without_advice_on_models` in `make`: two lines for each environment, and a file in the folder.
@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_model_of_gymnasiums_is_read_in_silence(vectorization, capfd):
    with contextlib.closing(make("HalfCheetah-v5", 2, vectorization=vectorization)) as env:
        env.reset(0)
    assert "settotalmass" not in capfd.readouterr().err
    assert not Path("MUJOCO_LOG.TXT").exists()
    assert mujoco.get_mju_user_warning() is None


# Breaks if `xml_file` is not looked at.
@pytest.mark.skipif(int(mujoco.__version__.partition(".")[0]) < 4, reason="deprecates nothing of this model")
def test_of_a_model_of_ones_own_is_warned(tmp_path, capfd):
    own = tmp_path / "own.xml"
    own.write_text(MODEL.read_text())
    make("HalfCheetah-v5", 1, env_kwargs={"xml_file": str(own)}).close()
    assert "'settotalmass' is deprecated" in capfd.readouterr().err


# Breaks if everything is kept silent.
def test_other_warnings_are_said(capfd):
    with without_advice_on_models(gymnasium.spec("HalfCheetah-v5"), {}):
        mujoco.get_mju_user_warning()("Nan, Inf or huge value in QACC at DOF 0.")
    assert capfd.readouterr().err == "WARNING: Nan, Inf or huge value in QACC at DOF 0.\n"
    assert "huge value" in Path("MUJOCO_LOG.TXT").read_text()
