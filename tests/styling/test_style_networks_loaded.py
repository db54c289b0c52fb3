"""CLIP and VGG-19 of the real classes from files: what they see, and what is refused."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_networks import write_clip, write_vgg

from simsam_batch.errors import SettingsError
from simsam_batch.features.clip import Clip, load_clip, templates
from simsam_batch.features.vgg import load_vgg


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clip(files: tuple[Path, Path]) -> Clip:
    return load_clip(str(files[0]), str(files[1]), "cpu")


def test_texts_are_put_into_79_sentences() -> None:
    assert len(templates()) == 79
    assert "a photo of many {}." not in templates()
    assert "a bad photo of a {}." in templates()


def test_features_are_those_of_open_clip(clip: Clip, files: tuple[Path, Path]) -> None:
    model = open_clip.create_model(files[0].stem, pretrained=str(files[1])).eval()
    squares = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(each)[:, None, None] for each in (model.visual.image_mean, model.visual.image_std))
    with torch.no_grad():
        expected = model.encode_image((squares - mean) / std, normalize=True)
        assert torch.allclose(clip.encode(squares), expected, atol=1e-6)
        words = open_clip.tokenize([each.format("a fire") for each in templates()])
        assert torch.allclose(clip.templates_of("a fire"), model.encode_text(words), atol=1e-5)
    assert clip.size == 32


def test_frozen_networks_give_a_gradient_to_the_image_alone(clip: Clip) -> None:
    squares = torch.rand(1, 3, 32, 32, requires_grad=True)
    clip.encode(squares).sum().backward()
    assert squares.grad is not None
    assert float(squares.grad.abs().max()) > 0
    assert all(each.grad is None for each in clip._model.parameters())


def test_half_precision_is_of_what_images_look_like_alone(clip: Clip, files: tuple[Path, Path], tmp_path: Path) -> None:
    half = load_clip(str(files[0]), str(files[1]), "cpu", precision="bf16")
    squares = torch.rand(2, 3, 32, 32, requires_grad=True)
    found = half.encode(squares)
    expected = clip.encode(squares)
    assert found.dtype == torch.float32
    assert torch.allclose(found.norm(dim=1), torch.ones(2), atol=1e-6)
    assert float((found * expected).sum(dim=1).min().detach()) > 0.999
    assert not torch.equal(found, expected)
    assert torch.equal(half.templates_of("a fire"), clip.templates_of("a fire"))
    ways = [torch.autograd.grad(each[:, 0].sum(), squares)[0].flatten() for each in (found, expected)]
    assert float(torch.cosine_similarity(*ways, dim=0)) > 0.98
    weights = str(write_vgg(tmp_path))
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        one, other = (load_vgg(weights, "cpu", precision=each).maps(images)[1] for each in ("bf16", "fp32"))
    assert one.dtype == torch.float32
    assert 0 < float((one - other).norm()) < 0.05 * float(other.norm())


@pytest.mark.parametrize(("text", "said"), [("  ", "is empty"), ("word " * 80, "too long")])
def test_texts_that_cannot_be_meant_are_refused(clip: Clip, text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        clip.templates_of(text)


def test_weights_of_another_network_are_refused_by_name(files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="not of ViT-B-32-quickgelu: it lacks"):
        load_clip("ViT-B-32-quickgelu", str(files[1]), "cpu")
    with pytest.raises(SettingsError, match="knows no network 'ViT-Z'"):
        load_clip("ViT-Z", str(files[1]), "cpu")
    tensors = load_file(files[1])
    save_file(tensors | {"more": torch.zeros(1)}, tmp_path / "more.safetensors")
    with pytest.raises(SettingsError, match="also has more"):
        load_clip(str(files[0]), str(tmp_path / "more.safetensors"), "cpu")
    with pytest.raises(SettingsError, match="not of VGG-19"):
        load_vgg(str(files[1]), "cpu")


def test_content_is_seen_after_rectification_at_two_depths(tmp_path: Path) -> None:
    from torchvision.models import vgg19

    weights = write_vgg(tmp_path)
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        found = load_vgg(str(weights), "cpu").maps(images)
        assert [tuple(each.shape) for each in found] == [(2, 512, 8, 12), (2, 512, 4, 6)]
        assert min(float(each.min()) for each in found) == 0
        # the layers as torchvision has them, which overwrite what stood before a rectification
        layers = vgg19(weights=None).features.eval()
        layers.load_state_dict({name.removeprefix("features."): each for name, each in load_file(weights).items()})
        mean, std = (torch.tensor(each)[:, None, None] for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        x = (images - mean) / std
        kept = []
        for number, layer in enumerate(layers):
            x = layer(x)
            if number in (21, 30):
                kept.append(x)
        for one, other in zip(found, kept, strict=True):
            assert torch.allclose(one, other, atol=1e-5)
