"""An exported ranker gives torch's logits, for every kind of model and any number of groups, candidates and behaviours."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from encoders.sessions import open_session
from moontide.errors import Misconfigured
from ranking import onnx_graph
from ranking.config import ModelConfig
from ranking.models.base import Parts, Ranker, Statistics
from ranking.models.make import MultimodalDin
from ranking.models.registry import build_model
from ranking.onnx_graph import INPUTS, export_graph, feeds_of
from tests.unit.ranking.model_world import DIM, TIERS, make_batch, parts

pytestmark = pytest.mark.parity

MODELS = {
    "id": ModelConfig(),
    "raw": ModelConfig(sides=("raw",)),
    "vector": ModelConfig(attention="vector"),
    "similarity": ModelConfig(sides=("similarity",), last=3),
    "simtier": ModelConfig(sides=("simtier",), tiers=TIERS, resolutions=(1, 4)),
    "simtier_make": ModelConfig(sides=("simtier", "make"), tiers=TIERS),
    "sata_simtier": ModelConfig(attention="sata", sides=("simtier",), tiers=TIERS),
    "fat": ModelConfig(backbone="fat", sides=("simtier", "raw"), tiers=TIERS),
}
#: What a model does not read is no input of its graph.
UNREAD = {
    "id": {"counts", "vectors", "history_vectors"},
    "raw": {"counts"},
    "simtier": {"vectors", "history_vectors"},
    "simtier_make": set(),
}


def trained(config, given):
    torch.manual_seed(0)
    make = MultimodalDin(given) if "make" in config.sides else None
    model = build_model(given, config, make)
    seen = torch.arange(given.shapes.items) % 3 > 0
    model.learn(Statistics(make_batch(9, groups=8), seen))
    for value in model.parameters():
        torch.nn.init.normal_(value, std=0.3) if value.dim() > 1 else None
    return model.eval()


def run(data, feeds):
    session = open_session(data, threads=1, name="model")
    return session.run(None, {put.name: feeds[put.name] for put in session.get_inputs()})[0]


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_torch_for_any_sizes(name):
    given = parts()
    model = trained(MODELS[name], given)
    made = export_graph(model, [make_batch(1), make_batch(2, groups=3, candidates=5, length=4)], given.table, dim=DIM)
    assert made.difference <= 1e-5
    names = {put.name for put in onnx.load_from_string(made.model).graph.input}
    assert names <= set(INPUTS)
    if name in UNREAD:
        assert names == set(INPUTS) - UNREAD[name]
    for seed, (groups, candidates, length) in enumerate([(1, 1, 1), (1, 40, 6), (7, 2, 13)]):
        batch = make_batch(20 + seed, groups=groups, candidates=candidates, length=length)
        with torch.inference_mode():
            wanted = model(batch).numpy()
        got = run(made.model, feeds_of(batch, given.table, DIM))
        assert np.abs(got - wanted).max() < 1e-5
        assert wanted.std() > 0 or wanted.size == 1


def test_an_item_beyond_the_table_is_read_as_one_that_training_has_not_seen():
    given = parts()
    model = trained(MODELS["sata_simtier"], given)
    made = export_graph(model, [make_batch(1)], given.table, dim=DIM)
    batch = make_batch(3, groups=2, length=5)
    feeds = feeds_of(batch, given.table, DIM)
    unseen = model.items.row[batch.item] == 0
    assert unseen.any()
    strange = dict(feeds)
    # Two items nobody knows are still two items: their behaviours are no match of each other.
    strange["item"] = np.where(unseen.numpy(), batch.item.numpy() + 1000, feeds["item"])
    strange["history"] = np.where((model.items.row[batch.history] == 0).numpy() & batch.present.numpy(),
                                  batch.history.numpy() + 1000, feeds["history"])  # fmt: skip
    assert np.abs(run(made.model, strange) - run(made.model, feeds)).max() < 1e-6


class Liar(Ranker):
    """Scores otherwise once it is exported."""

    def __init__(self, model: Ranker) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch):
        return self.model(batch) + (1e-3 if torch.compiler.is_exporting() else 0.0)


def test_a_graph_that_differs_from_torch_is_refused():
    given = parts()
    with pytest.raises(Misconfigured, match="expected logits within 1e-05 of torch's"):
        export_graph(Liar(trained(MODELS["id"], given)), [make_batch(1)], given.table, dim=DIM)


def test_the_model_is_left_as_it_was():
    given = parts()
    model = trained(MODELS["raw"], given).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export_graph(model, [make_batch(1)], given.table, dim=DIM)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert any(part is given.table for part in model.modules())


def test_a_model_over_ids_needs_no_table():
    given = replace(parts(), table=None)
    model = trained(MODELS["id"], Parts(given.shapes, given.sizes))
    assert onnx_graph.export_graph(model, [make_batch(1)], None, dim=DIM).difference <= 1e-5
