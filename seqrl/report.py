"""What all pictures and tables share: how a mean is written, and a curve made smooth."""

import math

import numpy as np


def mean_and_interval(mean: float, half_width: float) -> str:
    """`mean ± half_width`; without the second where it is NaN, for want of samples."""
    return f"{mean:.4g}" if math.isnan(half_width) else f"{mean:.4g} ± {half_width:.3g}"


def smooth(curve: list[tuple[float, float]], grid: np.ndarray) -> np.ndarray:
    """A curve on a grid of steps, each point the mean of the five updates around it."""
    steps, values = np.array(curve).T
    width = min(5, len(values))
    padded = np.pad(values, (width // 2, width - 1 - width // 2), mode="edge")
    return np.interp(grid, steps, np.convolve(padded, np.ones(width) / width, mode="valid"))
