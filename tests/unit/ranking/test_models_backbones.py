from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from moontide.errors import Misconfigured
from ranking.batch import Batch
from ranking.models.base import Shapes, Statistics
from ranking.models.din import Din
from ranking.models.fat import Fat, FatSizes, FieldLinear
from ranking.models.make import Make, MultimodalDin
from ranking.models.multitask import MultiTask, TaskWeights, product_of
from ranking.models.projection import table_of
from ranking.models.raw import Raw, VectorAttention
from ranking.models.sata import SaTa
from ranking.models.similarity import Similarity
from ranking.models.simtier import SimTier
from tests.unit.ranking.model_world import (
    LABELS,
    TIERS,
    make_batch,
    one_each,
    padded,
    parts,
    table_rows,
    vectors,
    without_vectors,
)

pytestmark = pytest.mark.unit


def sata(made):
    return SaTa(made.sizes.width, made.sizes.attention, table_of(made))


def every_side(made):
    table = table_of(made)
    make = Make(MultimodalDin(made), len(made.sizes.hidden))
    return [Raw(table, 6, 5), Similarity(table, last=2), SimTier(TIERS, (1, 5)), make]


MODELS = {
    "din": lambda made: Din(made, every_side(made), sata(made)),
    "din vector": lambda made: Din(made, (), VectorAttention(made.sizes.width, 4, table_of(made))),
    "multimodal": MultimodalDin,
    "fat": Fat,
    "fat sides": lambda made: Fat(made, every_side(made), sata(made), FatSizes(blocks=2)),
    "multitask": MultiTask,
    "multitask sides": lambda made: MultiTask(made, every_side(made), sata(made), TaskWeights(0.3, 0.2)),
}


def model_of(name, **sizes):
    torch.manual_seed(0)
    made = MODELS[name](parts(**sizes))
    batch = make_batch(seed=5, groups=20)
    made.learn(Statistics(batch, torch.arange(31) > 0))
    return made


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_gradients_are_finite_for_every_shape(name):
    model = model_of(name)
    for groups, candidates, length in ((4, 3, 6), (0, 3, 6), (1, 1, 1), (2, 2, 0)):
        batch = make_batch(groups=groups, candidates=candidates, length=length)
        for given in (batch, without_vectors(batch), replace(batch, present=torch.zeros_like(batch.present))):
            model.zero_grad()
            logits = model(given)
            assert logits.shape == (groups, candidates)
            assert torch.isfinite(logits).all()
            model.loss(given).backward()
            assert all(torch.isfinite(weight.grad).all() for weight in model.parameters() if weight.grad is not None)


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_takes_part(name):
    model = model_of(name)
    model.loss(make_batch()).backward()
    assert [label for label, weight in model.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize("name", MODELS)
def test_a_logit_does_not_depend_on_the_group_nor_on_padding(name):
    model = model_of(name).eval()
    batch = make_batch(groups=3, candidates=8, length=7)
    with torch.no_grad():
        found = model(batch)
        assert torch.allclose(model(one_each(batch)).reshape(3, 8), found, atol=1e-5)
        assert torch.allclose(model(padded(batch)), found, atol=1e-5)
        assert torch.equal(model(batch), found)


def test_a_field_linear_is_its_fields_own_matrix():
    torch.manual_seed(0)
    layer, tokens, own = FieldLinear(FatSizes(bases=3, field=4), 5, 6), torch.randn(2, 7, 5), torch.randn(2, 4)
    found = layer(tokens, own).detach().numpy()
    for field in range(2):
        mixed = layer.mix(own[field]).detach().numpy()
        mixed[0] = 1
        weights = np.tensordot(mixed, layer.weights.detach().numpy(), axes=1)
        assert np.allclose(found[field], tokens[field].numpy() @ weights[:-1] + weights[-1], atol=1e-5)


def test_pairs_of_fields_modulate_attention_and_not_symmetrically():
    model = model_of("fat")
    found = model.blocks[0].modulation(model.fields).detach()
    assert found.shape == (2, 5, 5)  # heads; candidate, interest, three scalars
    assert not torch.allclose(found, found.transpose(1, 2), atol=1e-3)
    model.blocks[0].left.weight.data.zero_()
    assert torch.equal(model.blocks[0].modulation(model.fields), torch.ones(2, 5, 5))


def test_fat_has_one_token_a_scalar_and_a_side():
    assert model_of("fat sides").tokens(make_batch()).shape == (2 + 3 + 4, 12, 8)
    with pytest.raises(Misconfigured, match="heads"):
        Fat(parts(), fat=FatSizes(heads=3))


def test_the_product_of_labels_is_one_class_of_hard_labels():
    labels = torch.tensor([[0.0, 0, 0], [1, 0, 1], [1, 1, 1]])
    assert product_of(labels).argmax(dim=1).tolist() == [0, 0b101, 7]
    assert (product_of(labels).sum(dim=1) == 1).all()
    assert torch.allclose(product_of(torch.tensor([[0.25, 1.0]])), torch.tensor([[0, 0.75, 0, 0.25]]))
    assert product_of(torch.zeros(0, 2)).shape == (0, 4)


def test_the_loss_of_several_labels_equals_plain_loops():
    model = model_of("multitask sides").eval()
    model.weights = TaskWeights(0.5, 0.25)
    batch = make_batch()
    logits = model.logits(batch).detach().numpy().astype(float)
    assert logits.shape == (4, 3, 1 + LABELS + 2 ** (LABELS + 1))
    assert np.array_equal(model(batch).detach().numpy(), logits[:, :, 0].astype(np.float32))
    total, rows = 0.0, 0
    for g, k in zip(*np.nonzero(batch.valid.numpy()), strict=True):
        truth = [float(batch.label[g, k]), *map(float, batch.labels[g, k])]
        each = [math.log1p(math.exp(-z if y else z)) for z, y in zip(logits[g, k], truth, strict=False)]
        product = logits[g, k, 1 + LABELS :]
        chosen = int("".join(str(int(y)) for y in truth), 2)
        total += each[0] + 0.5 * np.mean(each[1:]) + 0.25 * (np.log(np.exp(product).sum()) - product[chosen])
        rows += 1
    assert math.isclose(float(model.loss(batch).detach()), total / rows, rel_tol=1e-4)


def test_labels_that_are_not_known_count_in_no_loss():
    model = model_of("multitask sides").eval()
    model.weights = TaskWeights(0.5, 0.25)
    batch = make_batch()
    labels = batch.labels.clone()
    labels[0, :, 1], labels[1, 0], labels[2, 1, 0] = math.nan, math.nan, math.nan
    batch = replace(batch, labels=labels)
    logits = model.logits(batch).detach().double()
    primary, further, product = [], [], []
    for g, k in zip(*np.nonzero(batch.valid.numpy()), strict=True):
        truth = [float(batch.label[g, k]), *map(float, labels[g, k])]
        each = [math.log1p(math.exp(-z if y else z)) for z, y in zip(logits[g, k].tolist(), truth, strict=False)]
        primary.append(each[0])
        further += [loss for loss, y in zip(each[1:], truth[1:], strict=True) if not math.isnan(y)]
        if not any(map(math.isnan, truth)):
            chosen = int("".join(str(int(y)) for y in truth), 2)
            product.append(-float(torch.log_softmax(logits[g, k, 1 + LABELS :], dim=0)[chosen]))
    assert len(primary) > len(product) > 0
    expected = np.mean(primary) + 0.5 * np.mean(further) + 0.25 * np.mean(product)
    loss = model.loss(batch)
    assert math.isclose(float(loss.detach()), expected, rel_tol=1e-4)
    loss.backward()
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters() if weight.grad is not None)
    none = model.loss(replace(batch, labels=torch.full_like(labels, math.nan)))
    assert math.isclose(float(none.detach()), np.mean(primary), rel_tol=1e-4)


def test_what_stands_at_padding_counts_in_no_loss():
    model, batch = model_of("multitask sides").eval(), make_batch()
    other = replace(batch, label=torch.where(batch.valid, batch.label, 1 - batch.label))
    other = replace(other, labels=torch.where(batch.valid[:, :, None], batch.labels, 1 - batch.labels))
    assert not torch.equal(batch.labels, other.labels)
    assert torch.equal(model.loss(batch), model.loss(other))


def test_auxiliary_towers_teach_the_primary_one():
    model, batch = model_of("multitask"), make_batch()
    model(batch).sum().backward()
    assert all(weight.grad.any() for weight in model.mlp.levels.parameters())
    assert not any(weight.grad.any() for weight in model.mlp.lasts.parameters())


def test_labels_are_needed_and_their_product_is_bounded():
    made = parts()
    with pytest.raises(Misconfigured, match="further labels"):
        MultiTask(replace(made, shapes=replace(made.shapes, labels=0)))
    with pytest.raises(Misconfigured, match="product"):
        MultiTask(replace(made, shapes=replace(made.shapes, labels=6)), weights=TaskWeights(product=1.0))


def planted(seed, groups=96, candidates=8, length=8):
    """Two kinds of items by one direction of their vectors; a user buys the kind of the history. Test items are new ids."""
    rng = np.random.default_rng(seed)
    kind = np.arange(400) % 2
    embeddings = vectors(seed=1, items=400, dim=8)
    towards = np.where(kind == 1, 1.5, -1.5)[:, None] * np.eye(8)[0]
    moved = type(embeddings).from_float(embeddings.space, embeddings.to_float() + towards, ids=embeddings.ids)
    part = np.arange(200) if seed == 0 else np.arange(200, 400)
    taste = rng.integers(0, 2, groups)
    history = np.stack([rng.choice(np.arange(400)[kind == t], length) for t in taste]) + 1
    item = rng.choice(part, (groups, candidates)) + 1
    label = (kind[item - 1] == taste[:, None]).astype(np.float32)
    batch = make_batch(groups=groups, candidates=candidates, length=length, embeddings=moved, counted=False)
    batch = replace(batch, valid=torch.ones(groups, candidates, dtype=torch.bool), label=torch.from_numpy(label))
    batch = replace(batch, item=torch.from_numpy(item), vector=torch.from_numpy(item))
    every = torch.ones(groups, length, dtype=torch.bool)
    batch = replace(batch, history=torch.from_numpy(history), history_vector=torch.from_numpy(history), present=every)
    rows = table_rows(moved)
    cosines = torch.bmm(rows[batch.vector], rows[batch.history_vector].transpose(1, 2))
    tiers = (torch.ceil(cosines * TIERS / 2) + TIERS / 2 - 1).clamp(0, TIERS - 1).long()
    counts = torch.nn.functional.one_hot(tiers, TIERS).sum(dim=2).float()
    return moved, replace(batch, counts=torch.cat([counts, torch.zeros(groups, candidates, 1)], dim=2))


def area(model, batch):
    """AUC by counting pairs."""
    with torch.no_grad():
        logits, label = model.eval()(batch).flatten(), batch.label.flatten() > 0
    good, bad = logits[label][:, None], logits[~label][None, :]
    return float(((good > bad).double() + 0.5 * (good == bad).double()).mean())


def trained(build, batch, made, steps=30):
    torch.manual_seed(0)
    model = build(made)
    seen = torch.zeros(made.shapes.items, dtype=torch.bool)
    seen[batch.item.unique()] = True
    model.learn(Statistics(batch, seen))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss(batch).backward()
        optimizer.step()
    return model


def test_content_ranks_new_items_that_ids_cannot():
    embeddings, train = planted(0)
    _, test = planted(1)
    made = parts(embeddings)
    assert 0.4 < area(trained(Din, train, made), test) < 0.6
    table = table_of(made)
    for build in (
        lambda made: Din(made, [Raw(table, 8, 8)]),
        lambda made: Din(made, [Similarity(table)]),
        lambda made: Din(made, [SimTier(TIERS)]),
        lambda made: Din(made, [Make(trained(MultimodalDin, train, made), 2)]),
        lambda made: Fat(made, [SimTier(TIERS)]),
        lambda made: MultiTask(made, [SimTier(TIERS)]),
    ):
        assert area(trained(build, train, made), test) > 0.8


class Exported(torch.nn.Module):
    """A model whose inputs are the tensors of a batch, vectors looked up outside."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *tensors):
        return self.model(Batch(*tensors))


@pytest.mark.parametrize("name", ["fat sides", "multitask sides"])
def test_models_are_traced_with_sizes_left_open(name):
    model = model_of(name).eval()
    groups, candidates, length = (torch.export.Dim(label, min=1) for label in ("groups", "candidates", "length"))
    batch, other = make_batch(groups=3, candidates=4, length=6), make_batch(seed=1, groups=2, candidates=7, length=9)
    shapes = tuple(
        {0: groups, 1: length} if field.name in ("history", "history_vector", "present") else {0: groups, 1: candidates}
        for field in fields(Batch)
    )
    tensors = tuple(getattr(batch, field.name) for field in fields(Batch))
    program = torch.export.export(Exported(model), tensors, dynamic_shapes=(shapes,), strict=False).module()
    with torch.no_grad():
        for given in (batch, other):
            found = program(*(getattr(given, field.name) for field in fields(Batch)))
            assert torch.allclose(found, model(given), atol=1e-5)


def test_shapes_without_labels_or_tiers_still_build_the_plain_models():
    made = replace(parts(), shapes=Shapes(31, 0), table=None)
    batch = replace(make_batch(), scalars=torch.zeros(4, 3, 0), counts=torch.zeros(4, 3, 1))
    assert Din(made)(batch).shape == Fat(made)(batch).shape == (4, 3)
