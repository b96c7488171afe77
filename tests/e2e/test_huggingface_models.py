"""Image-text models and image networks through the command and our runtime: the library's own vectors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch.nn.functional import normalize  # noqa: E402

from encoders import Encoder, Item, Reason  # noqa: E402
from tests.unit.encoders import tiny_pretrained as tiny  # noqa: E402
from tests.unit.encoders.pretrained_checks import (  # noqa: E402
    TITLES,
    Exported,
    exported,
    floats,
    no_network,
    pixel_values,
    reference_pictures,
    reference_texts,
    unit,
)  # fmt: skip

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module", autouse=True)
def offline() -> Iterator[None]:
    with no_network():
        yield


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported(tmp_path_factory.mktemp("clip"), tiny.clip)


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported(tmp_path_factory.mktemp("siglip"), tiny.siglip)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported(tmp_path_factory.mktemp("vit"), lambda folder: tiny.vision(folder, "vit"))


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    return [tiny.picture(seed, size) for seed, size in ((1, (80, 60)), (2, (40, 90)), (3, (32, 32)))]


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_texts_are_those_of_the_library(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    got = floats(model.encoder, [Item(str(at), title=title) for at, title in enumerate(TITLES)])
    wanted = reference_texts(model)
    assert (got * wanted).sum(axis=1).min() >= 0.9999
    # Or the figure above would say nothing.
    assert (wanted @ wanted.T)[~np.eye(len(TITLES), dtype=bool)].max() < 0.99


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_pictures_and_mixes_are_those_of_the_library(name: str, request: pytest.FixtureRequest, pictures: list[bytes]) -> None:
    model = request.getfixturevalue(name)
    wanted = reference_pictures(model, pictures)
    got = floats(model.encoder, [Item(str(at), image=picture) for at, picture in enumerate(pictures)])
    assert (got * wanted).sum(axis=1).min() >= 0.9999
    both = floats(model.encoder, [Item(str(at), title=TITLES[at], image=picture) for at, picture in enumerate(pictures)])
    mean = unit(wanted + reference_texts(model)[: len(pictures)])
    assert (both * mean).sum(axis=1).min() >= 0.9999


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_batches_of_none_and_one_and_padding(name: str, request: pytest.FixtureRequest, pictures: list[bytes]) -> None:
    encoder: Encoder = request.getfixturevalue(name).encoder
    assert len(encoder.encode([])) == 0
    items = [Item(str(at), title=title) for at, title in enumerate(TITLES)]
    items += [Item(f"p{at}", image=picture) for at, picture in enumerate(pictures)]
    together, alone = encoder.encode(items).codes, np.concatenate([encoder.encode([item]).codes for item in items])
    assert np.abs(together.astype(int) - alone.astype(int)).max() <= 1


def test_an_image_network_alone(vit: Exported, pictures: list[bytes]) -> None:
    with torch.no_grad():
        wanted = normalize(vit.reference(pixel_values=pixel_values(pictures)).last_hidden_state[:, 0]).numpy()
    got = floats(vit.encoder, [Item(str(at), image=picture) for at, picture in enumerate(pictures)])
    assert (got * wanted).sum(axis=1).min() >= 0.9999
    _, rejects = vit.encoder.encode_or_reject([Item("t", title="mug")])
    assert [reject.reason for reject in rejects] == [Reason.MODALITY_UNSUPPORTED]


def test_the_manifest_says_where_it_comes_from(clip: Exported) -> None:
    manifest = clip.encoder.artifact.manifest
    assert manifest.space.dim == 24
    assert manifest.provenance["pretrained"] == {"model": "model", "model_type": "clip"}
    assert str(clip.folder.parent) not in json.dumps(dict(manifest.provenance))
    assert min(manifest.provenance["cosine_with_torch"].values()) >= 0.9999


def test_it_runs_without_torch_and_transformers(clip: Exported) -> None:
    program = (
        "import sys; from encoders import Encoder, Item\n"
        f"assert Encoder.load({str(clip.folder.parent / 'artifact')!r}, threads=1).encode([Item('a', title='red mug')]).present.all()\n"
        "assert not {'torch', 'transformers', 'onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
