"""What a ``spaces.toml`` may say."""

import pytest

from moontide import Misconfigured
from moontide.live import load_spaces

pytestmark = pytest.mark.unit
GOOD = """
[[space]]
name = "moon"
version = 1
dim = 8
[[simtier]]
space = "moon_v1"
tiers = 10
length = 3
[[service]]
name = "ctr_v1"
space = "moon_v1"
simtier = "moon_v1_n10_l3_drop"
item_fields = ["price"]
"""


def load(tmp_path, text):
    (tmp_path / "spaces.toml").write_text(text)
    return load_spaces(tmp_path / "spaces.toml")


def test_a_good_file_and_an_empty_one(tmp_path):
    assert load(tmp_path, GOOD).service("ctr_v1").item_fields == ("price",)
    assert load(tmp_path, "").spaces == ()


@pytest.mark.parametrize(
    ("good", "bad", "says"),
    [
        ("tiers = 10", 'tiers = "10"', "tiers: expected a TOML integer"),
        ("length = 3", "length = 3.0", "length: expected a TOML integer"),
        ("version = 1", "version = 1.5", "version: expected a TOML integer"),
        ("version = 1", "version = true", "version: expected a TOML integer"),
        ("dim = 8", 'dim = "8"', "dim: expected a TOML integer"),
        ('name = "moon"', "name = 7", "name: expected a TOML string"),
        ("dim = 8", "dim = 8\nartifact = 3", "artifact: expected a TOML string"),
        ('item_fields = ["price"]', 'item_fields = "price"', "item_fields: expected a TOML array"),
        ('item_fields = ["price"]', "item_fields = [1]", "item_fields to be strings"),
        ("[[simtier]]", "[simtier]", r"expected tables \[\[simtier\]\]"),
        ("tiers = 10", "tiers = 10\nlenght = 3", "lenght"),
    ],
)
def test_a_value_of_another_type_is_misconfigured(tmp_path, good, bad, says):
    with pytest.raises(Misconfigured, match=says):
        load(tmp_path, GOOD.replace(good, bad, 1))


def test_specs_must_fit_the_sequences_kept(tmp_path):
    live = load(tmp_path, GOOD)
    live.require_length(3)
    with pytest.raises(Misconfigured, match="moon_v1_n10_l3_drop"):
        live.require_length(2)


def test_a_file_that_cannot_be_read_is_misconfigured(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(Misconfigured, match="^live spaces: expected a .*file at"):
            load_spaces(path)
