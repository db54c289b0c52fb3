"""Names of published releases, brought to those of timm's modules for the same networks.

iBOT and DINO name a plain ViT as timm does. DINOv2 (Oquab et al., 2023), DINOv3 (Siméoni et al., 2025) and layer scales
of earlier code differ in a few names, and in how positions and biases are kept.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Collection
from typing import Any

from timm.models import VisionTransformer
from torch import Tensor

# Buffers that a network computes by itself, and what only training needs.
_REMADE = re.compile(r"rope_embed\.periods$|blocks\.\d+\.attn\.qkv\.bias_mask$")
_BIAS = re.compile(r"(blocks\.\d+\.attn\.)qkv\.bias$")
# The release keeps rotary periods in 16 bits for some sizes.
_PERIODS_AGREE_TO = 0.01


class TimmNames:
    """The tensors of a file on their way to timm's names.

    Args:
        model: timm's, which says what names are wanted.
        tensors: by the file's names, prefixes taken off.

    Attributes:
        tensors: by timm's names as far as there is a rule for them, others as they were.
        changes: what was done, in words, and to how many tensors.
        remade: names of what was left out, since the model has the same by itself.
        at_odds: where the model computes by other numbers than the file says, in words.
    """

    def __init__(self, model: Any, tensors: dict[str, Tensor]) -> None:
        self.tensors = dict(tensors)
        self.changes: Counter[str] = Counter()
        self.remade: list[str] = []
        self.at_odds: list[str] = []
        known = frozenset(model.state_dict())
        masked = self._leave_out_buffers(model)
        if _is_for_timms_converter(model, self.tensors):
            self._convert_by_timm(model)
        self._rename(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", "blocks in chunks put in one row")
        if "blocks.0.ls1.gamma" in known:
            self._rename(r"\.gamma_([12])$", r".ls\1.gamma", "gamma_1, gamma_2 -> ls1.gamma, ls2.gamma")
        if "blocks.0.gamma_1" in known:
            self._rename(r"\.ls([12])\.gamma$", r".gamma_\1", "ls1.gamma, ls2.gamma -> gamma_1, gamma_2")
        self._rename_gated_layers(known)
        self._rename_registers(model, known)
        self._take_biases_apart(known, masked)

    def _rename(self, pattern: str, replacement: str, words: str) -> None:
        renamed = {key: re.sub(pattern, replacement, key) for key in self.tensors}
        if changed := sum(key != new for key, new in renamed.items()):
            self.changes[words] += changed
            self.tensors = {renamed[key]: value for key, value in self.tensors.items()}

    def _leave_out_buffers(self, model: Any) -> set[str]:
        """Leave out what the model computes by itself; the blocks' names whose key bias the file masks."""
        masked = set()
        for key in [key for key in self.tensors if _REMADE.match(key)]:
            value = self.tensors.pop(key)
            self.remade.append(key)
            if key.endswith("bias_mask"):
                masked.add(key.removesuffix("_mask"))
                continue
            own = getattr(getattr(model, "rope", None), "periods", None)
            if (
                own is None
                or own.shape != value.shape
                or not bool(((own - value).abs() <= _PERIODS_AGREE_TO * own.abs()).all())
            ):
                self.at_odds.append(f"{key} are not the periods of the model's rotary positions")
        return masked

    def _convert_by_timm(self, model: Any) -> None:
        """Other releases with a mask token: timm ships their converter beside the model family."""
        convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
        if convert is not None:
            before = set(self.tensors)
            self.tensors = convert(dict(self.tensors), model)
            if new := set(self.tensors) - before:
                self.changes["renamed by timm's converter of the release"] += len(new)

    def _rename_gated_layers(self, known: Collection[str]) -> None:
        """The MLP down(silu(gate(x)) * up(x)): gate and up are one layer (w12, w3) or two (w1, w2, w3)."""
        if "blocks.0.mlp.w12.weight" in self.tensors and "blocks.0.mlp.fc1.weight" in known:
            self._rename(r"\.mlp\.w12\.", ".mlp.fc1.", "w12 -> fc1")
            self._rename(r"\.mlp\.w3\.", ".mlp.fc2.", "w3 -> fc2")
        elif "blocks.0.mlp.w1.weight" in self.tensors and "blocks.0.mlp.fc1_g.weight" in known:
            self._rename(r"\.mlp\.w1\.", ".mlp.fc1_g.", "w1 -> fc1_g")
            self._rename(r"\.mlp\.w2\.", ".mlp.fc1_x.", "w2 -> fc1_x")
            self._rename(r"\.mlp\.w3\.", ".mlp.fc2.", "w3 -> fc2")

    def _rename_registers(self, model: Any, known: Collection[str]) -> None:
        """Registers under timm's name; with DINOv2's, positions as well.

        DINOv2 gives the class token a position and registers none. Where timm gives positions to patches alone, that
        of the class token is added to it beforehand.
        """
        if "reg_token" not in known:
            return
        of_dinov2 = "register_tokens" in self.tensors
        self._rename(r"^(register|storage)_tokens$", "reg_token", "registers -> reg_token")
        position = self.tensors.get("pos_embed")
        if of_dinov2 and position is not None and getattr(model, "no_embed_class", False):
            self.tensors["cls_token"] = self.tensors["cls_token"] + position[:, :1]
            self.tensors["pos_embed"] = position[:, 1:]
            self.changes["position of the class token added to it"] += 1

    def _take_biases_apart(self, known: Collection[str], masked: set[str]) -> None:
        """DINOv3 keeps one bias for query, key and value and masks the key's; timm keeps two, or none if all are zero.

        A bias that the model could not take on is left under its name, for what fits the model to refuse it.
        """
        for key in [key for key in self.tensors if _BIAS.match(key) and key not in known]:
            query, of_key, value = self.tensors[key].chunk(3)
            start = key.removesuffix("qkv.bias")
            if key not in masked and bool(of_key.any()):
                continue
            if f"{start}q_bias" in known:
                del self.tensors[key]
                self.tensors |= {f"{start}q_bias": query, f"{start}v_bias": value}
                self.changes["qkv.bias taken apart into q_bias, v_bias"] += 1
            elif not (bool(query.any()) or bool(value.any())):
                del self.tensors[key]
                self.remade.append(key)


def _is_for_timms_converter(model: Any, tensors: Collection[str]) -> bool:
    """Whether a release is one with a mask token that no rule here is about, such as EVA's and BEiT's."""
    if "storage_tokens" in tensors:
        return "blocks.0.attn.wq.weight" in tensors
    return "mask_token" in tensors and not isinstance(model, VisionTransformer)
