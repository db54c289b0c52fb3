"""Labels of patches by those of the most similar ones elsewhere."""

from __future__ import annotations

import torch

_AT_ONCE = 1 << 24
"""Cosines that are held at once."""


def votes(
    queries: torch.Tensor, bank: torch.Tensor, shares: torch.Tensor, *, neighbours: int, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The shares of classes in patches, by the vote of their most similar ones in a bank.

    Args:
        queries: (N, D) of unit length.
        bank: (M, D) likewise.
        shares: (M, C) of classes in each patch of the bank.
        neighbours: how many vote, weighted by exp(cosine / temperature); all of a smaller bank.
        temperature: in cosines.

    Returns:
        (N, C) shares that sum to 1 where those of the bank do, and (N,) the cosine with the most similar patch.
    """
    found, nearest = [], []
    rows = max(1, _AT_ONCE // max(len(bank), 1))
    for start in range(0, len(queries), rows):
        cosines, places = (queries[start : start + rows] @ bank.T).topk(min(neighbours, len(bank)), dim=1)
        weights = torch.softmax(cosines / temperature, dim=1)
        found.append((weights[:, None] @ shares[places])[:, 0])
        nearest.append(cosines[:, 0])
    return torch.cat(found), torch.cat(nearest)
