"""The kernels' ground truth: one step after the other, as the equations stand."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def gru(
    x: Float[Tensor, "T B D"],
    h0: Float[Tensor, "B H"],
    is_first: Bool[Tensor, "T B"],
    w_ih: Float[Tensor, "G D"],
    w_hh: Float[Tensor, "G H"],
    b_ih: Float[Tensor, " G"],
    b_hh: Float[Tensor, " G"],
) -> tuple[Float[Tensor, "T B H"], Float[Tensor, "B H"]]:
    """The GRU of `seqrl.memory.kernels.gru`, step by step."""
    h, outputs = h0, []
    for x_t, is_first_t in zip(x, is_first, strict=True):
        h = torch.where(is_first_t[:, None], 0.0, h)
        i_r, i_z, i_n = (x_t @ w_ih.T + b_ih).chunk(3, dim=1)
        h_r, h_z, h_n = (h @ w_hh.T + b_hh).chunk(3, dim=1)
        r, z = torch.sigmoid(i_r + h_r), torch.sigmoid(i_z + h_z)
        n = torch.tanh(i_n + r * h_n)
        h = (1 - z) * n + z * h
        outputs.append(h)
    return torch.stack(outputs), h


def lstm(
    x: Float[Tensor, "T B D"],
    h0: Float[Tensor, "B H"],
    c0: Float[Tensor, "B H"],
    is_first: Bool[Tensor, "T B"],
    w_ih: Float[Tensor, "G D"],
    w_hh: Float[Tensor, "G H"],
    b_ih: Float[Tensor, " G"],
    b_hh: Float[Tensor, " G"],
) -> tuple[Float[Tensor, "T B H"], Float[Tensor, "B H"], Float[Tensor, "B H"]]:
    """The LSTM of `seqrl.memory.kernels.lstm`, step by step."""
    h, c, outputs = h0, c0, []
    for x_t, is_first_t in zip(x, is_first, strict=True):
        h, c = torch.where(is_first_t[:, None], 0.0, h), torch.where(is_first_t[:, None], 0.0, c)
        i, f, g, o = (x_t @ w_ih.T + b_ih + h @ w_hh.T + b_hh).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        outputs.append(h)
    return torch.stack(outputs), h, c
