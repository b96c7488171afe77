"""Training: losses against plain formulas, augmentations, and rows without content."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from encoders.augment import augment_images, vary_title  # noqa: E402
from encoders.config import ModelConfig  # noqa: E402
from encoders.losses import info_nce, prefixes, supervised  # noqa: E402
from encoders.towers import Moon, unit  # noqa: E402

pytestmark = pytest.mark.unit


def _units(seed: int, rows: int, dim: int = 8) -> torch.Tensor:
    return unit(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)))


def test_info_nce_is_the_formula() -> None:
    a, b = _units(0, 5), _units(1, 5)
    logits = (a @ b.T / 0.1).numpy().astype(np.float64)
    rows = np.mean([np.log(np.exp(logits[k]).sum()) - logits[k, k] for k in range(5)])
    columns = np.mean([np.log(np.exp(logits[:, k]).sum()) - logits[k, k] for k in range(5)])
    assert info_nce(a, b, temperature=0.1).item() == pytest.approx((rows + columns) / 2, rel=1e-5)


def test_rows_of_one_id_are_no_negatives() -> None:
    a, b = _units(0, 3), _units(1, 3)
    masked = info_nce(a, b, temperature=0.1, same=torch.tensor([4, 4, 7]))
    assert masked < info_nce(a, b, temperature=0.1)


def test_supervised_is_the_formula() -> None:
    x, labels = _units(0, 5), torch.tensor([0, 0, 1, 1, 2])
    logits = (x @ x.T / 0.1).numpy().astype(np.float64)
    terms = []
    for k, other in ((0, 1), (1, 0), (2, 3), (3, 2)):
        others = np.delete(logits[k], k)
        terms.append(np.log(np.exp(others).sum()) - logits[k, other])
    assert supervised(x, labels, temperature=0.1).item() == pytest.approx(np.mean(terms), rel=1e-5)


def test_prefixes_are_unit_vectors() -> None:
    parts = prefixes(_units(0, 4), (3, 8))
    assert [part.shape[1] for part in parts] == [3, 8]
    assert torch.allclose(parts[0].norm(dim=1), torch.ones(4))


def test_augmentations_keep_shape_and_repeat() -> None:
    pixels = torch.randint(0, 256, (3, 112, 112, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    first, again = (augment_images(pixels, 64, torch.Generator().manual_seed(5)) for _ in range(2))
    assert first.shape == (3, 3, 64, 64)
    assert torch.equal(first, again)
    assert 0.0 <= first.min() <= first.max() <= 1.0
    plain = augment_images(pixels, 112, torch.Generator(), strength=0.0)
    assert torch.allclose(plain, pixels.permute(0, 3, 1, 2) / 255.0, atol=1e-3)


def test_a_varied_title_is_never_empty() -> None:
    random = np.random.default_rng(0)
    for title in ("a", "red mug", "set of 12 pencils tall tube"):
        assert all(vary_title(title, random, drop=1.0, misspell=1.0).strip() for _ in range(50))


def test_absent_modalities_and_zero_rows_stay_finite() -> None:
    model = Moon(ModelConfig(dim=16, prefix_dims=(), backbone="scratch", buckets=64)).eval()
    nothing = torch.zeros(1, 1, dtype=torch.int64)
    with torch.no_grad():
        empty = model.text(nothing, nothing, torch.zeros(1, 1))
        picture = model.image(torch.zeros(1, 3, 64, 64))
        both = model.fuse(picture, empty)
    assert empty.abs().max() == 0
    assert torch.isfinite(both).all()
