"""The encoder's child process dies, hangs, lies and eats memory; every other item is encoded, and the guilty one is named."""

import importlib.util
import io
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoders import Encoder, Item
from encoders.stub import StubEncoder
from moontide.errors import Misconfigured, SpaceMismatch, Transient
from moontide.live import LiveSpace, load_spaces
from moontide.settings import Settings
from moontide.spaces import EmbeddingSpace
from streaming.encoder_process import EncoderProcess, encoder_process, stub_process

pytestmark = pytest.mark.faults
ROOT = Path(__file__).parents[2]
FAULTY = ROOT / "tests" / "faulty_encoder.py"
SPACE = EmbeddingSpace("stub", 1, 32)
MOON = load_spaces(ROOT / "feature_repo" / "spaces.toml").live("moon_v2")
spec = importlib.util.spec_from_file_location("faulty_encoder", FAULTY)
faulty = importlib.util.module_from_spec(spec)
spec.loader.exec_module(faulty)


def settings(**options):
    return Settings(**{"stream_encode_seconds": 1.5, **options})


def items(*titles):
    return [Item(f"item{at}", title=title) for at, title in enumerate(titles)]


def good(count, start=0):
    return [f"shoe {n}" for n in range(start, start + count)]


def check(encoder, batch, refused):
    """The rows of `refused` have these faults; all others have the vector that an encoder without faults gives."""
    out = encoder.encode(batch)
    assert {row: why.reason for row, why in out.refused.items()} == refused
    assert out.rows == tuple(row for row in range(len(batch)) if row not in refused)
    kept = [batch[row] for row in out.rows]
    stub = StubEncoder(SPACE)
    expected = stub.run(stub.prepare(kept))
    np.testing.assert_array_equal(out.vectors.codes, expected.codes)
    np.testing.assert_array_equal(out.vectors.scale, expected.scale)
    assert out.vectors.ids == tuple(item.item_id for item in kept)
    return out


def gone(pid, seconds=2.0):
    """Whether the process ends within `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


@pytest.fixture(scope="module")
def encoder():
    with closing(faulty.faulty_process(LiveSpace(SPACE, None), settings())) as process:
        yield process


@pytest.fixture(scope="module")
def moon():
    with closing(encoder_process(MOON, Settings())) as process:
        yield process


@pytest.mark.parametrize("count", [0, 1, 33])
def test_batches_come_back_whole(encoder, count):
    check(encoder, items(*good(count)), {})


def test_same_ids_and_missing_content_are_told_apart(encoder):
    batch = [Item("a", title="one"), Item("a", title="two"), Item("a", image=b"unreadable"), Item("a", image=b"x")]
    check(encoder, batch, {2: "image_unreadable"})


def test_a_path_is_refused_before_it_reaches_the_child(encoder):
    check(encoder, [Item("a", image="../../etc/passwd"), Item("b", title="shoe")], {0: "image_refused"})


def test_more_items_than_one_frame_holds(encoder):
    check(encoder, items(*good(1_030)), {})


@pytest.mark.parametrize(
    ("title", "fault"),
    [
        ("fault:oom", "encoder_out_of_memory"),
        ("fault:hang", "encoder_timed_out"),
        ("fault:garbage", "encoder_crashed"),
        ("fault:run-abort", "encoder_crashed"),
    ],
)
def test_the_guilty_item_is_refused_and_the_others_are_encoded(encoder, title, fault):
    out = check(encoder, items(*good(2), title, *good(1, 2)), {2: fault})
    assert out.refused[2].attempts == 2
    assert title not in out.refused[2].detail


def test_a_culprit_that_was_being_decoded_costs_three_restarts(encoder):
    before = encoder.restarts
    check(encoder, items(*good(20), "fault:abort", *good(11, 20)), {20: "encoder_crashed"})
    assert encoder.restarts - before == 3


def test_several_guilty_items_and_a_batch_of_one(encoder):
    check(encoder, items("fault:abort 1", "shoe", "fault:oom"), {0: "encoder_crashed", 2: "encoder_out_of_memory"})
    check(encoder, items("fault:abort 1"), {0: "encoder_crashed"})


def test_vectors_that_are_not_finite_zero_or_all_alike_are_refused(encoder):
    check(encoder, items(*good(3), "fault:nan 1", "fault:zero", *good(3, 3), "fault:nan 2"),
          {3: "vector_not_finite", 4: "vector_zero", 8: "vector_not_finite"})  # fmt: skip
    alike = [f"fault:same {n}" for n in range(8)]
    check(encoder, items("shoe", *alike), dict.fromkeys(range(1, 9), "vector_collapsed"))


def test_a_child_killed_from_outside_during_a_call_blames_nobody(encoder, tmp_path):
    before = encoder.restarts
    check(encoder, items("shoe", f"fault:kill-once {tmp_path / 'once'}", "boot"), {})
    check(encoder, items(f"fault:kill-once {tmp_path / 'again'}"), {})
    assert encoder.restarts - before == 2


def test_a_child_killed_between_calls_is_started_again(encoder):
    os.kill(encoder.pid, signal.SIGKILL)
    assert gone(encoder.pid)
    check(encoder, items(*good(3)), {})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_child_leaves_signals_to_its_parent(encoder, number):
    before = encoder.pid
    os.kill(before, number)
    check(encoder, items(*good(3)), {})
    assert encoder.pid == before


def test_an_overloaded_machine_blames_nobody(encoder, monkeypatch):
    monkeypatch.setattr(
        encoder, "_started", lambda started=encoder._started: (started(), setattr(encoder, "_probe_seconds", 1.0))[0]
    )
    with pytest.raises(Transient, match="overloaded"):
        encoder.encode(items("shoe", "fault:hang"))
    check(encoder, items("shoe", "fault:abort"), {1: "encoder_crashed"})


def test_a_child_that_stopped_reading_is_timed_out_and_replaced():
    with closing(faulty.faulty_process(LiveSpace(SPACE, None), settings(stream_encode_seconds=1.0))) as encoder:
        os.kill(encoder.pid, signal.SIGSTOP)
        check(encoder, [Item("a", image=b"x" * (4 << 20)), Item("b", title="shoe")], {})
        assert encoder.restarts == 1


def test_close_ends_a_hanging_call_and_the_child(encoder):
    encoder = faulty.faulty_process(LiveSpace(SPACE, None), settings(stream_encode_seconds=60))
    failed = []

    def call():
        try:
            encoder.encode(items("fault:hang"))
        except Transient as error:
            failed.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    time.sleep(0.2)
    pid, start = encoder.pid, time.monotonic()
    encoder.close()
    encoder.close()
    thread.join(5)
    assert gone(pid, 2)
    assert time.monotonic() - start < 20
    assert len(failed) == 1
    with pytest.raises(Transient, match="closed"):
        encoder.encode(items("shoe"))


@pytest.mark.parametrize("hanging", [False, True])
def test_no_child_outlives_its_parent(hanging):
    code = f"""
import importlib.util, sys
from moontide.live import LiveSpace
from moontide.settings import Settings
from moontide.spaces import EmbeddingSpace
from encoders import Item
spec = importlib.util.spec_from_file_location("faulty_encoder", {str(FAULTY)!r})
faulty = importlib.util.module_from_spec(spec)
spec.loader.exec_module(faulty)
encoder = faulty.faulty_process(LiveSpace(EmbeddingSpace("stub", 1, 32), None), Settings())
print(encoder.pid, flush=True)
encoder.encode([Item("a", title="fault:hang")]) if {hanging} else sys.stdin.read()
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    assert gone(pid)
    parent.stdin.close()
    parent.stdout.close()


def test_the_child_gets_no_secret_of_the_environment(monkeypatch):
    monkeypatch.setenv("MOONTIDE_KAFKA_PASSWORD", "hunter2")
    with closing(stub_process(LiveSpace(SPACE, None), settings())) as encoder:
        assert b"hunter2" not in Path(f"/proc/{encoder.pid}/environ").read_bytes()


def child_that(code):
    return [sys.executable, "-c", f"import os, sys; a = int(sys.argv[sys.argv.index('--answers') + 1]); {code}"]


@pytest.mark.parametrize(
    "code",
    ["sys.exit(3)", "os.write(a, b'hello world' * 9)", "os.write(a, b'MTE1\\x02' + bytes(4) + b'\\xff' * 8)", "print('x')"],
)
def test_a_child_that_cannot_greet_is_transient(code):
    with pytest.raises(Transient, match="expected it to start"):
        EncoderProcess(SPACE, child_that(code), seconds=1)


def test_a_program_that_is_not_there_is_transient():
    with pytest.raises(Transient, match="cannot be started"):
        EncoderProcess(SPACE, ["/nonexistent/program"], seconds=1)


def test_what_the_artifact_lacks_is_said(tmp_path):
    with pytest.raises(Misconfigured, match=r"manifest\.json"):
        encoder_process(LiveSpace(MOON.space, tmp_path), Settings())
    with pytest.raises(Misconfigured, match=r"artifact in spaces\.toml"):
        encoder_process(LiveSpace(MOON.space, None), Settings())
    with pytest.raises(SpaceMismatch):
        encoder_process(LiveSpace(EmbeddingSpace("moon", 1, 128, "sha256:" + "0" * 64), MOON.artifact), Settings())


def test_an_encoder_that_encodes_nothing_is_transient_and_blames_nobody():
    sick = child_that(
        "from streaming.encoder_wire import *; from moontide.spaces import EmbeddingSpace as S; "
        "os.write(a, frame(Kind.HELLO, 0, pack_space(S('stub', 1, 32)))); sys.stdin.buffer.read(9); os.abort()"
    )
    with pytest.raises(Transient, match="known good item"):
        EncoderProcess(SPACE, sick, seconds=5)


@pytest.mark.parametrize("title", ["fault:nan", "fault:zero"])
def test_an_encoder_whose_good_item_has_no_vector_is_transient(title, monkeypatch):
    monkeypatch.setattr("streaming.encoder_process._PROBE", items(title))
    with pytest.raises(Transient, match="known good item"):
        faulty.faulty_process(LiveSpace(SPACE, None), settings())


# Images that are made to hurt.


def png(width, height, *, filled):
    """A grey PNG whose header tells that size; its pixels are zeros, or missing."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(width + 1)) for _ in range(height if filled else 0)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def picture(form, size=(64, 64), **options):
    out = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).save(out, form, **options)
    return out.getvalue()


def hostile():
    jpeg = picture("JPEG")
    return {
        "bomb of 9000 x 9000": (png(9_000, 9_000, filled=True), "image_too_large"),
        "header of 2^31": (png(2**31 - 1, 2**31 - 1, filled=False), "image_too_large"),
        "1 x 65535, all there": (png(1, 65_535, filled=True), None),
        "truncated JPEG": (jpeg[: len(jpeg) // 2], "image_unreadable"),
        "animated GIF": (picture("GIF", save_all=True, append_images=[Image.new("RGB", (64, 64))] * 3), "image_refused"),
        "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image_unreadable"),
        "nothing": (b"", "image_unreadable"),
        "11 MB": (jpeg + bytes(11 << 20), "image_too_large"),
        "good": (jpeg, None),
    }


def test_hostile_images_are_refused_and_the_child_lives(moon):
    cases = hostile()
    batch = [Item(name, image=data) for name, (data, _) in cases.items()]
    before = moon.pid
    out = moon.encode(batch)
    got = {name: out.refused[row].reason if row in out.refused else None for row, name in enumerate(cases)}
    expected = {name: reason for name, (_, reason) in cases.items()}
    expected["animated GIF"] = "image_unreadable"
    assert got == expected
    assert moon.pid == before


def test_same_vectors_as_without_a_child(moon):
    batch = [*items(*good(40)), Item("p", title="red", image=picture("PNG")), Item("q", image=picture("WEBP"))]
    out, direct = moon.encode(batch), Encoder.load(MOON.artifact).encode(batch)
    np.testing.assert_array_equal(out.vectors.codes, direct.codes)
    np.testing.assert_array_equal(out.vectors.scale, direct.scale)
    assert out.vectors.ids == direct.ids
    assert out.refused == {}


def test_a_decoder_that_wants_more_than_the_limit_ends_the_item_not_the_machine():
    """The largest picture that is allowed does not fit beside the model into 768 MB: it is refused, its neighbour is not."""
    deep = io.BytesIO()
    Image.fromarray(np.zeros((5_000, 5_000), np.uint16)).save(deep, "PNG")
    with closing(encoder_process(MOON, Settings(stream_encode_bytes=768 << 20))) as encoder:
        out = encoder.encode([Item("deep", image=deep.getvalue()), Item("good", title="shoe", image=picture("JPEG"))])
        assert out.rows == (1,)
        assert out.refused[0].reason == "encoder_out_of_memory"
        assert int(Path(f"/proc/{encoder.pid}/status").read_text().split("VmPeak:")[1].split()[0]) <= 768 << 10


def test_a_limit_below_the_encoder_itself_is_said():
    with pytest.raises((Misconfigured, Transient), match="MOONTIDE_STREAM_ENCODE_BYTES|expected it to start"):
        encoder_process(MOON, Settings(stream_encode_bytes=256 << 20))
