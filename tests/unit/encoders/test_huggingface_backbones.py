"""Pretrained image networks: the library's own features, maps that fit them, and files from untrusted hands."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from encoders.backbones.huggingface import load_image_backbone  # noqa: E402
from moontide.errors import Misconfigured  # noqa: E402
from tests.unit.encoders import tiny_pretrained as tiny  # noqa: E402

pytestmark = pytest.mark.unit

VISION_KINDS = ("vit", "dinov2", "dinov2_with_registers", "resnet", "convnext", "convnextv2", "regnet")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def _pictures(side: int = tiny.SIDE) -> torch.Tensor:
    return torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(0))


def _normalised(x: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (tiny.MEAN, tiny.STD))
    return (x - mean) / std


@pytest.mark.parametrize("kind", VISION_KINDS)
def test_features_are_those_of_the_library(kind: str, tmp_path: Path) -> None:
    reference = tiny.vision(tmp_path, kind)
    backbone = load_image_backbone(str(tmp_path))
    x = _pictures()
    with torch.no_grad():
        output = reference(pixel_values=_normalised(x))
        maps = output.last_hidden_state.ndim == 4
        wanted = output.pooler_output.flatten(1) if maps else output.last_hidden_state[:, 0]
        got, grid = backbone(x), backbone.feature_map(x)
    assert got.shape == (3, backbone.width)
    assert backbone.side == tiny.SIDE
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)
    assert grid.shape[:2] == (3, backbone.width)
    last = output.last_hidden_state
    torch.testing.assert_close(grid[:, :, -1, -1], last[:, :, -1, -1] if maps else last[:, -1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(grid[:, :, 0, 0], last[:, :, 0, 0] if maps else last[:, -16], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("build", [tiny.clip, tiny.siglip])
def test_image_side_of_a_dual_model(build, tmp_path: Path) -> None:
    reference = build(tmp_path)
    backbone = load_image_backbone(str(tmp_path))
    x = _pictures()
    with torch.no_grad():
        wanted = reference.get_image_features(pixel_values=_normalised(x)).pooler_output
        torch.testing.assert_close(backbone(x), wanted, atol=1e-5, rtol=1e-4)
        assert backbone.feature_map(x).shape == (3, backbone.width, 4, 4)


def test_siglip2_sees_a_square_as_the_library_does(tmp_path: Path) -> None:
    reference = tiny.siglip2(tmp_path)
    backbone = load_image_backbone(str(tmp_path))
    x = _pictures()
    # The library's processor: rows of patches, and in a patch rows, columns, colours. It needs torchvision itself.
    patches = _normalised(x).reshape(3, 3, 4, 8, 4, 8).permute(0, 2, 4, 3, 5, 1).reshape(3, 16, -1)
    with torch.no_grad():
        wanted = reference.get_image_features(
            pixel_values=patches,
            pixel_attention_mask=torch.ones(3, 16, dtype=torch.long),
            spatial_shapes=torch.tensor([[4, 4]] * 3),
        ).pooler_output
        torch.testing.assert_close(backbone(x), wanted, atol=1e-5, rtol=1e-4)
        assert backbone.feature_map(x).shape == (3, backbone.width, 4, 4)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_no_picture_one_picture_and_another_side(kind: str, tmp_path: Path) -> None:
    tiny.vision(tmp_path, kind)
    backbone = load_image_backbone(str(tmp_path))
    with torch.no_grad():
        assert backbone(_pictures()[:0]).shape == (0, backbone.width)
        assert backbone.feature_map(_pictures()[:0]).shape == (0, backbone.width, 4, 4)
        torch.testing.assert_close(backbone(_pictures()[:1]), backbone(_pictures())[:1], atol=1e-5, rtol=1e-4)
        assert backbone(_pictures(48)).shape == (3, backbone.width)


def test_a_side_other_than_the_networks_own(tmp_path: Path) -> None:
    reference = tiny.vision(tmp_path, "vit")
    tiny.write_picture_settings(tmp_path, side=48)
    backbone = load_image_backbone(str(tmp_path))
    x = _pictures(48)
    with torch.no_grad():
        wanted = reference(pixel_values=_normalised(x), interpolate_pos_encoding=True).last_hidden_state[:, 0]
        torch.testing.assert_close(backbone(x), wanted, atol=1e-5, rtol=1e-4)


def test_it_can_be_trained(tmp_path: Path) -> None:
    tiny.vision(tmp_path, "vit")
    backbone = load_image_backbone(str(tmp_path)).train()
    backbone(_pictures()).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in backbone.parameters())


def test_a_weight_that_is_missing_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tiny.vision(tmp_path, "vit")
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop(next(name for name in weights if "attention" in name))
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Misconfigured, match="missing"):
        load_image_backbone(str(tmp_path))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    model = tiny.vision(tmp_path, "vit")
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(Misconfigured, match="safetensors"):
        load_image_backbone(str(tmp_path))


def test_code_beside_a_model_is_not_run(tmp_path: Path) -> None:
    tiny.vision(tmp_path, "vit")
    ran = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nEvilModel = EvilConfig = None\n")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"auto_map": {"AutoModel": "evil.EvilModel", "AutoConfig": "evil.EvilConfig"}})
    )
    assert load_image_backbone(str(tmp_path)).width == 32
    assert not ran.exists()
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"model_type": "evil", "auto_map": {"AutoModel": "evil.EvilModel"}})
    )
    with pytest.raises(Misconfigured, match="evil"):
        load_image_backbone(str(tmp_path))
    assert not ran.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"crop_size": {"height": 32, "width": 16}}, "one side"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor"),
        ({"crop_size": None, "size": None}, "one side"),
    ],
)
def test_pictures_it_cannot_prepare_are_refused(change: dict, said: str, tmp_path: Path) -> None:
    tiny.vision(tmp_path, "vit")
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(Misconfigured, match=said):
        load_image_backbone(str(tmp_path))


def test_a_name_that_is_not_here_is_not_fetched(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="download=True"):
        load_image_backbone("nobody/has-this-model")
    with pytest.raises(Misconfigured, match="cannot read"):
        load_image_backbone(str(tmp_path / "nothing"))
