"""Checkpoints of PyTorch projects, read without PyTorch; hostile ones are refused at once."""

from __future__ import annotations

import io
import pickle
import resource
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mrcnn.weights import read_state_dict, read_weights, write_state_dict
from mrcnn.weights.readers.pickles import MOST_INSTRUCTIONS

CONTAINERS = Path(__file__).parent / "golden" / "torch" / "containers"
FILES = sorted(path.name for path in CONTAINERS.iterdir() if path.suffix != ".npz")


@pytest.fixture(scope="module")
def expected():
    with np.load(CONTAINERS / "expected.npz") as data:
        return dict(data)


@pytest.mark.parametrize("name", FILES)
def test_every_container_gives_the_same_arrays(name, expected):
    state = read_state_dict(CONTAINERS / name)
    assert set(state) == set(expected) - ({"empty"} if name.endswith(".pkl") else set())
    for key, array in state.items():
        assert (array.dtype, array.shape) == (expected[key].dtype, expected[key].shape), key
        np.testing.assert_array_equal(array, expected[key], err_msg=key)


def test_a_written_checkpoint_reads_back_bit_for_bit(tmp_path, expected):
    write_state_dict(tmp_path / "a.pth", expected)
    state = read_state_dict(tmp_path / "a.pth")
    assert list(state) == list(expected)
    for key, array in state.items():
        assert array.dtype == expected[key].dtype and array.tobytes() == expected[key].tobytes(), key


def test_the_writer_names_what_it_cannot_store(tmp_path):
    with pytest.raises(ValueError, match="fc has the dtype complex64; expected one of float32"):
        write_state_dict(tmp_path / "a.pth", {"fc": np.zeros(2, "complex64")})
    assert list(tmp_path.iterdir()) == []


# ---- What can't be read names what was found -----------------------------------------------------------------------
def dumped(found) -> bytes:
    return pickle.dumps(found, protocol=2)


ARRAY = np.arange(6, dtype="float32")


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({"blobs": {"conv1_w": ARRAY}}, "Caffe2 model.*no '__author__'.*detectron2's model zoo"),
        ({"conv1_w": ARRAY}, "Caffe2 model"),
        ({"epoch": 3, "lr": [0.1]}, "holds no weights, but a dictionary with epoch, lr"),
        ({}, "holds no weights, but a dictionary with nothing"),
        ([ARRAY], "it holds a list; expected a dictionary of weights"),
        (ARRAY, "it holds a single array"),
        ({"model": {"a": np.array(["text"])}}, "dtype 'U4'; expected numbers"),
        ({("a", "b"): 1}, "a key of type tuple"),
        ({"model": {"encoder.weight": ARRAY}}, "neither torchvision nor detectron2: encoder.weight"),
    ],
)
def test_files_without_model_weights_are_named(tmp_path, found, says):
    (tmp_path / "a.pkl").write_bytes(dumped(found))
    with pytest.raises(ValueError, match=rf"a\.pkl can't be read as weights: .*{says}"):
        read_weights(tmp_path / "a.pkl")


def test_a_web_page_or_text_instead_of_a_checkpoint_is_named(tmp_path):
    for content, says in ((b"<html>404 Not Found</html>", "a web page"), (b"hello, world", "begins with b'hello")):
        (tmp_path / "a.pth").write_bytes(content)
        with pytest.raises(ValueError, match=rf"a\.pth is not a checkpoint.*{says}"):
            read_state_dict(tmp_path / "a.pth")


def test_other_contents_of_training_checkpoints_are_ignored(tmp_path):
    import argparse
    import collections

    extra = {"args": argparse.Namespace(lr=0.02, data="coco"), "lr_scheduler": collections.Counter({16: 1})}
    (tmp_path / "a.pkl").write_bytes(dumped({"model": {"module.fc.weight": ARRAY}, **extra}))
    np.testing.assert_array_equal(read_state_dict(tmp_path / "a.pkl")["fc.weight"], ARRAY)


# ---- Hostile files -------------------------------------------------------------------------------------------------
def archive_with(content: bytes, members=(), compression=zipfile.ZIP_STORED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as archive:
        archive.writestr("a/data.pkl", content)
        for name, data in members:
            archive.writestr(name, data)
    return target.getvalue()


def tensor_pickle(count=6, offset=0, shape=(6,), strides=(1,), kind="FloatStorage") -> bytes:
    """{"fc.weight": a tensor with these numbers}, the storage "0" of `count` elements."""

    def number(n):
        return pickle.LONG1 + b"\x09" + n.to_bytes(9, "little", signed=True)

    def numbers(values):
        return pickle.MARK + b"".join(map(number, values)) + pickle.TUPLE

    def word(text):
        return pickle.BINUNICODE + struct.pack("<I", len(text)) + text.encode()

    storage = pickle.MARK + word("storage") + pickle.GLOBAL + f"torch\n{kind}\n".encode() + word("0") + word("cpu")
    storage += number(count) + pickle.TUPLE + pickle.BINPERSID
    rebuild = pickle.GLOBAL + b"torch._utils\n_rebuild_tensor_v2\n"
    tensor = rebuild + pickle.MARK + storage + number(offset) + numbers(shape) + numbers(strides)
    tensor += pickle.NEWFALSE + pickle.NONE + pickle.TUPLE + pickle.REDUCE
    return pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + word("fc.weight") + tensor + pickle.SETITEM + pickle.STOP


def torch_archive(storage=24, **numbers) -> bytes:
    return archive_with(tensor_pickle(**numbers), [("a/data/0", bytes(storage))])


def calls(module: str, name: str) -> bytes:
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"X\x02\x00\x00\x00id\x85R."


def nested(levels: int) -> bytes:
    """((x, x), (x, x)) ... : 2 ** levels leaves in a few bytes a level."""
    return b"\x80\x02)" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(levels))


HOSTILE = {
    "os.system": (calls("os", "system"), "it asks for 'os.system', which is no part of weights. Nothing was run"),
    "os.system in a zip": (archive_with(calls("posix", "system")), "'posix.system'"),
    "unlisted": (calls("numpy", "fromfile"), "'numpy.fromfile'"),
    "dotted": (b"\x80\x04\x8c\x05torch\x8c\x0e_utils.os.open\x93.", "torch._utils.os.open"),
    "getattr": (calls("builtins", "getattr"), "'builtins.getattr'"),
    "storage is called": (calls("torch", "FloatStorage"), "torch.FloatStorage is called"),
    "short storage": (torch_archive(storage=20), "has 24 bytes, and the archive holds 20"),
    "no storage": (archive_with(tensor_pickle()), "holds 0 of it"),
    "tensor past its storage": (torch_archive(shape=(7,)), r"fc.weight of shape \(7,\) needs 28 bytes, and 24"),
    "offset past its storage": (torch_archive(offset=1), "needs 28 bytes, and 24"),
    "strides past its storage": (torch_archive(strides=(2,)), "needs 44 bytes, and 24"),
    "negative stride": (torch_archive(strides=(-1,)), "fc.weight has a negative or impossible number in its strides"),
    "negative offset": (torch_archive(offset=-1), "negative or impossible number in its offset"),
    "huge shape": (torch_archive(shape=(2**60,)), "impossible number in its shape"),
    "repeated forever": (torch_archive(shape=(2**40,), strides=(0,)), "the file only .*it may be hostile"),
    "strides of another rank": (torch_archive(strides=(1, 1)), "has 1 sizes and 2 strides"),
    "quantized": (torch_archive(kind="QInt8Storage"), "torch.QInt8Storage, which can't be read"),
    "zip bomb": (
        archive_with(tensor_pickle(count=10**8), [("a/data/0", bytes(4 * 10**8 // 100))], zipfile.ZIP_DEFLATED),
        "is compressed",
    ),
    "nested tuples": (nested(200) + b"\x30." , "an instruction takes a value that is not there"),
    "nested tuples as a key": (b"\x80\x02}" + nested(200)[2:] + b"Ns.", "a key of type tuple"),
    "many instructions": (b"\x80\x02" + b"N" * (MOST_INSTRUCTIONS * 4), "more than .* instructions"),
    "memo": (b"\x80\x02Nr\xff\xff\xff\xff.", "it holds a NoneType"),
    "long": (b"\x80\x02\x8b\x00\x00\x20\x00" + b"\x7f" * 2**21 + b".", "it holds a int"),
    "digits": (b"\x80\x02L" + b"9" * 2**21 + b"L\n.", "can't be read as weights"),
    "huge size": (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "can't be read as weights"),
    "huge bytearray": (b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.", "can't be read as weights"),
    "huge frame": (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.", "an instruction takes a value"),
    "extension": (b"\x80\x02\x82\x01.", "the instruction EXT1"),
    "safetensors header": ((2**40).to_bytes(8, "little") + b"{", "is not a weight file"),
    "safetensors digits": (
        (5006).to_bytes(8, "little") + b'{"a":' + b"9" * 5000 + b"}", "its header is damaged"
    ),
    "safetensors nesting": (
        (2 * 10**5).to_bytes(8, "little") + b'{"a":' + b"[" * (2 * 10**5), "can't be read as weights"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_pickle_is_refused_by_the_name_it_imports(tmp_path, case):
    content, says = HOSTILE[case]
    (tmp_path / "model.pth").write_bytes(content)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    with pytest.raises(ValueError, match=rf"model\.pth.*{says}"):
        read_weights(tmp_path / "model.pth")
    assert time.process_time() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200 * 1024  # KiB


@pytest.mark.parametrize(
    ("dtype", "shape", "offsets", "says"),
    [
        ("F32", [3], [0, 8], "needs 12 bytes, its data_offsets say 8"),
        ("F32", [2**40, 2**40], [0, 8], "needs .* bytes"),
        ("F32", [-1], [0, 8], "negative or impossible"),
        ("F32", [2.5], [0, 8], "impossible"),
        ("F32", [200], [0, 800], "and 8 are there"),
        ("F8_E4M3", [8], [0, 8], "has the dtype F8_E4M3; expected one of"),
    ],
)
def test_a_safetensors_header_is_checked(tmp_path, dtype, shape, offsets, says):
    import json

    header = json.dumps({"conv1.weight": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ValueError, match=rf"the tensor conv1.weight.*{says}"):
        read_state_dict(tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_give_arrays_or_an_error_naming_the_file(tmp_path, name):
    content = (CONTAINERS / name).read_bytes()
    rng = np.random.RandomState(0)
    path = tmp_path / name
    for n in range(60):
        damaged = bytearray(content[: len(content) * n // 30] if n < 30 else content)
        if n >= 30:
            damaged[rng.randint(len(damaged))] ^= 1 << rng.randint(8)
        path.write_bytes(damaged)
        try:
            read_state_dict(path)
        except ValueError as error:
            assert str(error).startswith(str(path))


def test_flipped_bits_in_a_torch_archive_are_detected(tmp_path):
    write_state_dict(tmp_path / "a.pth", {"fc.weight": np.ones(1000, "float32")})
    content = bytearray((tmp_path / "a.pth").read_bytes())
    content[content.index(np.ones(4, "float32").tobytes()) + 400] ^= 1
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.pth.*data/0 is damaged: its checksum differs"):
        read_state_dict(tmp_path / "a.pth")
