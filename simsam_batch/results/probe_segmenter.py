"""A fitted probe as a module of PyTorch: images in, a class for each of their pixels out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from simsam_batch import images
from simsam_batch.errors import SettingsError
from simsam_batch.stages.features.stage import descriptors_by_name, stored_dtype
from simsam_batch.stages.patch_labels.canvas import canvas_of
from simsam_batch.stages.probe_apply.probe_run import ProbeRun
from simsam_batch.stages.probe_apply.settings import FittedProbe
from simsam_batch.stages.probe_maps.fitted import FittedProbes
from simsam_batch.stages.probe_maps.pixels import Pixels
from simsam_batch.storage import Folder, absolute_url
from simsam_batch.workers.models import ROLES, compute_device
from simsam_batch.workers.pixels import normalized, uploaded


class ProbeSegmenter(nn.Module):
    """Gives the pixels of images the classes that a run of ``simsam probe`` gave them, or would have given.

    It does what the run did: its resize, normalisation, network, features as they are stored, probe, and the way from
    patches to pixels. An image given alone is labelled as in a run with ``batch_size`` 1 on the same kind of device,
    bit by bit if torch has as many threads as the run's setting ``threads``; images given together may differ from it
    in the last bits of their scores. Where the run decoded large JPEGs at a fraction of their size, which their pixels
    do not tell, features differ a little.

    It has no parameters to be trained, stays on its device, and serves one thread at a time.

    Args:
        out: folder of the finished run.
        wanted: which of its probes.
        weights: file or URL of the network's weights; None: where the run found them.
        device: ``auto``, ``cpu`` or ``cuda``; what computes the features.

    Attributes:
        name: of the cell of the run's table.
        classes: their names by id; ids as text where nobody has named them.
        device: what computes the features.

    Raises:
        SettingsError: the run is not finished or has no such probe, the weights are others than the run's, or the
            device is not there.
        RunError: the run is damaged.
        StorageError: the storage did not answer.
    """

    def __init__(self, out: Folder, wanted: FittedProbe, *, weights: str | None = None, device: str = "auto") -> None:
        super().__init__()
        run = ProbeRun(out)
        cell = run.chosen(wanted)
        self.name, self.classes = cell.name, run.class_names
        self.device = torch.device(compute_device(device))
        place = run.weights if weights is None else absolute_url(weights)
        settings = run.settings.model_copy(update={"weights": place})
        run.require_network(settings)
        alone = settings.model_copy(update=run.taps_of(cell))
        self._network = ROLES["taps"](alone, str(self.device))[0]
        self._set, self._dtype = run.set_of(cell), stored_dtype(settings)
        self._fitted = FittedProbes(run.fits(cell), self.device)
        self._resize, self._how = images.parse_resize(settings.resize), settings
        self._limits = images.ImageLimits(settings.max_bytes, settings.max_pixels, settings.decode_seconds)
        self._max_patches = settings.max_patches

    def forward(self, pictures: Tensor) -> Tensor:
        """The class of every pixel.

        Args:
            pictures: (3, H, W) or (B, 3, H, W) uint8, any device: RGB, upright, as `simsam_batch.images.decode` gives
                them, in sRGB if the run had ``color_profile`` srgb; at their own size, which the run's resize is of.

        Returns:
            (H, W) or (B, H, W) int64 on the CPU, ids of `classes`, at the images' own size.

        Raises:
            ValueError: tensors of another shape or type.
            ImageError: images with fewer than 2x2 patches, or over the run's limits on pixels and patches.
        """
        scores, of = self._scored(pictures)
        pixels = Pixels(canvas_of(of, self._resize, "native"), self._how)
        found = torch.stack([torch.from_numpy(pixels.classes(each)) for each in scores])
        return found if pictures.ndim == 4 else found[0]

    def scores(self, pictures: Tensor) -> Tensor:
        """The score of every class on the patch grid: logits (linear), or shares of votes or of a cluster's pixels.

        Args:
            pictures: as for `forward`.

        Returns:
            (C, Hp, Wp) or (B, C, Hp, Wp) float32 on the CPU.
        """
        scores, of = self._scored(pictures)
        found = torch.stack([each.T.reshape(-1, of["grid_h"], of["grid_w"]) for each in scores])
        return found if pictures.ndim == 4 else found[0]

    def _scored(self, pictures: Tensor) -> tuple[list[Tensor], dict[str, int]]:
        """(N, C) of each image, and where their patches lie."""
        shape = tuple(pictures.shape)
        if pictures.dtype != torch.uint8 or len(shape) not in (3, 4) or shape[-3] != 3 or 0 in shape:
            raise ValueError(f"pictures are {pictures.dtype} {shape}, not uint8 (3, H, W) or (B, 3, H, W)")
        batch = pictures if pictures.ndim == 4 else pictures[None]
        prepared = [
            images.prepare_decoded(
                images.Decoded.of_array(rgb),
                limits=self._limits,
                resize=self._resize,
                patch=self._network.patch,
                max_patches=self._max_patches,
                way=self._how.decode,
            )
            for rgb in batch.cpu().permute(0, 2, 3, 1).contiguous().numpy()
        ]
        grid, (height, width) = prepared[0].grid, prepared[0].full_size
        with torch.inference_mode():
            uploads = uploaded([each.rgb for each in prepared], self.device)
            found = self._network(normalized(uploads, self._network.mean, self._network.std))
            arrays = {name: each.cpu().numpy() for name, each in descriptors_by_name(found, grid, self._dtype).items()}
        features = [[self._set.of({name: each[i] for name, each in arrays.items()})] for i in range(len(batch))]
        searched = self._fitted.search(features, lambda: None)
        scores = [(self._fitted.scores(own) | beside)[0] for own, beside in zip(features, searched, strict=True)]
        of = {"height": height, "width": width, "grid_h": grid[0], "grid_w": grid[1], "patch": self._network.patch}
        return scores, of

    def extra_repr(self) -> str:
        """What printing it says."""
        return f"{self.name}; {len(self.classes)} classes, {self.device.type}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Refuse what would leave it half moved.

        Raises:
            SettingsError: always.
        """
        del fn, recurse
        raise SettingsError(
            f"device: a fitted probe stays where it was made, on {self.device.type}, and in its precision. To mend it: "
            "make it by probe(..., device='cuda') or 'cpu'"
        )
