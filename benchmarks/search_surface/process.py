"""A Gaussian process for a few hundred noisy measurements of thirty numbers.

Rasmussen & Williams, Gaussian Processes for Machine Learning (2006), chapters 2 and 5. The kernel is a sum of one smooth
function per feature (Duvenaud, Nickisch & Rasmussen, NeurIPS 2011, first order) and one of all features together, each
feature with lengths of its own. Scales are the maximum a posteriori: log-normal priors keep three numbers per
feature honest. Torch is imported where it is used, for its gradients alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
KERNELS = ("both", "additive", "joint")

# (median, spread of the logarithm) of lengths, in steps; ranges are 4 to 10 steps wide.
_LENGTH, _JOINT_LENGTH = (3.0, 0.7), (8.0, 0.8)
_EFFECT_SPREAD = 1.0  # of the logarithm of a feature's effect: most have next to none, a few ten times the median
_STEPS = 120  # of L-BFGS; the objective is flat to 0.01 nats after 80


@dataclass(frozen=True)
class Process:
    """A fitted process. `additive` [features, 2] holds amplitude and length of each feature's own function; `joint`
    [features] the lengths of the common one, `joint_amplitude` its size; `weights` [n] the dual coefficients.
    """

    x: Array
    weights: Array
    mean: float
    additive: Array
    joint: Array
    joint_amplitude: float
    noise: float
    theta: Array  # where the optimizer ended: a start for a fit to nearly the same rows

    def predict(self, x: Array) -> Array:
        """Mean at each row of x [k, features] -> [k]."""
        apart = (x[:, None, :] - self.x[None, :, :]) ** 2  # [k, n, features]
        own = (self.additive[:, 0] ** 2 * np.exp(-0.5 * apart / self.additive[:, 1] ** 2)).sum(axis=-1)
        distance = (apart / self.joint**2).sum(axis=-1)
        kernel = own + self.joint_amplitude**2 * np.exp(-0.5 * distance)
        return np.asarray(self.mean + kernel @ self.weights)


def fit_process(
    x: Array,
    y: Array,
    *,
    effect: float,
    noise: tuple[float, float],
    kernel: str = "both",
    start: Process | None = None,
) -> Process:
    """The process through y [n] at x [n, features].

    effect: median of the prior of one feature's amplitude, in y's unit. noise: the prior of one measurement's
    standard deviation, median and spread of its logarithm. start: begin the search for the scales at another's.
    """
    import torch

    torch.set_num_threads(1)
    num, width = x.shape
    given, told = torch.tensor(x), torch.tensor(y)
    apart = (given[:, None, :] - given[None, :, :]) ** 2
    amplitude = (effect, _EFFECT_SPREAD)
    priors = [amplitude] * width + [_LENGTH] * width + [_JOINT_LENGTH] * width + [amplitude, noise]
    centre = torch.tensor([math.log(median) for median, _ in priors], dtype=torch.float64)
    spread = torch.tensor([spread for _, spread in priors], dtype=torch.float64)
    # in spreads from the median
    theta = torch.tensor(start.theta if start else np.zeros(len(priors)), dtype=torch.float64, requires_grad=True)
    ones = torch.ones(num, 1, dtype=torch.float64)

    def parts() -> tuple[torch.Tensor, ...]:
        found = (centre + spread * theta).exp()
        return found[:width], found[width : 2 * width], found[2 * width : 3 * width], found[-2], found[-1]

    def solved() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        own, length, joint, common, error = parts()
        matrix = (error**2 + 1e-8) * torch.eye(num, dtype=torch.float64)
        if kernel in ("both", "additive"):
            matrix = matrix + torch.exp(-0.5 * apart / length**2) @ own**2
        if kernel in ("both", "joint"):
            matrix = matrix + common**2 * torch.exp(-0.5 * (apart @ joint**-2))
        chol = torch.linalg.cholesky(matrix)
        mean = (ones.T @ torch.cholesky_solve(told[:, None], chol)) / (ones.T @ torch.cholesky_solve(ones, chol))
        return chol, mean.squeeze(), torch.cholesky_solve(told[:, None] - mean, chol).squeeze(1)

    def loss() -> float:
        optimizer.zero_grad()
        chol, mean, dual = solved()
        likelihood = 0.5 * ((told - mean) @ dual) + chol.diagonal().log().sum()
        value = likelihood + 0.5 * (theta**2).sum()
        value.backward()
        return float(value.detach())

    optimizer = torch.optim.LBFGS([theta], max_iter=_STEPS, line_search_fn="strong_wolfe", tolerance_change=1e-5)
    optimizer.step(loss)
    with torch.no_grad():
        _, mean, dual = solved()
        own, length, joint, common, error = parts()
    return Process(
        x=x,
        weights=dual.numpy(),
        mean=float(mean),
        additive=np.stack([own.numpy() * (kernel != "joint"), length.numpy()], axis=1),
        joint=joint.numpy(),
        joint_amplitude=float(common) * (kernel != "additive"),
        noise=float(error),
        theta=theta.detach().numpy().copy(),
    )
