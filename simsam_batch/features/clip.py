"""CLIP from a local file, by open_clip: images and texts as features of one space."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from simsam_batch.errors import SettingsError
from simsam_batch.features.precision import arithmetic
from simsam_batch.features.weights import load_into, read_checkpoint

DEFAULT = "ViT-B-32-quickgelu"
"""OpenAI's weights are of QuickGELU; under the name without it they load without a word, and mean something else."""

_TOO_LOOSE = "many"


class Clip:
    """A frozen CLIP.

    Args:
        name: of the network, as open_clip knows it.
        model: of open_clip.
        tokenizer: likewise.
        templates: what texts are put into, with ``{}``.
        precision: that images are looked at in, ``fp32`` or ``bf16``; texts always in the first.
    """

    def __init__(
        self, name: str, model: Any, tokenizer: Any, templates: Sequence[str], precision: str = "fp32"
    ) -> None:
        self.name, self.precision = name, precision
        self._model, self._tokenizer, self._templates = model, tokenizer, list(templates)
        size = model.visual.image_size
        self.size = int(size if isinstance(size, int) else size[0])
        self.context = int(model.context_length)
        quick = any(type(each).__name__ == "QuickGELU" for each in model.modules())
        self.gelu = "quick" if quick else "exact"
        like = next(model.parameters())
        mean, std = model.visual.image_mean, model.visual.image_std
        self._mean, self._std = (like.new_tensor(part)[:, None, None] for part in (mean, std))

    def encode(self, squares: Tensor) -> Tensor:
        """(B, D) float32 features of unit length of squares (B, 3, size, size) in 0..1."""
        with arithmetic(squares.device, self.precision):
            found: Tensor = self._model.encode_image((squares.to(self._mean.dtype) - self._mean) / self._std)
        return functional.normalize(found.to(torch.promote_types(found.dtype, torch.float32)), dim=-1)

    def templates_of(self, text: str) -> Tensor:
        """(P, D) float32 features, as the network gives them, of a text put into each template; no gradient.

        Raises:
            SettingsError: the text is empty, or longer than the network takes.
        """
        if not text.strip():
            raise SettingsError("a text is empty. To mend it: say in words what it should look like")
        given = [template.format(text) for template in self._templates]
        longest = max(given, key=lambda each: len(self._tokenizer.encode(each)))
        # one token each for the start and the end
        count = len(self._tokenizer.encode(longest)) + 2
        if count > self.context:
            raise SettingsError(
                f"the text {text[:80]!r} is too long: put into {longest[:40]!r}... it has {count} tokens, and the "
                f"network takes {self.context}. To mend it: use fewer words"
            )
        tokens = self._tokenizer(given).to(self._mean.device)
        with torch.no_grad():
            found: Tensor = self._model.encode_text(tokens)
        return found.float()


def templates() -> list[str]:
    """The 79 sentences that texts are put into: OpenAI's for ImageNet, without the one about many of a kind."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    found = [str(template("{}")) for template in OPENAI_IMAGENET_TEMPLATES]
    return [each for each in found if _TOO_LOOSE not in each.split()]


def configuration(name: str) -> str:
    """What tells a network, wherever it is loaded: its name, or of a file ``.json`` what it holds.

    Raises:
        SettingsError: there is no such file, or it holds no JSON.
    """
    if not name.endswith(".json"):
        return name
    try:
        return json.dumps(json.loads(Path(name).read_text()), sort_keys=True)
    except OSError as error:
        raise SettingsError(f"clip: there is no file {name}") from error
    except ValueError as error:
        raise SettingsError(f"clip: {name} holds no JSON: {error}") from error


def _added(config: str) -> str:
    """The name that open_clip knows a configuration by from now on, which is that of its content."""
    import open_clip

    name = f"configuration-{sha256(config.encode()).hexdigest()[:12]}"
    if name not in open_clip.list_models():
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{name}.json"
            file.write_text(config)
            open_clip.add_model_config(file)
    return name


def load_clip(name: str, weights: str, device: str, *, precision: str = "fp32") -> Clip:
    """A network of open_clip with the weights of a file; nothing is fetched, and no tensor is missing or left over.

    Args:
        name: a configuration of open_clip, a file ``.json`` with one, or what that holds.
        weights: a file of its tensors.
        device: torch's name.
        precision: ``fp32`` or ``bf16``, see `Clip`.

    Raises:
        SettingsError: open_clip is not installed, knows no such network, or the weights are of another.
    """
    try:
        import open_clip
    except ImportError as error:
        raise SettingsError("open_clip is not installed. To mend it: pip install 'simsam-batch[stylize]'") from error
    name = configuration(name)
    if name.startswith("{"):
        name = _added(name)
    known = open_clip.list_models()
    if name not in known:
        near = ", ".join([each for each in known if each.startswith(name[:5])][:8] or known[:8])
        raise SettingsError(f"clip: open_clip knows no network {name!r}; it knows {near}, ...")
    with _without_warnings():
        model = open_clip.create_model(name, load_weights=False, device="cpu")
    checkpoint = read_checkpoint(Path(weights))
    load_into(model, checkpoint.tensors, weights, name)
    model.to(device=device).eval().requires_grad_(False)
    return Clip(name, model, open_clip.get_tokenizer(name), templates(), precision)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """The log of a network that has no weights yet, and is about to get some."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)
