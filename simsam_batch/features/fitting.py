"""A weights file fitted to a timm ViT, every needed parameter or none, and what became of each tensor of the file."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from simsam_batch.errors import SettingsError
from simsam_batch.features.timm_names import TimmNames
from simsam_batch.features.weights import Checkpoint

# Parameters that belong to no block: classifiers, projection heads, final norms, decoders and mask tokens of
# masked-image training.
_NOT_BACKBONE = re.compile(
    r"(head|head_dist|fc|fc_norm|norm|attn_pool|dino_head|ibot_head|ibot_loss|dino_loss|local_cls_norm|projectors"
    r"|decoder_embed|decoder_blocks|decoder_norm|decoder_pred)\.|(mask_token|masked_embed|decoder_pos_embed)$"
)
_NAMED = 3


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What became of the tensors of a weights file.

    Attributes:
        layout: whose key layout the file has: ``timm``, ``dino``, ``ibot``.
        network: what the file calls the network that was taken; empty if it holds that alone.
        beside: other networks of the file, which were left.
        taken: how many tensors of the backbone came from it.
        unneeded: how many are the backbone's, and take no part in what is computed.
        dropped: names of those that are no part of the backbone, such as heads.
        renamed: what was renamed or put in another form, in words, and how many tensors.
        grid: side of the file's square position table, in patches, which the model took over; None if it is its own.
    """

    layout: str
    network: str
    beside: tuple[str, ...]
    taken: int
    unneeded: int
    dropped: tuple[str, ...]
    renamed: tuple[tuple[str, int], ...]
    grid: int | None

    def lines(self) -> list[str]:
        """The same for people, in one to four lines."""
        beside = f", beside {' and '.join(self.beside)}" if self.beside else ""
        whose = f"{self.network}, " if self.network else ""
        unneeded = f"; {self.unneeded} more take no part in what is computed" if self.unneeded else ""
        found = [f"{self.taken} tensors taken ({whose}{self.layout} file{beside}){unneeded}"]
        if self.renamed:
            found.append(f"renamed: {'; '.join(f'{words} ({count})' for words, count in self.renamed)}")
        if self.dropped:
            found.append(f"dropped {len(self.dropped)}: {_first_of(self.dropped)}")
        if self.grid is not None:
            found.append(f"positions: a table of {self.grid}x{self.grid} patches, taken over as it is")
        return found


def fit_checkpoint(model: Any, name: str, checkpoint: Checkpoint, is_needed: Callable[[str], bool]) -> LoadReport:
    """Load a checkpoint into a timm ViT; every needed parameter comes from the file or nothing is loaded.

    A learned position table of another square size is accepted: the model takes over its grid.

    Args:
        model: timm's model, changed in place.
        name: what the user calls it, for messages.
        checkpoint: the file's content.
        is_needed: whether a parameter, by timm's name, takes part in what will be computed.

    Returns:
        What became of the file's tensors.

    Raises:
        SettingsError: needed parameters are missing or have other shapes, or the file holds backbone parameters that
            the model does not know; the message names the first few of each.
    """
    converted = TimmNames(model, checkpoint.tensors)
    tensors = converted.tensors
    grid = _adopt_position_grid(model, tensors)
    known = model.state_dict()
    needed = {key: value.shape for key, value in known.items() if is_needed(key)}
    missing = [key for key in needed if key not in tensors]
    misshapen = [
        f"{key} (file {tuple(tensors[key].shape)}, model {tuple(shape)})"
        for key, shape in needed.items()
        if key in tensors and tensors[key].shape != shape
    ]
    strange = [key for key in tensors if key not in known]
    unexpected = [key for key in strange if not _NOT_BACKBONE.match(key)]
    if missing or misshapen or unexpected or converted.at_odds:
        matched = len(needed) - len(missing) - len(misshapen)
        parts = [f"{matched} of the {len(needed)} tensors needed match"]
        for what, keys in (("missing", missing), ("of another shape", misshapen), ("unexpected", unexpected)):
            if keys:
                parts.append(f"{len(keys)} {what}: {_first_of(keys)}")
        parts += converted.at_odds
        says = f" (it says it is for {checkpoint.arch})" if checkpoint.arch else ""
        raise SettingsError(
            f"the weights file {checkpoint.path}{says} does not fit the backbone {name}: {'; '.join(parts)}. "
            "Give the backbone the file was made for, or another file"
        )
    model.load_state_dict({key: tensors[key] for key in needed}, strict=False)
    prefixes = [(f"{prefix} taken off", count) for prefix, count in checkpoint.prefixes]
    return LoadReport(
        layout=checkpoint.layout,
        network=checkpoint.network,
        beside=checkpoint.beside,
        taken=len(needed),
        unneeded=len(tensors) - len(strange) - len(needed),
        dropped=(*strange, *converted.remade),
        renamed=(*prefixes, *converted.changes.items()),
        grid=grid,
    )


def _first_of(keys: Sequence[str]) -> str:
    """The first few of some names, and how many more there are."""
    rest = f", and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return f"{', '.join(keys[:_NAMED])}{rest}"


def _adopt_position_grid(model: Any, tensors: Mapping[str, Tensor]) -> int | None:
    """Bring a model to the size of the file's square position table; its side in patches, None if it has that."""
    own, given = getattr(model, "pos_embed", None), tensors.get("pos_embed")
    if own is None or given is None or given.ndim != 3 or given.shape[1] == own.shape[1]:
        return None
    prefix = 0 if getattr(model, "no_embed_class", False) else model.num_prefix_tokens
    side = math.isqrt(max(given.shape[1] - prefix, 0))
    if side == 0 or side * side + prefix != given.shape[1]:
        return None
    patch = model.patch_embed.patch_size[0]
    model.set_input_size(img_size=(side * patch, side * patch))
    return side
