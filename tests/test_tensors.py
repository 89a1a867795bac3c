"""Files of tensors: PyTorch's, without PyTorch and without executing anything; bombs; damage."""

import io
import json
import lzma
import pickle
import tracemalloc
import zipfile

import h5py
import numpy as np
import pytest

from keras_sanet.weights import checkpoints

LIMIT = 10**6


def safetensors(header, data=b""):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def refused(path, *messages):
    with pytest.raises(ValueError) as caught:
        checkpoints.read(path, LIMIT)
    for message in (str(path), *messages):
        assert message in str(caught.value)


# PyTorch


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
def test_pytorchs_files_hold_what_pytorch_saved(zipped, tmp_path):
    torch = pytest.importorskip("torch")
    values = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    state = {
        "float": values,
        "parameter": torch.nn.Parameter(values + 1),
        "transposed": values.permute(2, 0, 1),
        "shared": values[1, 1:, ::2],  # an offset and a step in the storage of "float"
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "expanded": torch.ones(1).expand(5),
        "ids": torch.tensor([True, False]),
        **{
            str(dtype): values.to(dtype)
            for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.uint8)
        },
    }
    path = tmp_path / "state.pth"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    found = checkpoints.read(path, LIMIT)
    assert found.keys() == state.keys()
    for name, value in state.items():
        if value.dtype == torch.bfloat16:  # which NumPy lacks
            value = value.float()
        value = value.detach().numpy()
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_a_training_scripts_file_gives_its_state_dict(key, zipped, tmp_path):
    torch = pytest.importorskip("torch")
    layer = torch.nn.BatchNorm2d(3)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3, 2, 2)).sum().backward()
    optimizer.step()
    saved = {key: layer.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "best": None}
    torch.save(saved, tmp_path / "last.pth", _use_new_zipfile_serialization=zipped)
    found = checkpoints.read(tmp_path / "last.pth", LIMIT)
    assert found.keys() == layer.state_dict().keys()
    np.testing.assert_array_equal(found["running_mean"], layer.running_mean.numpy())


class Harm:
    """Unpickled, it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def write_pickle(value, path, zipped):
    """A file as PyTorch's, around any value."""
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(value, 2))
    else:
        parts = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, value, [])
        path.write_bytes(b"".join(pickle.dumps(part, 2) for part in parts))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
def test_nothing_in_a_file_is_executed(zipped, tmp_path):
    path, harm = tmp_path / "state.pth", tmp_path / "harm"
    for value in (Harm(harm), {"conv1.weight": Harm(harm)}):
        write_pickle(value, path, zipped)
        refused(path, "it holds io.open, and tensors alone are read")
        assert not harm.exists()
        loaded = pickle.loads(pickle.dumps(value))  # as an unpickler without a list would
        (loaded["conv1.weight"] if isinstance(loaded, dict) else loaded).close()
        assert harm.exists()
        harm.unlink()


def patched(path, old, new):
    """The file of PyTorch with its pickle altered."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    (name,) = (name for name in parts if name.endswith("data.pkl"))
    assert parts[name].count(old) == 1
    parts[name] = parts[name].replace(old, new)
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part)


def test_a_tensor_that_reaches_out_of_its_storage_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "state.pth"
    torch.save({"a": torch.ones(2, 3)}, path)
    # K is a byte: the shape (2, 3) becomes (2, 4), whose last value is 1 x 3 + 3 = 6 of 0 to 5.
    patched(path, b"K\x02K\x03\x86", b"K\x02K\x04\x86")
    refused(path, "a tensor reaches out of its storage")


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02Nr\0\0\0\x08.",  # None as number 2^27 of the memo: an array of 2 GB in C
        b"\x80\x05\x96" + (2**28).to_bytes(8, "little") + b".",  # a bytearray of 256 MB
        b"\x80\x05\x96" + (2**62).to_bytes(8, "little") + b".",
        b"\x80\x05\x8e" + (2**62).to_bytes(8, "little") + b".",  # bytes
    ],
    ids=["memo", "bytearray", "huge bytearray", "huge bytes"],
)
def test_a_pickle_that_asks_for_memory_is_refused_without_taking_it(pickled, tmp_path):
    path = tmp_path / "state.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
    tracemalloc.start()
    refused(path)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


def write_members(path, pickled, more=(), kind=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, content in more:
            archive.writestr(f"archive/data/{name}", content)


STORAGE = b"U\7storagectorch\nByteStorage\n"
# {"a": tensor of the storage, offset 0, shape (4,), strides (1,)}
TENSOR = b"\x80\x02}U\1actorch._utils\n_rebuild_tensor_v2\n(%sK\0(K\4t(K\1ttRs."


def test_the_pickle_that_the_next_tests_alter_is_read(tmp_path):
    write_members(
        tmp_path / "a.pth", TENSOR % (b"(" + STORAGE + b"U\1xU\3cpuK\4tQ"), [("x", b"abcd")]
    )
    assert bytes(checkpoints.read(tmp_path / "a.pth", LIMIT)["a"]) == b"abcd"


@pytest.mark.parametrize(
    "pid",
    [
        b"(" + STORAGE + b"G\x7f\xf8\0\0\0\0\0\0U\3cpuK\4tQ",  # NaN, unlike itself: read each time
        b"(" + STORAGE + b"K\7U\3cpuK\4tQ",
        b"(" + STORAGE + b"NU\3cpuK\4tQ",
        b"(" + STORAGE + b"C\1xU\3cpuK\4tQ",
        b"(" + STORAGE + b"]q\1h\1aU\3cpuK\4tQ",  # a list of itself
        b"(" + STORAGE + b"(]q\1(h\1tatU\3cpuK\4tQ",
        b"(U\7storageU\1OU\1xU\3cpuK\4tQ",  # a dtype of NumPy's that is none of PyTorch's
        b"(U\7storageNU\1xU\3cpuK\4tQ",
        b"(U\7storage]U\1xU\3cpuK\4tQ",
        b"(U\4spamctorch\nByteStorage\nU\1xU\3cpuK\4tQ",
        b"(" + STORAGE + b"tQ",
        b"K\7Q",
        b"U\7storageQ",
        b"}Q",
        b"N",  # no storage at all
        b"K\7",
        b"U\1x",
    ],
)
def test_a_storage_that_is_not_named_as_pytorch_does_is_refused(pid, tmp_path):
    path = tmp_path / "a.pth"
    names = ("x", "7", "nan", "None", "b'x'")
    write_members(path, TENSOR % pid, [(name, b"abcd") for name in names])
    refused(path, "storage")


@pytest.mark.parametrize(
    "numbers",
    [
        b"J\xff\xff\xff\xff(K\4t(K\1t",  # offset -1
        b"K\0(J\xff\xff\xff\xfft(K\1t",
        b"K\0(K\4t(J\xff\xff\xff\xfft",
        b"K\0(K\4t(K\1K\1t",
        b"K\0(K\4tK\1",
        b"K\0N(K\1t",
        b"G\0\0\0\0\0\0\0\0(K\4t(K\1t",
        b"\x89(K\4t(K\1t",
        b"K\0((K\4tt(K\1t",
        b"\x8a\xff" + b"\x7f" * 255 + b"(K\4t(K\1t",  # a number of 255 bytes
    ],
)
def test_a_tensor_whose_numbers_are_no_sizes_is_refused(numbers, tmp_path):
    path = tmp_path / "a.pth"
    good = TENSOR % (b"(" + STORAGE + b"U\1xU\3cpuK\4tQ")
    pickled = good.replace(b"K\0(K\4t(K\1t", numbers)
    assert pickled != good
    write_members(path, pickled, [("x", b"abcd")])
    refused(path, "a tensor has")


@pytest.mark.parametrize(
    "use",
    [b"}h\0Ns.", b"}(h\0Nu.", b"(h\0Nd.", b"ccollections\nOrderedDict\n(((h\0Nt]tR."],
    ids=["SETITEM", "SETITEMS", "DICT", "as an argument"],
)
def test_a_key_that_takes_forever_to_hash_is_refused(use, tmp_path):
    # A pair of itself 60 times over: 2^60 hashes.
    path = tmp_path / "a.pth"
    write_members(path, b"\x80\x02)" + b"q\0h\0\x86" * 60 + b"q\0" + use)
    refused(path)


def test_sets_are_not_unpickled(tmp_path):
    for opcodes in (b"\x8f", b"(\x91"):
        write_members(tmp_path / "a.pth", b"\x80\x04" + opcodes + b".")
        refused(tmp_path / "a.pth")


def test_a_pickle_longer_than_any_of_tensors_is_refused_unread(tmp_path):
    # 3 MB of the beginnings of lists, 64 bytes each.
    path = tmp_path / "a.pth"
    write_members(path, b"(" * 3_000_000)
    refused(path, "its data.pkl has 3,000,000 bytes")
    path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(bytes(3_000_000), 3))
    refused(path)


@pytest.mark.parametrize("value", [7, "text", [1], None, (1, 2)])
def test_what_is_no_state_dict_is_named(value, tmp_path):
    write_members(tmp_path / "a.pth", pickle.dumps(value, 2))
    refused(tmp_path / "a.pth", f"no state dict, but a {type(value).__name__}")


def test_damage_inside_of_a_packed_member_is_named(tmp_path):
    path = tmp_path / "a.pth"
    write_members(path, bytes(range(256)) * 4, kind=zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    content[60:80] = b"\xff" * 20
    path.write_bytes(content)
    refused(path)


def test_a_pickle_can_not_change_the_classes_that_it_names(tmp_path):
    path = tmp_path / "state.pth"
    # _Tensor itself, then BUILD with (None, {"array": 1}): its attribute would be set.
    pickled = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\5\0\0\0arrayK\1s\x86b."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
    refused(path, "it sets attributes of what is no state dict")
    assert callable(checkpoints._Tensor.array)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
def test_a_pickle_with_any_byte_changed_is_read_or_named(zipped, tmp_path, rng):
    torch = pytest.importorskip("torch")
    path, buffer = tmp_path / "state.pth", io.BytesIO()
    torch.save(torch.nn.Linear(1, 1).state_dict(), buffer, _use_new_zipfile_serialization=zipped)
    good = buffer.getvalue()
    for at, value in zip(rng.integers(0, 700, 500), rng.integers(0, 256, 500)):
        path.write_bytes(good[:at] + bytes([value]) + good[at + 1 :])
        try:
            checkpoints.read(path, LIMIT)
        except ValueError as error:
            assert str(path) in str(error)


def test_a_zip_that_would_grow_is_refused(tmp_path):
    path = tmp_path / "state.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**6))
    refused(path, "a zip that would grow")


def test_what_is_not_known_is_named(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "state.pth"
    torch.save({"a": torch.ones(2, dtype=torch.complex64)}, path)
    refused(path, "it holds torch.ComplexFloatStorage, and tensors alone are read")
    torch.save({"a": torch.eye(2).to_sparse()}, path)
    refused(path, "it holds torch._utils._rebuild_sparse_tensor")


# safetensors


def test_bfloat16_is_the_first_half_of_a_float32(tmp_path):
    path = tmp_path / "a.safetensors"
    # float32 1.0 is 3f800000, -2.5 is c0200000.
    data = bytes.fromhex("803f20c0")  # little-endian 3f80, c020
    path.write_bytes(safetensors({"a": entry("BF16", [2, 1], 0, 4)}, data))
    found = checkpoints.read(path, LIMIT)["a"]
    assert found.dtype == "float32"
    np.testing.assert_array_equal(found, [[1.0], [-2.5]])


@pytest.mark.parametrize("suffix", [".safetensors", ".safetensors.xz"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ((2**40).to_bytes(8, "little"), "its header would take 1,099,511,627,776 bytes"),
        (safetensors({"a": entry("F32", [3], 0, 12)}, bytes(8)), "ends after 8 of 12 bytes"),
        (safetensors({"a": entry("F32", [4], 0, 12)}, bytes(12)), "shape [4] of F32 takes 16"),
        (safetensors({"a": entry("F4", [3], 0, 12)}, bytes(12)), "a is of the unknown dtype F4"),
        (safetensors({"a": 1}), ""),
        (safetensors([1]), ""),
        (b"\5\0\0\0\0\0\0\0{[[[[", ""),
        (b"", ""),
    ],
)
def test_a_damaged_file_is_named(content, message, suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(lzma.compress(content) if suffix.endswith("xz") else content)
    refused(path, message)


@pytest.mark.parametrize(
    "spans",
    [[(0, 4), (0, 4)], [(0, 4), (2, 6)], [(0, 2), (4, 6)], [(2, 6)]],
    ids=["same", "overlap", "gap", "gap at the start"],
)
def test_tensors_must_follow_one_another(spans, tmp_path):
    path = tmp_path / "a.safetensors"
    header = {f"{i}": entry("BF16", [(e - b) // 2], b, e) for i, (b, e) in enumerate(spans)}
    path.write_bytes(safetensors(header, bytes(6)))
    refused(path, "where each must begin as the one before ends")


@pytest.mark.parametrize("suffix", [".safetensors", ".safetensors.xz"])
@pytest.mark.parametrize(
    ("shape", "offsets"),
    [
        ([4], [-4, 0]),
        ([4], [0, -4]),  # file.read(-4) would read all that is there
        ([4], [4, 0]),
        ([4], [0.0, 4.0]),
        ([4], [False, 4]),
        ([4], [0, 2**70]),
        ([4], [0, float("nan")]),
        ([4], [0, float("inf")]),
        ([4], ["0", "4"]),
        ([4], [0]),
        ([4], {"0": 4}),
        ([4], None),
        ([-4], [0, 4]),
        ([-2, -2], [0, 4]),
        ([4.0], [0, 4]),
        ([True, 4], [0, 4]),
        ([[4]], [0, 4]),
        ("4", [0, 4]),
        ([2**70], [0, 4]),
        ([1] * 100 + [4], [0, 4]),
        ([3], [0, 4]),
        ([0, 2**40], [0, 4]),
    ],
)
def test_a_shape_or_offsets_that_are_no_sizes_are_refused_and_nothing_is_unpacked(
    shape, offsets, suffix, tmp_path
):
    path = tmp_path / f"a{suffix}"
    header = {"a": {"dtype": "U8", "shape": shape, "data_offsets": offsets}}
    content = safetensors(header, bytes(2**23))
    # (preset=0 unpacks in 256 kB.)
    path.write_bytes(lzma.compress(content, preset=0) if suffix.endswith("xz") else content)
    tracemalloc.start()
    try:
        refused(path, ": a ")
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b'{"a": {}, "a": {}}', "a name twice"),
        (b'{"a": {"dtype": "U8", "dtype": "U8"}}', "a name twice"),
        (b'{"a": {"dtype": ["U8"], "shape": [], "data_offsets": [0, 1]}}', "unknown dtype ['U8']"),
        (b'{"a": {"dtype": "U8", "shape": [1]}}', "a is no tensor with"),
        (b'{"a": [1]}', "a is no tensor with"),
        (b'"a"', "its header is no dict"),
        (b"[" * 10**5, "recursion"),
    ],
)
def test_a_header_that_is_none_is_refused(header, message, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    refused(path, message)


def test_a_packed_header_that_swells_is_not_parsed(tmp_path):
    # 6 MB of "[]," in some kB are 2 million lists of 56 bytes.
    path = tmp_path / "a.safetensors.xz"
    header = b"[" + b"[]," * 2 * 10**6
    path.write_bytes(lzma.compress(len(header).to_bytes(8, "little") + header))
    assert path.stat().st_size < 10**4
    refused(path, "its header would take 6,000,001 bytes")


def test_an_xz_that_would_grow_beyond_the_limit_is_refused_by_its_header(tmp_path):
    path = tmp_path / "a.safetensors.xz"
    header = {"a": entry("U8", [LIMIT + 1], 0, LIMIT + 1)}
    path.write_bytes(lzma.compress(safetensors(header)))  # without any of those bytes
    refused(path, "1,000,001 bytes, and 1,000,000 are far more than enough")


def test_what_follows_the_tensors_in_an_xz_is_not_unpacked(tmp_path):
    path = tmp_path / "a.safetensors.xz"
    packed = lzma.compress(safetensors({"a": entry("U8", [2], 0, 2)}, b"\1\2") + bytes(10**7))
    # Cut behind the first blocks: reading to the end would raise.
    path.write_bytes(packed[: len(packed) // 2])
    np.testing.assert_array_equal(checkpoints.read(path, LIMIT)["a"], [1, 2])


# Any


@pytest.mark.parametrize("suffix", checkpoints.SUFFIXES)
def test_a_file_of_something_else_is_named(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"<html>404 Not Found</html>" * 100)
    refused(path, "can't be read as a checkpoint")


def test_a_cut_file_of_pytorch_is_named(tmp_path):
    torch = pytest.importorskip("torch")
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save({"a": torch.ones(1000)}, buffer, _use_new_zipfile_serialization=zipped)
        for length in (10, 300, 2000):
            path = tmp_path / "a.pth"
            path.write_bytes(buffer.getvalue()[:length])
            refused(path)


@pytest.mark.parametrize(
    ("external", "message"),
    [
        (None, "a dataset of the shape (1000000,) that is not stored whole"),  # would grow
        ("secret", "a dataset in another file"),
    ],
)
def test_an_hdf5_file_that_would_grow_or_reads_another_is_refused(external, message, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(4 * LIMIT))
    path = tmp_path / "a.weights.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/conv2d/vars")
        group.attrs["name"] = "conv1"
        others = external and [(str(tmp_path / external), 0, 4 * LIMIT)]
        group.create_dataset("0", (LIMIT,), "float32", external=others)
    assert path.stat().st_size < 10_000
    refused(path, message)
