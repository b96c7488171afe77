"""Item towers: what goes into the model, what the hash covers, and which models are refused before they are served."""

import dataclasses
import json
import pickle
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from encoders import Encoder, Item, hash_content
from encoders import tower as command
from encoders.content import WHOLE_CONTENT
from encoders.item_fields import attribute, hash_fields
from encoders.kinds import load_any, reader_of
from encoders.tower_artifact import load_tower
from encoders.tower_inputs import Column, read_vocabulary
from moontide.embeddings import Embeddings
from moontide.errors import Misconfigured
from streaming.encoder_child import encode
from tests import tiny_tower

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("tower")
    tiny_tower.artifact(home)
    return home / "pre_v1"


@pytest.fixture(scope="module")
def tower(folder):
    return Encoder.load(folder, threads=1)


prices = st.none() | st.floats(0, 1e9, width=32)
kinds = st.none() | st.sampled_from([*tiny_tower.CATEGORIES, "hats ", "unheard of", ""])
things = st.builds(Item, st.just("x"), st.just("t"), price=prices, category=kinds, image=st.none() | st.just(b"not opened"))


@given(st.lists(things, max_size=5))
def test_vectors_are_those_of_the_model_on_the_described_inputs(tower, items):
    want = np.array([tiny_tower.expected(i.price, bool(i.image), (i.category or "").strip()) for i in items], np.float32).reshape(
        -1, tiny_tower.DIM
    )
    got = tower.encode(items)
    # Equal up to float noise before quantisation, so at most one step after it.
    assert np.allclose(tower.floats(tower.prepare(items)), want, rtol=1e-5, atol=1e-5)
    codes = Embeddings.from_float(tower.space, want).codes
    assert np.abs(got.codes.astype(int) - codes).max(initial=0) <= 1
    assert got.ids == tuple(i.item_id for i in items) and got.space == tower.space


def test_no_item_and_one(tower):
    assert tower.encode([]).codes.shape == (0, tiny_tower.DIM)
    assert tower.encode_or_reject([Item("a", title="t")])[0].present.all()


@given(things, things)
def test_the_hash_changes_with_what_is_read_and_with_nothing_else(tower, one, other):
    def read(item):
        price = None if item.price is None else np.float32(item.price) + 0.0
        return price, (item.category or "").strip(), bool(item.image)

    assert (tower.content_hash(one) == tower.content_hash(other)) == (read(one) == read(other))
    renamed = dataclasses.replace(one, item_id="y", title="another", description="d", attributes="colour red")
    assert tower.content_hash(renamed) == tower.content_hash(one)


def test_a_price_does_not_touch_the_hash_of_images_and_texts(folder):
    plain, priced = Item("a", title="t"), Item("a", title="t", price=2.0, category="hats")
    assert hash_content(plain, None) == hash_content(priced, None) == WHOLE_CONTENT.hash(priced, None)
    reader = reader_of(folder)
    assert reader.hash(plain, None) != reader.hash(priced, None)
    assert reader.scheme == ("category", "has_image", "price")


def test_a_lean_item_has_the_same_hash_and_vector(tower):
    item = Item("a", title="t", price=2.0, image=b"a megabyte")
    lean = tower.artifact.inputs.lean(item)
    assert len(lean.image) == 1 and tower.content_hash(lean) == tower.content_hash(item)
    assert (tower.encode([lean]).codes == tower.encode([item]).codes).all()
    assert tower.artifact.inputs.hash(dataclasses.replace(item, image=None), b"x") == tower.content_hash(item)
    assert tower.artifact.inputs.lean(Item("a", title="t")).image is None


def test_hashes_stay_what_they_are():
    fields = ("category", "has_image", "price")
    assert hash_fields(Item("a", price=2.5, category="hats"), fields) == "ffb27db51d5f6d70ca396c64c2a553ab"
    assert hash_fields(Item("a", price=0.0), fields) == hash_fields(Item("a", price=-0.0), fields)
    # A value of float32 and the same of float64 are one price.
    assert hash_fields(Item("a", price=19.99), fields) == hash_fields(Item("a", price=float(np.float32(19.99))), fields)
    assert hash_fields(Item("a", category=None), fields) == hash_fields(Item("a", category="  "), fields)


def test_the_artifact_travels_and_its_digest_covers_every_file(folder, tmp_path):
    artifact = load_any(folder)
    assert pickle.loads(pickle.dumps(artifact)).inputs.arrays([Item("a")])["category"].tolist() == [[0]]
    for name in ("tower.onnx", "inputs.json", "vocabulary_0.txt"):
        copy = tmp_path / name.replace(".", "_")
        copy.mkdir()
        for file in folder.iterdir():
            data = file.read_bytes()
            (copy / file.name).write_bytes(data if file.name != name else data + b"\n")
        with pytest.raises(Misconfigured, match="expected digest"):
            Encoder.load(copy)
    body = json.loads((folder / "manifest.json").read_text())
    assert (body["kind"], body["opset"], body["space"]["dim"]) == ("item_tower", 17, tiny_tower.DIM)
    with pytest.raises(Misconfigured, match="images and texts, got kind 'item_tower'"):
        Encoder.load_moon(folder)


def test_the_encoder_process_serves_a_tower(tower):
    items = [Item("0", title="t", price=1.0), Item("1", title="t", price=1e38), Item("2", title="t")]
    answer = encode(tower, items, lambda row, done: None)
    assert answer.rows == (0, 1, 2) and answer.rejects == {}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"names": ("numbers", "kind"), "made": None}, r"expected the inputs \['category', 'numbers'\].*\['kind', 'numbers'\]"),
        ({"ids": TensorProto.INT32, "numbers": TensorProto.DOUBLE}, "onnxruntime cannot run it"),
        ({"batch": 4}, "batch of any size, got 4 rows"),
    ],
)
def test_models_that_do_not_fit_their_description(tmp_path, capsys, wrong, said):
    made = tiny_tower.nodes()
    if wrong.get("names"):
        made[0].input[1] = wrong["names"][1]
    refuse(tmp_path, capsys, said, data=tiny_tower.model(**{**wrong, "made": made}))


def refuse(tmp_path, capsys, said, **wrong):
    flags = tiny_tower.write(tmp_path / "source", **wrong)
    assert command.main([*flags, "--name", "pre", "--version", "1", "--out", str(tmp_path / "out")]) == 1
    line = capsys.readouterr().err
    assert re.search(said, line), line
    assert not (tmp_path / "out").exists()


def test_numbers_where_the_model_wants_ids_are_refused(tmp_path, capsys):
    swapped = tiny_tower.INPUTS.replace('name = "numbers"', 'name = "x"').replace('name = "category"', 'name = "numbers"')
    refuse(
        tmp_path,
        capsys,
        r"tensor\(double\) or tensor\(float\) for numbers, got tensor\(int64\)",
        inputs=swapped.replace('name = "x"', 'name = "category"'),
    )


def test_columns_that_are_not_those_of_the_model(tmp_path, capsys):
    one = tiny_tower.INPUTS.replace('  { field = "has_image" },\n', "")
    refuse(tmp_path, capsys, r"input numbers: expected shape \(B, 1\) or \(B,\), got \['batch', 2\]", inputs=one)


def extra(*more):
    """The tiny tower, its vector passed through more nodes from ``plain`` to ``vector``."""
    made = tiny_tower.nodes()
    made[-1].output[0] = "plain"
    return tiny_tower.model(made=[*made, *more])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (extra(helper.make_node("ReduceMean", ["plain"], ["mean"], axes=[0]), helper.make_node("Sub", ["plain", "mean"], ["vector"])),
         "depends on the other rows"),
        (extra(helper.make_node("Sub", ["plain", "plain"], ["vector"])), "got a vector of zeros where the inputs are"),
        (extra(helper.make_node("Log", ["plain"], ["vector"])), "got NaN or infinity where the inputs are"),
        (extra(helper.make_node("RandomNormalLike", ["plain"], ["noise"]), helper.make_node("Add", ["plain", "noise"], ["vector"])),
         "depends on"),
        (extra(helper.make_node("ReduceMean", ["plain"], ["vector"], axes=[0])), "expected 32 vectors"),
        (b"no model", "expected an ONNX model"),
    ],
)  # fmt: skip
def test_models_that_give_no_usable_vectors(tmp_path, capsys, data, said):
    refuse(tmp_path, capsys, said, data=data)


def test_a_vocabulary_longer_than_the_embedding_table(tmp_path, capsys):
    refuse(tmp_path, capsys, "does every vocabulary fit its embedding table", words="a\nb\nc\nd\n")
    refuse(tmp_path, capsys, "line 2: expected a text of its own, got 'a', which is line 1", words="a\n a\n")


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (tiny_tower.INPUTS.replace('"price"', '"prize"'), "expected one of .* got 'prize'"),
        (tiny_tower.INPUTS.replace("std = 1.5", "std = 0"), "std above 0"),
        (tiny_tower.INPUTS.replace("std = 1.5", 'std = "x"'), "expected float, got 'x'"),
        (tiny_tower.INPUTS.replace("categories.txt", "absent.txt"), "vocabulary absent.txt: expected a file"),
        (tiny_tower.INPUTS.replace(', vocabulary = "categories.txt"', ""), "expected a vocabulary, got none"),
        (tiny_tower.INPUTS.replace('"has_image"', '"price", vocabulary = "categories.txt"'), "a text with a vocabulary"),
        ("output = 3\n" + tiny_tower.INPUTS, "output: expected the name"),
        ('output = "other"\n' + tiny_tower.INPUTS, r"expected output other, got \['vector'\]"),
        ("", r"one or more \[\[input\]\]"),
        ("[[input]", "expected TOML"),
    ],
)
def test_descriptions_that_cannot_be(tmp_path, capsys, inputs, said):
    refuse(tmp_path, capsys, said, inputs=inputs)


def test_double_and_int32_inputs_of_two_dimensions(tmp_path):
    made = [
        helper.make_node("Cast", ["numbers"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["table", "category"], ["embedded"]),
        helper.make_node("Concat", ["floats", "embedded"], ["joined"], axis=1),
        helper.make_node("Gemm", ["joined", "w", "b"], ["vector"]),
    ]
    data = tiny_tower.model(made=made, ids=TensorProto.INT32, numbers=TensorProto.DOUBLE)
    tiny_tower.artifact(tmp_path, data=data)
    got = Encoder.load(tmp_path / "pre_v1")
    item = Item("a", title="t", price=3.0, category="shoes")
    assert np.allclose(got.floats(got.prepare([item]))[0], tiny_tower.expected(3.0, False, "shoes"), atol=1e-5)


@pytest.mark.parametrize(
    ("text", "name", "found"),
    [
        ("colour red; Size 40", "size", "40"),
        ("colour: dark red;", "colour", "dark red"),
        ("coloured red", "colour", None),
        ("sleeve length long", "sleeve length", "long"),
        ("size", "size", None),
        (None, "size", None),
    ],
)
def test_attributes(text, name, found):
    assert attribute(text, name) == found
    assert Column(f"attribute.{name}", vocabulary="v", missing=7).id_of(found, {"40": 0, "red": 1}) == (
        7 if found is None else 1 if found == "40" else 0
    )


def test_lines_of_a_vocabulary_end_as_they_like():
    assert read_vocabulary("a\r\ncafe\u0301".encode(), "v") == ("a", "caf\u00e9")
    with pytest.raises(Misconfigured, match="UTF-8"):
        read_vocabulary(b"\xff", "v")
    with pytest.raises(Misconfigured, match="empty"):
        read_vocabulary(b"", "v")


def test_the_command_prints_the_space_to_paste(tmp_path, capsys):
    flags = tiny_tower.write(tmp_path / "source")
    out = tmp_path / "out"
    assert command.main([*flags, "--name", "pre", "--version", "2", "--training-cutoff", "2026-01-31", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    space = load_tower(out).manifest.space
    assert f'encoder_digest = "{space.encoder_digest}"' in said and "version = 2" in said
    assert json.loads((out / "manifest.json").read_text())["training_cutoff"] == "2026-01-31"
    with pytest.raises(SystemExit):
        command.main([*flags, "--name", "pre", "--version", "2", "--training-cutoff", "2026-02-30", "--out", str(out)])
    assert "expected a day as 2024-12-31, got '2026-02-30'" in capsys.readouterr().err
