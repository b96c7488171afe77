"""A tiny item tower as an artifact: price, whether there is a picture, and one of three categories to 8 numbers."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from encoders import tower
from encoders.tower_artifact import load_tower

DIM = 8
CATEGORIES = ("hats", "shoes", "bags and more")
INPUTS = """
[[input]]
name = "numbers"
columns = [
  { field = "price", transform = "log1p", mean = 2.0, std = 1.5, missing = -1 },
  { field = "has_image" },
]

[[input]]
name = "category"
columns = [{ field = "category", vocabulary = "categories.txt" }]
"""


def weights(seed=3):
    rng = np.random.default_rng(seed)
    return {
        "table": rng.standard_normal((4, 3)).astype(np.float32),
        "w": rng.standard_normal((5, DIM)).astype(np.float32),
        "b": rng.standard_normal(DIM).astype(np.float32),
    }


def nodes():
    """``concat(numbers, table[category]) @ w + b``."""
    return [
        helper.make_node("Gather", ["table", "category"], ["embedded"]),
        helper.make_node("Concat", ["numbers", "embedded"], ["joined"], axis=1),
        helper.make_node("Gemm", ["joined", "w", "b"], ["vector"]),
    ]


def model(
    *, made=None, batch="batch", ids=TensorProto.INT64, numbers=TensorProto.FLOAT, names=("numbers", "category"), values=None
):
    """ONNX bytes; the arguments are what a wrong one has wrong."""
    graph = helper.make_graph(
        made or nodes(),
        "tower",
        [
            helper.make_tensor_value_info(names[0], numbers, [batch, 2]),
            helper.make_tensor_value_info(names[1], ids, [batch]),
        ],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, [batch, DIM])],
        [numpy_helper.from_array(array, name) for name, array in (values or weights()).items()],
    )
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


def write(folder, data=None, inputs=INPUTS, words="\n".join(CATEGORIES) + "\n"):
    """The three files that `encoders.tower` takes; returns its flags, but for name, version and out."""
    folder.mkdir(exist_ok=True)
    (folder / "tower.onnx").write_bytes(model() if data is None else data)
    (folder / "inputs.toml").write_text(inputs)
    (folder / "categories.txt").write_text(words)
    return ["--onnx", str(folder / "tower.onnx"), "--inputs", str(folder / "inputs.toml")]


def artifact(folder, name="pre", version=1, **wrong):
    """The space of a tower made below `folder`, whose artifact is ``folder/<name>_v<version>``."""
    out = folder / f"{name}_v{version}"
    flags = write(folder / "source", **wrong)
    assert tower.main([*flags, "--name", name, "--version", str(version), "--out", str(out)]) == 0
    return load_tower(out).manifest.space


def expected(price, image, category, seed=3):
    """(DIM,) what the tower computes, in plain numpy."""
    w = weights(seed)
    scaled = -1.0 if price is None else (np.sign(price) * np.log1p(abs(price)) - 2.0) / 1.5
    row = 1 + CATEGORIES.index(category) if category in CATEGORIES else 0
    return np.concatenate([[scaled, float(image)], w["table"][row]]) @ w["w"] + w["b"]
