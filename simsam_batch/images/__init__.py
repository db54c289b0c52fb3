"""Images from bytes to patches: fetch, decode, orient, limit, resize, cut to the grid; truth; decoding ahead."""

from simsam_batch.images.ahead import decode_ahead
from simsam_batch.images.decode import ColorProfile, Decoded, Enough, ImageLimits, decode, fetch, image_size
from simsam_batch.images.partitions import load_partitions
from simsam_batch.images.predictions import load_label_map, load_mask
from simsam_batch.images.prepare import Prepared, prepare, prepare_decoded
from simsam_batch.images.resize import (
    Resize,
    check_resize,
    covered_part,
    crop_corner,
    crop_to_grid,
    enough_for,
    parse_resize,
    require_whole_images,
    resize_ids,
    resize_image,
    resized_size,
    working_size,
)
from simsam_batch.images.truth import TruthError, central_square, load_instances, load_labels, load_truth

__all__ = [
    "ColorProfile",
    "Decoded",
    "Enough",
    "ImageLimits",
    "Prepared",
    "Resize",
    "TruthError",
    "central_square",
    "check_resize",
    "covered_part",
    "crop_corner",
    "crop_to_grid",
    "decode",
    "decode_ahead",
    "enough_for",
    "fetch",
    "image_size",
    "load_instances",
    "load_label_map",
    "load_labels",
    "load_mask",
    "load_partitions",
    "load_truth",
    "parse_resize",
    "prepare",
    "prepare_decoded",
    "require_whole_images",
    "resize_ids",
    "resize_image",
    "resized_size",
    "working_size",
]
