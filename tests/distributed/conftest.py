"""What starts slowly is started once: one Ray for all tests in a row that need it, and learners from one server."""

import os

import pytest

from seqrl.distributed import launch


@pytest.fixture(scope="module")
def quick_start(forked_context):
    """Learners are forked from a process that has imported everything, and done nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "START", "forkserver")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture
def local_ray():
    """Ray on this machine; its workers find the tests' modules."""
    ray = pytest.importorskip("ray", reason="seqrl[ray] is not installed")
    if ray.is_initialized():
        return
    here = os.path.dirname(__file__)
    path = os.pathsep.join([here, os.path.dirname(here), os.environ.get("PYTHONPATH", "")])
    with pytest.MonkeyPatch.context() as patch:  # a runtime environment would begin each worker twice
        patch.setenv("PYTHONPATH", path)
        ray.init("local", num_cpus=4, object_store_memory=10**8, include_dashboard=False, log_to_driver=False)


def pytest_runtest_teardown(item, nextitem):
    """Ray ends with the last of them."""
    if "local_ray" in item.fixturenames and (nextitem is None or "local_ray" not in nextitem.fixturenames):
        import ray

        ray.shutdown()
