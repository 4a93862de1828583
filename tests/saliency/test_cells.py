"""Symbolic grids by cell."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from saliency_wrappers import Decision, FunctionAdapter, grid_cells


class Seeker(nn.Module):
    """Looks codes up in a table, as agents on symbols do; a key (code 5) in the grid raises the first logit, a wall (2) the value."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 2)
        with torch.no_grad():
            self.table.weight.zero_()
            self.table.weight[5, 0] = self.table.weight[2, 1] = 1.0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.table(x[:, 0].long()).sum(dim=(1, 2))
        return torch.stack([seen[:, 0], 0 * seen[:, 0]], dim=1), seen[:, 1]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.int64])
def test_cells_are_replaced_by_empty_ones(dtype: Any) -> None:
    agent = Seeker()
    grid = torch.zeros(1, 3, 7, 7, dtype=dtype)
    grid[0, 0] = 1
    grid[0, 0, 2, 3], grid[0, 0, 4, 5] = 5, 2
    logits, value = agent(grid)
    adapter = FunctionAdapter(agent, lambda x, state, start: agent(x), input_range=(0.0, 10.0))
    maps = grid_cells((1, 0, 0))(adapter, [Decision(grid, None, logits.detach(), value.detach())])[0]
    assert maps.actor.shape == (7, 7)
    assert maps.actor.nonzero() == ([2], [3])
    assert maps.critic is not None
    assert maps.critic.nonzero() == ([4], [5])


@pytest.mark.parametrize("empty", [[], [[1, 0, 0]], [float("nan")]])
def test_an_empty_cell_has_a_number_for_each_channel(empty: Any) -> None:
    with pytest.raises(ValueError, match="Expected the numbers of an empty cell"):
        grid_cells(empty)
