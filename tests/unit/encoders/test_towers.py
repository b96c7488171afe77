"""The towers: what they start as, what they ignore, and what they never do."""

from __future__ import annotations

import pytest
import torch

from encoders.backbones.lite import EfficientNetLite0
from encoders.config import ModelConfig
from encoders.descriptors import ColourHistogram, Texture
from encoders.experts import Fusion
from encoders.towers import ImageTower, Moon, TextTower
from encoders.vectors import unit
from moontide.errors import Misconfigured

pytestmark = pytest.mark.unit
SMALL = ModelConfig(dim=16, prefix_dims=(8,), backbone="scratch", side=32, buckets=64)


@pytest.fixture(scope="module")
def moon() -> Moon:
    torch.manual_seed(0)
    return Moon(SMALL).eval()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_every_modality_mix_gives_unit_rows(moon: Moon, count: int) -> None:
    image = moon.image(torch.rand(count, 3, 32, 32))
    text = moon.text(torch.ones(count, 5, dtype=torch.int64), torch.ones(count, 5, dtype=torch.int64), torch.ones(count, 5))
    for vectors in (moon.fuse(image, None), moon.fuse(None, text), moon.fuse(image, text)):
        assert vectors.shape == (count, 16)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(count))


def test_an_untrained_fusion_passes_one_modality_through() -> None:
    torch.manual_seed(1)
    vectors = unit(torch.randn(4, 16))
    for experts in (0, 1, 4):
        fusion = Fusion(16, experts)
        flags = torch.tensor([[1.0, 0.0]]).expand(4, 2)
        torch.testing.assert_close(fusion(vectors, torch.zeros(4, 16), flags), vectors)


def test_experts_prefer_a_modality_each_from_the_start() -> None:
    torch.manual_seed(0)
    fusion = Fusion(16, 4)
    nothing = torch.zeros(1, 16)
    chosen = [
        int(fusion.routed(nothing, nothing, torch.tensor([flags]))[1].argmax()) for flags in ([1.0, 0.0], [0.0, 1.0], [1.0, 1.0])
    ]
    assert len(set(chosen)) == 3
    shares = fusion.routed(nothing, nothing, torch.tensor([[1.0, 0.0]]))[1]
    assert float(shares.sum()) == pytest.approx(1.0)


def test_weight_nothing_is_padding() -> None:
    torch.manual_seed(0)
    tower = TextTower(16, 64)
    ids, kinds = torch.tensor([[3, 9, 0]]), torch.tensor([[1, 2, 0]])
    short = tower(ids[:, :2], kinds[:, :2], torch.tensor([[2.0, 1.0]]))
    torch.testing.assert_close(tower(ids, kinds, torch.tensor([[2.0, 1.0, 0.0]])), short)
    assert not tower(ids, torch.zeros_like(kinds), torch.zeros(1, 3)).any()


def test_colour_tells_red_from_blue_and_texture_stripes_from_stripes() -> None:
    red, blue = torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32)
    red[:, 0], blue[:, 2] = 1.0, 1.0
    histogram = ColourHistogram()
    assert (unit(histogram(red)) * unit(histogram(blue))).sum() < 0.2
    assert histogram(red).square().sum() == pytest.approx(2.0, abs=0.01)
    upright = ((torch.arange(64) // 4) % 2).float().expand(1, 3, 64, 64)
    lying = upright.transpose(2, 3)
    texture = Texture()
    assert (unit(texture(upright)) * unit(texture(lying))).sum() < 0.5
    torch.testing.assert_close(texture(upright * 0.5), texture(upright), atol=2e-3, rtol=0)


def test_a_constant_picture_has_finite_features(moon: Moon) -> None:
    assert torch.isfinite(moon.image(torch.full((1, 3, 32, 32), 0.5))).all()


def test_a_frozen_backbone_is_folded_and_asks_for_no_gradient() -> None:
    tower = ImageTower(8, EfficientNetLite0().eval(), train_backbone=False)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in tower.backbone.modules())
    assert not any(parameter.requires_grad for parameter in tower.backbone.parameters())
    assert tower.features(torch.rand(1, 3, 64, 64)).shape == (1, tower.width)


def test_pretrained_weights_are_those_of_the_package() -> None:
    """Mean activations of a fixed picture, by the published weights in an implementation apart from ours."""
    picture = torch.linspace(0, 1, 64 * 64).reshape(1, 1, 64, 64).expand(1, 3, 64, 64)
    with torch.no_grad():
        pooled = EfficientNetLite0.pretrained()(picture)
    assert pooled.shape == (1, 1280)
    assert float(pooled.mean()) == pytest.approx(PUBLISHED_MEAN, rel=1e-4)


PUBLISHED_MEAN = 0.06366138160228729


def test_an_unknown_backbone_is_refused() -> None:
    with pytest.raises(Misconfigured, match="lite0, scratch"):
        Moon(ModelConfig(backbone="vgg"))
