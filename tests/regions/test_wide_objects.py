"""What refinement begins with: the object as it is drawn, and all of the patches that were cut out."""

from __future__ import annotations

import numpy as np
import torch

from simsam_batch.regions import candidates
from simsam_batch.spectral.affinity import normalize_rows


def test_the_wide_mask_is_the_mask_and_the_patches_of_the_candidate() -> None:
    grid, count = (7, 9), 63
    generator = torch.Generator().manual_seed(0)
    rows = normalize_rows(torch.randn(2, count, 6, generator=generator))
    vectors = torch.linalg.qr(torch.randn(2, count, 5, generator=generator)).Q.mT.contiguous()
    values = torch.linspace(0, 0.9, 5).repeat(2, 1)
    valid = torch.ones(2, count, dtype=torch.bool)
    found = candidates.candidates(vectors, values, rows, valid, grid)
    index = candidates.pick(found, 1)[0][:, 0]
    objects = candidates.objects_of(found, index, vectors, rows, valid, grid)
    for i in range(2):
        patches = found.masks[i, index[i]].reshape(grid).numpy()
        cells = np.kron(patches, np.ones((candidates.CELLS, candidates.CELLS), bool))
        assert np.array_equal(objects.wide[i].numpy(), cells | objects.mask[i].numpy())
        assert (objects.wide[i] & ~objects.mask[i]).any()


def test_without_a_candidate_both_are_empty() -> None:
    grid = (4, 5)
    generator = torch.Generator().manual_seed(1)
    rows = normalize_rows(torch.randn(1, 20, 6, generator=generator))
    vectors = torch.linalg.qr(torch.randn(1, 20, 4, generator=generator)).Q.mT.contiguous()
    valid = torch.ones(1, 20, dtype=torch.bool)
    found = candidates.candidates(vectors, torch.linspace(0, 0.9, 4)[None], rows, valid, grid)
    found = found.without(torch.tensor([True]))
    objects = candidates.objects_of(found, candidates.pick(found, 1)[0][:, 0], vectors, rows, valid, grid)
    assert not objects.mask.any()
    assert not objects.wide.any()
