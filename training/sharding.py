"""A whole model that no device holds alone: torch's FSDP keeps a share of every weight, gradient and moment on each.

Weights are gathered layer by layer where they are used; gradients are summed as they are shared out again. Whatever is
written is gathered first, so that a checkpoint is the same however many devices made it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from training.batch import Batch
from training.network import Network


class ShardedNetwork(nn.Module):
    """A Network over all processes of the run; each calls it equally often. Shards the model's weights in place."""

    def __init__(self, model: Any, device: torch.device) -> None:
        super().__init__()
        self.model = model
        self._network = Network(model)
        mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
        # The last layer is computed piece by piece, and so is gathered with embedding and head, for the whole step.
        for module in (*model.model.language_model.layers[:-1], self):
            fully_shard(module, mesh=mesh)
        for module in self.modules():
            if isinstance(module, FSDPModule):  # a sum, as losses are divided by the whole batch's totals
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)

    def forward(self, batch: Batch, asked: torch.Tensor) -> torch.Tensor:
        """See Network.__call__."""
        return self._network(batch, asked)


def whole(value: Any) -> Any:
    """A tensor's all shares on this device, which every process must ask for; anything else as it is."""
    return value.detach().full_tensor() if isinstance(value, DTensor) else value


def share_like(parameter: torch.Tensor, value: Any) -> Any:
    """What of a whole tensor is this process's, cut as the parameter is. Where that is not shared out, the value."""
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
