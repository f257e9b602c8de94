"""Training one network in several processes: each takes a share of every batch, and the step is that of the
whole batch."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.autograd import Function
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Share:
    """Which share of every batch this process trains on.

    Attributes:
        rank: number of this process, in [0, of).
        of: how many processes train together, as members of torch.distributed's default group.
    """

    rank: int = 0
    of: int = 1

    def columns(self, batches: np.ndarray) -> np.ndarray:
        """This process's columns of all batches, (steps, B) -> (steps, ~B/of)."""
        return np.array_split(batches, self.of, axis=1)[self.rank]

    def weight(self, mine: int, batch: int) -> float:
        """Factor of the mean loss over the share, so that gradients averaged over processes are those of the
        mean over the batch."""
        return mine * self.of / batch


WHOLE = Share()


def in_parallel(model: nn.Module, share: Share, device: torch.device) -> nn.Module:
    """The model, whose gradients are averaged over the processes that share a batch.

    Batch norm of the model itself takes its statistics over the whole batch from now on.
    """
    if share.of == 1:
        return model
    if device.type == "cuda":
        from timm.layers.norm_act import convert_sync_batchnorm

        convert_sync_batchnorm(model)
        return DistributedDataParallel(model, device_ids=[device])
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                parent.add_module(name, SharedBatchNorm.like(child))
    return DistributedDataParallel(model)


def is_shareable(model: nn.Module, device: torch.device) -> bool:
    """Whether `in_parallel` reaches every batch norm of a model: on CPUs, only PyTorch's plain one."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return device.type == "cuda" or all(type(m) is nn.BatchNorm2d for m in norms)


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch norm whose mean and variance are those of the batch that all processes share.

    For CPUs; `nn.SyncBatchNorm` is the same on GPUs.
    """

    @classmethod
    def like(cls, norm: nn.BatchNorm2d) -> "SharedBatchNorm":
        """With the parameters and statistics of a plain one; what is done to either is done to both."""
        made = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        made.weight, made.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers(recurse=False):
            made.register_buffer(name, buffer)
        return made.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        values = input.to(self.weight.dtype)
        here = torch.full((1,), values.numel() / values.shape[1], device=values.device)
        sums, count = summed(torch.cat([values.sum((0, 2, 3)), here])).split([values.shape[1], 1])
        mean = sums / count
        centred = values - mean[:, None, None]
        variance = summed(centred.square().sum((0, 2, 3))) / count
        self._record(mean.detach(), variance.detach() * count / (count - 1))
        scale = (variance + self.eps).rsqrt() * self.weight
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)

    def _record(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class _Sum(Function):
    """Σ over processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, slopes: Tensor) -> Tensor:
        total = slopes.clone()
        distributed.all_reduce(total)
        return total


def summed(values: Tensor) -> Tensor:
    """The sum of a tensor over the processes that share a batch."""
    total: Tensor = _Sum.apply(values)
    return total
