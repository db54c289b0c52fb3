"""Label maps of patches to label maps of pixels whose edges follow the picture: a guided filter or a dense CRF."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simsam_batch.errors import SettingsError
from simsam_batch.regions.guided import GUIDED, GuidedParameters, guided_labels

if TYPE_CHECKING:
    from simsam_batch.regions.pixel_index import UpsampleIndex

L = TypeVar("L", bound=np.generic)


@dataclass(frozen=True, slots=True, kw_only=True)
class CrfParameters:
    """The energy of a dense CRF and how long it is minimised.

    Attributes:
        certainty: probability of a pixel's own label in the map; the odds against each other label are
            ``certainty : 1 - certainty``, however many labels there are.
        certainty_xy: distance from the nearest border in the map over which those odds grow by a factor of e, so that
            the map is in doubt where its borders are and nowhere else, pixels of a picture whose shorter side is
            ``reference_side``; None: they are the same everywhere.
        bilateral_weight: of the kernel that joins pixels near each other and of like colour.
        bilateral_xy: its standard deviation in space, pixels of a picture whose shorter side is ``reference_side``.
        bilateral_rgb: its standard deviation in colour, levels of 0..255.
        gaussian_weight: of the kernel that joins pixels near each other, whatever their colour.
        gaussian_xy: its standard deviation, pixels of the picture as it is.
        reference_side: see there; None: pixels of the picture as it is.
        iterations: of mean-field inference.
    """

    certainty: float = 0.99
    certainty_xy: float | None = None
    bilateral_weight: float = 10.0
    bilateral_xy: float = 80.0
    bilateral_rgb: float = 13.0
    gaussian_weight: float = 3.0
    gaussian_xy: float = 3.0
    reference_side: int | None = None
    iterations: int = 5

    def scale(self, height: int, width: int) -> float:
        """Pixels of a picture of that size to one of the lengths that go by ``reference_side``."""
        return 1.0 if self.reference_side is None else min(height, width) / self.reference_side


UPSTREAM = CrfParameters()
"""What the code of Deep Spectral Methods and SimSAM asks of SimpleCRF, which clamps probabilities to 0.01..0.99."""

SCALED = CrfParameters(certainty=0.5, certainty_xy=4.0, bilateral_xy=40.0, bilateral_rgb=8.0, reference_side=400)
"""Lengths go by the shorter side, so that a picture's size does not matter, and the map counts more the farther from
its borders, so that small objects are not smoothed away (this project; chosen on halves of three sets of photographs,
``docs/measured.md``).
"""

REFINEMENTS: Mapping[str, CrfParameters | GuidedParameters] = MappingProxyType(
    {"guided": GUIDED, "crf": SCALED, "crf-upstream": UPSTREAM}
)
"""Parameters by the word for them in the settings."""


def load_crf() -> ModuleType:
    """Import the dense CRF.

    Raises:
        SettingsError: it is not installed.
    """
    try:
        import pydensecrf.densecrf
    except ImportError as error:
        msg = (
            f"refine: pydensecrf2 cannot be imported ({error}). To mend it: pip install 'simsam-batch[crf]', which "
            "needs a C++ compiler, or use --refine guided or none"
        )
        raise SettingsError(msg) from error
    module: ModuleType = pydensecrf.densecrf
    return module


def shrink(rgb: NDArray[np.uint8], max_side: int) -> NDArray[np.uint8]:
    """Return a picture (H, W, 3) whose longer side is at most ``max_side`` pixels, as it is or shrunk by averaging.

    The other side is rounded to the nearest pixel, halves up, and is at least 1.
    """
    height, width = rgb.shape[:2]
    longer = max(height, width)
    if longer <= max_side:
        return rgb
    height, width = (max(1, (2 * side * max_side + longer) // (2 * longer)) for side in (height, width))
    return np.array(Image.fromarray(rgb).resize((width, height), Image.Resampling.BOX))


def refine(
    rgb: NDArray[np.uint8],
    labels: NDArray[L],
    parameters: CrfParameters | GuidedParameters = SCALED,
    *,
    index: UpsampleIndex | None = None,
    max_side: int | None = None,
) -> NDArray[L]:
    """Move the borders of a label map to the edges of its picture.

    By `simsam_batch.regions.guided.guided_labels`, or by mean-field inference in a fully connected CRF with Potts
    compatibility over two Gaussian kernels, one of position and colour and one of position (Krähenbühl and Koltun 2011,
    eq. 3). Only labels that the map holds can come out; small regions may vanish. A map of a single label comes out as
    it is. One thread, and the same bits every time.

    Time and memory grow with pixels and labels: by a CRF at 1024 x 768 about a second, and 200 bytes a pixel for two
    labels, 700 for twenty. No other thread of the process runs Python then: the package keeps the interpreter's lock.

    Args:
        rgb: (H, W, 3) uint8.
        labels: (H, W) of any integers or booleans; with ``index`` (Hp, Wp).
        parameters: of the guided filter or the CRF.
        index: the patch row of each pixel row (H,) and the patch column of each pixel column (W,).
        max_side: a picture with a longer side is refined after `shrink`, and the labels are enlarged again, each pixel
            taking that of the shrunk pixel that covers it.

    Returns:
        (H, W), the dtype and values of ``labels``.

    Raises:
        ValueError: the picture is not 8-bit RGB, or the map does not fit it.
        SettingsError: a CRF is asked for and pydensecrf2 is not installed.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"a picture (H, W, 3) of uint8 is needed, this one is {rgb.shape} of {rgb.dtype}")
    covered = labels.shape if index is None else (len(index[0]), len(index[1]))
    if covered != rgb.shape[:2]:
        raise ValueError(f"the label map covers {covered} pixels, the picture has {rgb.shape[:2]}")
    if max_side is not None and max(covered) > max_side:
        return _refine_shrunk(rgb, labels if index is None else labels[np.ix_(*index)], parameters, max_side)
    coarse = labels.copy() if index is None else labels[np.ix_(*index)]
    present, member = np.unique(coarse, return_inverse=True)
    if len(present) < 2:
        return coarse
    # Energies may be shifted at each pixel: only the odds between labels count.
    certainty, reach = _prior(parameters, coarse.shape[0], coarse.shape[1])
    energies = np.full((len(present), member.size), -math.log(1 - certainty), dtype=np.float32)
    if reach is not None:
        energies += _distance_to_border(member.reshape(coarse.shape)).ravel() / reach
    energies[member.ravel(), np.arange(member.size)] = -math.log(certainty)
    if isinstance(parameters, GuidedParameters):
        best = guided_labels(rgb, energies.reshape(-1, *coarse.shape), parameters)
    else:
        best = mean_field(rgb, energies, parameters).argmax(axis=0).reshape(coarse.shape)
    refined: NDArray[L] = present[best]
    return refined


def mean_field(rgb: NDArray[np.uint8], energies: NDArray[np.float32], parameters: CrfParameters) -> NDArray[np.float32]:
    """Beliefs (count, H*W) in each of ``count`` labels at each pixel, the sum at a pixel being 1.

    Args:
        rgb: (H, W, 3) uint8.
        energies: (count, H*W) float32, -log of the probability of each label at each pixel, whatever is added at a
            pixel to all of them.
        parameters: of the CRF; ``certainty`` is not read.

    Raises:
        SettingsError: pydensecrf2 is not installed.
    """
    height, width = rgb.shape[:2]
    crf: Any = load_crf().DenseCRF2D(width, height, len(energies))
    crf.setUnaryEnergy(energies)
    crf.addPairwiseGaussian(sxy=parameters.gaussian_xy, compat=parameters.gaussian_weight)
    crf.addPairwiseBilateral(
        sxy=parameters.bilateral_xy * parameters.scale(height, width),
        srgb=parameters.bilateral_rgb,
        rgbim=np.ascontiguousarray(rgb),
        compat=parameters.bilateral_weight,
    )
    return np.asarray(crf.inference(parameters.iterations))


def _prior(parameters: CrfParameters | GuidedParameters, height: int, width: int) -> tuple[float, float | None]:
    """Certainty at a border, and pixels over which its odds grow by a factor of e; None: they do not."""
    if isinstance(parameters, GuidedParameters):
        return 0.5, parameters.certainty_xy / 100 * min(height, width)
    if parameters.certainty_xy is None:
        return parameters.certainty, None
    return parameters.certainty, parameters.certainty_xy * parameters.scale(height, width)


def _distance_to_border(labels: NDArray[np.intp]) -> NDArray[np.float32]:
    """Distance (H, W) of every pixel's centre from the nearest edge between two pixels of different labels, pixels."""
    from scipy.ndimage import distance_transform_edt

    inside = np.ones(labels.shape, dtype=bool)
    for one, next_one in (((slice(1, None),), (slice(-1),)), ((slice(None), slice(1, None)), (slice(None), slice(-1)))):
        same = labels[one] == labels[next_one]
        inside[one] &= same
        inside[next_one] &= same
    distance: NDArray[np.float32] = (distance_transform_edt(inside) + 0.5).astype(np.float32)
    return distance


def _refine_shrunk(
    rgb: NDArray[np.uint8], labels: NDArray[L], parameters: CrfParameters | GuidedParameters, max_side: int
) -> NDArray[L]:
    # Processes that do nothing but refine must not load torch, which that module needs for other things.
    from simsam_batch.regions.pixel_index import upsample_index

    small, full = shrink(rgb, max_side), (rgb.shape[0], rgb.shape[1])
    size = small.shape[0], small.shape[1]
    down, up = upsample_index(full, 1, full, size), upsample_index(size, 1, size, full)
    return refine(small, labels[np.ix_(*down)], parameters)[np.ix_(*up)]
