"""What attention adds to the stream, for all pairs, as mixtures of per-token rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from geomdiag.models.tensors import multiply

__all__ = ["Mixture"]

#: Bytes that the rows worked on at a time may take: a few MB stay in the outer caches, and
#: each of the many small products has enough rows to be worth its call.
CHUNK_BYTES = 2_500_000
#: Left operands in such a chunk.
CHUNK_LEFT = 8


@dataclass(frozen=True, eq=False)
class Mixture:
    """Stream at the answer position of every pair, as sums of per-token rows.

    For the pair (a, b): ``left_weights[a, b] @ [left_rows[a]; fixed_rows] +
    right_weights[b, a] @ right_rows[b]``. The fixed rows are the same for all left operands.
    """

    left_weights: Tensor
    left_rows: Tensor
    fixed_rows: Tensor
    right_weights: Tensor
    right_rows: Tensor

    def mapped(self, matrix: Tensor) -> Mixture:
        """Return the mixture of the rows' images under a linear map."""
        left, right = (
            multiply(rows.flatten(0, 1), matrix).view(*rows.shape[:2], -1)
            for rows in (self.left_rows, self.right_rows)
        )
        fixed = multiply(self.fixed_rows, matrix)
        return Mixture(self.left_weights, left, fixed, self.right_weights, right)

    def chunks(self, width: int) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yield ``(left, right, values)`` until all pairs were there.

        Values (right * left, columns) run through the left operands first, and are reused
        each time. A chunk holds so many pairs that rows `width` wide fit `CHUNK_BYTES`.
        """
        count_left, count_right, _ = self.left_weights.shape
        columns = self.left_rows.shape[-1]
        budget = max(1, CHUNK_BYTES // (width * self.left_rows.element_size()))
        step_left = min(count_left, CHUNK_LEFT, budget)
        step_right = min(count_right, budget // step_left)
        room = self.left_rows.new_empty(step_left * step_right, columns)
        own = self.left_rows.shape[1]
        rows = self.left_rows.new_empty(step_left, own + len(self.fixed_rows), columns)
        rows[:, own:] = self.fixed_rows
        for start in range(0, count_left, step_left):
            left = slice(start, min(start + step_left, count_left))
            rows[: left.stop - start, :own] = self.left_rows[left]
            for begin in range(0, count_right, step_right):
                right = slice(begin, min(begin + step_right, count_right))
                shape = (right.stop - right.start, left.stop - left.start, columns)
                values = room[: shape[0] * shape[1]]
                block = values.view(shape)
                torch.bmm(self.right_weights[right, left], self.right_rows[right], out=block)
                for index in range(left.start, left.stop):
                    block[:, index - left.start].addmm_(
                        self.left_weights[index, right], rows[index - start]
                    )
                yield left, right, values
