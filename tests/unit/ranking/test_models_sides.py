from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from moontide.errors import Misconfigured
from moontide.simtier import SimTierSpec, reference_tier_counts
from ranking.models.attention import TargetAttention
from ranking.models.base import Statistics, VectorTable
from ranking.models.make import Make, MultimodalDin
from ranking.models.projection import Projection, table_of
from ranking.models.raw import Raw, VectorAttention
from ranking.models.sata import SaTa
from ranking.models.similarity import Similarity
from ranking.models.simtier import SimTier
from tests.unit.ranking.model_world import (
    DIM,
    ITEMS,
    TIERS,
    make_batch,
    of_groups,
    one_each,
    padded,
    parts,
    table_rows,
    vectors,
    without_vectors,
)

pytestmark = pytest.mark.unit


def sides():
    torch.manual_seed(0)
    made = parts()
    table = table_of(made)
    found = {
        "raw": Raw(table, 6, 5),
        "raw target": Raw(table, 6, 5, pooled=False),
        "similarity": Similarity(table),
        "similarity last": Similarity(table, last=2),
        "simtier": SimTier(TIERS),
        "simtier wide": SimTier(TIERS, (1, 2, 5), width=3, cumulative=True),
        "make": Make(MultimodalDin(made), len(made.sizes.hidden)),
        "make frozen": Make(MultimodalDin(made), len(made.sizes.hidden), frozen=True),
    }
    for side in found.values():
        for module in side.modules():
            if hasattr(module, "age"):
                torch.nn.init.normal_(module.age)
    return found


def outputs(side, batch):
    found = side(batch)
    return torch.cat([found.entry, *found.hidden, *([] if found.logit is None else [found.logit])], dim=2)


@pytest.mark.parametrize("name", sides())
@pytest.mark.parametrize(("groups", "candidates", "length"), [(4, 3, 6), (0, 3, 6), (1, 1, 1), (2, 2, 0)])
def test_outputs_have_the_promised_widths_and_are_finite(name, groups, candidates, length):
    side = sides()[name]
    batch = make_batch(groups=groups, candidates=candidates, length=length)
    for given in (batch, without_vectors(batch), replace(batch, present=torch.zeros_like(batch.present))):
        found = side(given)
        assert found.entry.shape == (groups, candidates, side.widths.entry)
        assert tuple(part.shape[2] for part in found.hidden) == side.widths.hidden
        assert (0 if found.logit is None else found.logit.shape[2]) == side.widths.logit
        assert torch.isfinite(outputs(side, given)).all()


@pytest.mark.parametrize("name", ["raw", "raw target", "simtier", "simtier wide", "make"])
def test_every_trained_weight_gets_a_finite_gradient(name):
    side = sides()[name]
    outputs(side, make_batch()).square().sum().backward()
    for label, weight in side.named_parameters():
        assert weight.grad is not None, label
        assert torch.isfinite(weight.grad).all(), label


@pytest.mark.parametrize("name", sides())
def test_a_candidate_does_not_depend_on_its_group_nor_on_padding(name):
    side = sides()[name].eval()
    batch = make_batch(groups=5, candidates=8, length=7)
    found = outputs(side, batch).reshape(40, 1, -1)
    assert torch.allclose(outputs(side, one_each(batch)), found, atol=1e-5)
    assert torch.allclose(outputs(side, padded(batch)), outputs(side, batch), atol=1e-5)


def test_projecting_the_table_or_the_lookups_is_the_same():
    torch.manual_seed(0)
    small, large = make_batch(groups=1, candidates=2, length=3), make_batch(groups=9, candidates=4, length=9)
    project = Projection(VectorTable(table_rows(vectors())), 4)
    assert small.vector.numel() + small.history_vector.numel() < ITEMS + 1 < large.vector.numel() + large.history_vector.numel()
    for batch in (small, large):
        for found, at in zip(project(batch), (batch.vector, batch.history_vector), strict=True):
            rows = project.table.rows[at].numpy() * DIM**0.5
            expected = rows @ project.linear.weight.detach().numpy().T + project.linear.bias.detach().numpy()
            assert np.allclose(found.detach().numpy(), expected * (at > 0).numpy()[..., None], atol=1e-5)


def test_without_a_table_content_cannot_be_built():
    with pytest.raises(Misconfigured, match="vectors of a space"):
        table_of(replace(parts(), table=None))


def test_raw_leaves_behaviours_without_a_vector_out():
    torch.manual_seed(0)
    side = Raw(VectorTable(table_rows(vectors())), 6, 5)
    torch.nn.init.normal_(side.attention.age)
    batch = make_batch(groups=3, length=6)
    gaps = batch.history_vector == 0
    assert (gaps & batch.present).any()
    assert torch.equal(side(batch).entry, side(replace(batch, present=batch.present & ~gaps)).entry)
    assert (side(batch).entry[:, :, -1] == (batch.vector == 0)).all()
    assert (side(batch).entry[:, :, :6][batch.vector == 0] == 0).all()


def test_vector_attention_is_target_attention_over_ids_beside_vectors():
    torch.manual_seed(0)
    attention = VectorAttention(4, 5, VectorTable(table_rows(vectors())), projected=3)
    batch = make_batch()
    target, behaviours = torch.randn(4, 3, 4), torch.randn(4, 6, 4)
    found = attention(target, behaviours, batch)
    assert found.shape == (4, 3, 4)
    assert (found[0] == 0).all()  # the first history is empty
    # Without any vector what is joined is zeros: the attention over ids with the weights cut to their width.
    plain = TargetAttention(4, 5)
    for name in ("query", "key", "value"):
        source, goal = getattr(attention, name), getattr(plain, name)
        goal.weight.data, goal.bias.data = source.weight.data[:, :4].clone(), source.bias.data.clone()
    blind = without_vectors(batch)
    assert torch.allclose(attention(target, behaviours, blind), plain(target, behaviours, blind), atol=1e-6)
    assert not torch.allclose(found[1:], plain(target, behaviours, batch)[1:], atol=1e-3)


def test_similarities_equal_plain_loops():
    embeddings = vectors()
    rows = table_rows(embeddings).numpy()
    side = Similarity(VectorTable(torch.from_numpy(rows)), last=2)
    batch = make_batch(groups=6, candidates=4, length=6)
    scalars, there = side.scalars(batch)
    for g in range(6):
        for k in range(4):
            every, newest = [], []
            for at in range(6):
                usable = batch.present[g, at] and batch.history_vector[g, at] and batch.vector[g, k]
                if usable and batch.history[g, at] != batch.item[g, k]:
                    every.append(float(rows[batch.vector[g, k]] @ rows[batch.history_vector[g, at]]))
                    newest += every[-1:] if at >= 4 else []
            assert bool(there[g, k]) == bool(every)
            mean = np.mean(every) if every else 0
            expected = [mean, max(every, default=0), np.mean(newest) if newest else mean]
            assert np.allclose(scalars[g, k].numpy(), expected, atol=1e-5)


def test_similarities_are_standardised_where_there_are_any():
    side = Similarity(VectorTable(table_rows(vectors())))
    batch = make_batch(groups=40, candidates=5)
    side.learn_from(Statistics(batch, torch.zeros(ITEMS + 1, dtype=torch.bool)))
    found, there = side(batch).entry, side.scalars(batch)[1]
    rows = found[batch.valid & there][:, :2]
    assert torch.allclose(rows.mean(dim=0), torch.zeros(2), atol=1e-4)
    assert torch.allclose(rows.std(dim=0, correction=0), torch.ones(2), atol=1e-4)
    assert (found[~there][:, :2] == 0).all()
    assert torch.equal(found[:, :, 3] == 1, ~there)
    nothing = Similarity(side.table)
    nothing.learn_from(Statistics(without_vectors(batch), torch.zeros(ITEMS + 1, dtype=torch.bool)))
    assert torch.equal(nothing.standard.spread, torch.ones(2))


@pytest.mark.parametrize("group", [2, 5, 10])
def test_sums_of_fine_tiers_are_the_kernels_wider_tiers(group):
    embeddings = vectors(items=60, seed=3)
    spec = SimTierSpec("toy_v1", tiers=TIERS, length=40)
    wide = SimTierSpec("toy_v1", tiers=TIERS // group, length=40)
    candidates, history = embeddings.take(slice(0, 20)), embeddings.take(slice(10, 50))
    fine = reference_tier_counts(candidates, history, spec)
    found = SimTier(TIERS, (group,)).columns(torch.from_numpy(np.column_stack([fine.counts, fine.missing]).astype(np.float32)))
    expected = reference_tier_counts(candidates, history, wide)
    assert (expected.counts > 0).sum() > 20
    assert np.array_equal(found.numpy(), np.column_stack([expected.counts, expected.missing]))


def test_cumulative_counts_are_behaviours_in_a_tier_or_above():
    columns = SimTier(4, (2,), cumulative=True).columns(torch.tensor([[1.0, 0, 2, 3, 7]]))
    assert columns.tolist() == [[1, 5, 6, 5, 5, 3, 7]]


def test_tiers_are_weighed_standardised_logarithms():
    side = SimTier(2, width=2)
    batch = replace(make_batch(groups=1, candidates=2), counts=torch.tensor([[[0.0, 3, 1], [2, 3, 0]]]))
    batch = replace(batch, valid=torch.ones(1, 2, dtype=torch.bool))
    side.learn_from(Statistics(batch, torch.zeros(1, dtype=torch.bool)))
    side.weight.data = torch.tensor([[1.0, 2], [1, 1], [-1, 0]])
    # Tier 1 is always 3: it does not vary, so its spread stays 1 and its value is 0. The others are one spread off.
    assert torch.allclose(side(batch).entry, torch.tensor([[[-1.0, -2, 0, 0, -1, 0], [1, 2, 0, 0, 1, 0]]]), atol=1e-5)


@pytest.mark.parametrize("resolutions", [(), (3,), (0,), (1, 7)])
def test_resolutions_that_do_not_divide_the_tiers_are_refused(resolutions):
    with pytest.raises(Misconfigured, match="divide"):
        SimTier(TIERS, resolutions)
    with pytest.raises(Misconfigured, match="divide"):
        SimTier(0)


def sata(seed=0):
    torch.manual_seed(seed)
    attention = SaTa(4, 5, VectorTable(table_rows(vectors())))
    torch.nn.init.normal_(attention.age)
    return attention


def test_sa_ta_without_its_bias_is_target_attention():
    attention, batch = sata(), make_batch()
    plain = TargetAttention(4, 5)
    plain.load_state_dict({name: value for name, value in attention.state_dict().items() if name in plain.state_dict()})
    target, behaviours = torch.randn(4, 3, 4), torch.randn(4, 6, 4)
    assert not torch.allclose(attention(target, behaviours, batch), plain(target, behaviours, batch), atol=1e-3)
    attention.mix.data = torch.tensor([1.0, 0, 0])
    assert torch.equal(attention(target, behaviours, batch), plain(target, behaviours, batch))


def test_sa_ta_equals_the_formula():
    attention, batch = sata(), make_batch()
    attention.mix.data = torch.tensor([0.5, 2.0, -1.5])
    attention.temperature.data = torch.tensor(0.2)
    rows = attention.table.rows.numpy()
    dots = np.random.default_rng(0).normal(size=(4, 3, 6)).astype(np.float32)
    cosines = np.einsum("gkd,gld->gkl", rows[batch.vector], rows[batch.history_vector])
    bias = cosines / 0.2
    expected = 0.5 * dots + 2 * bias - 1.5 * dots * bias
    assert np.allclose(attention.scores(torch.from_numpy(dots), batch).detach().numpy(), expected, atol=1e-4)


def test_a_temperature_that_training_drove_below_zero_stays_finite():
    attention, batch = sata(), make_batch()
    attention.temperature.data = torch.tensor(-0.3)
    found = attention(torch.randn(4, 3, 4), torch.randn(4, 6, 4), batch)
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("build", [lambda table: TargetAttention(4, 5), lambda table: SaTa(4, 5, table)])
def test_attention_without_ages_does_not_know_the_order_of_behaviours(build):
    torch.manual_seed(0)
    attention = build(VectorTable(table_rows(vectors())))
    batch = make_batch()
    target, behaviours = torch.randn(4, 3, 4), torch.randn(4, 6, 4)
    turned = replace(
        batch, history=batch.history.flip(1), history_vector=batch.history_vector.flip(1), present=batch.present.flip(1)
    )
    assert torch.allclose(attention(target, behaviours, batch), attention(target, behaviours.flip(1), turned), atol=1e-5)
    torch.nn.init.normal_(attention.age)
    assert not torch.allclose(attention(target, behaviours, batch), attention(target, behaviours.flip(1), turned), atol=1e-3)


def test_make_brings_what_its_model_computes():
    torch.manual_seed(0)
    made = parts(hidden=(8, 6))
    model = MultimodalDin(made)
    side, batch = Make(model, 2), make_batch()
    found = side(batch)
    target, behaviours = model.project(batch)
    have = replace(batch, present=batch.present & (batch.history_vector > 0))
    interest = model.attention(target, behaviours, have)
    assert torch.equal(found.entry, torch.cat([target, interest, target * interest], dim=2))
    value = torch.cat([found.entry, model.scalars(batch.scalars)], dim=2)
    for layer, hidden in zip(model.mlp.layers, found.hidden, strict=True):
        value = layer(value)
        assert torch.equal(hidden, value)
    assert torch.equal(found.logit, model.mlp.last(value))
    assert torch.equal(model(batch), model.mlp(torch.cat([found.entry, model.scalars(batch.scalars)], dim=2), batch))


def test_a_frozen_make_is_not_trained_and_keeps_scoring_without_dropout():
    torch.manual_seed(0)
    made = parts(dropout=0.5)
    batch = make_batch()
    frozen, joint = (Make(MultimodalDin(made), 2, frozen=frozen).train() for frozen in (True, False))
    assert torch.equal(outputs(frozen, batch), outputs(frozen, batch))
    assert not torch.equal(outputs(joint, batch), outputs(joint, batch))
    assert not any(weight.requires_grad for weight in frozen.parameters())
    assert all(weight.requires_grad for weight in joint.parameters())


def test_make_must_be_as_deep_as_what_it_joins():
    with pytest.raises(Misconfigured, match="hidden layers"):
        Make(MultimodalDin(parts(hidden=(8, 6))), 3)


def test_a_group_can_be_cut_out():
    side, batch = sides()["make"].eval(), make_batch(groups=6)
    assert torch.allclose(outputs(side, batch)[2:4], outputs(side, of_groups(batch, slice(2, 4))), atol=1e-5)
