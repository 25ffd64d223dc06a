"""When the Triton kernels take the place of the plain ones."""

import functools

import torch
from jaxtyping import Float
from torch import Tensor

# With more the weights of one piece no longer fit (see `triton_common.plan_for`). Other types are not written for.
MAX_UNITS = {torch.float32: 256, torch.bfloat16: 512, torch.float16: 512}


def triton_serves(w_hh: Float[Tensor, "G H"]) -> bool:
    """Whether `triton_gru` and `triton_lstm` can run, and are worth it, for these recurrent weights."""
    if not w_hh.is_cuda:
        return False
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else w_hh.dtype
    return w_hh.shape[1] <= MAX_UNITS.get(dtype, 0) and _triton_runs(w_hh.device)


@functools.cache
def _triton_runs(device: torch.device) -> bool:
    """Whether Triton is there, compiles, and finds an NVIDIA GPU of the Ampere generation (8.0) or later."""
    if torch.version.cuda is None or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    try:
        from triton.runtime import driver

        driver.active.get_current_target()  # builds its driver: fails where there is no C compiler
    except Exception:  # whatever it is, the plain kernels serve
        return False
    return True
