"""The lock of a folder, and JSON of whatever source."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from keras_sanet import _files

_HOLDS = """
import sys
from keras_sanet import _files
with _files.locked(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_lock_can_be_taken_again_by_its_thread_alone(tmp_path):
    pytest.importorskip("fcntl", reason="Windows locks by another module")

    def take():
        with _files.locked(tmp_path):
            return "taken"

    with _files.locked(tmp_path), ThreadPoolExecutor(1) as other:
        assert take() == "taken"
        with pytest.raises(FileExistsError, match=f"Another process writes .* {os.getpid()} on"):
            other.submit(take).result()
    assert take() == "taken"


@pytest.mark.slow
def test_the_lock_of_a_killed_process_is_free(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", _HOLDS, str(tmp_path)], **pipes) as other:
        assert other.stdout.readline().strip() == b"locked"
        with pytest.raises(FileExistsError), _files.locked(tmp_path):
            pass
        other.kill()
    with _files.locked(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".lock").read_text("utf-8")


def link(path, target):
    try:
        path.symlink_to(target)
    except OSError as error:  # Windows, without the right
        pytest.skip(f"no links here: {error}")


@pytest.mark.parametrize(
    "name",
    [".lock", "evaluation.txt", "images.jsonl", "cross_entropy.csv", "lovasz_state.keras",
     "tensorboard", "tensorboard/lovasz/validation"],
)  # fmt: skip
@pytest.mark.parametrize("there", [True, False], ids=["of a file", "of nothing"])
def test_a_link_out_of_the_folder_is_refused_and_its_target_left(tmp_path, name, there):
    outside, path = tmp_path / "outside", tmp_path / "run" / name
    if there:
        outside.write_text("kept")
    path.parent.mkdir(parents=True)
    link(path, outside)
    said = f"{path} is a link to {outside}, out of its folder"
    with pytest.raises(ValueError, match=said), _files.locked(tmp_path / "run"):
        raise AssertionError("taken")
    assert outside.read_text() == "kept" if there else not outside.exists()


def test_a_folder_that_is_a_link_and_links_inside_of_it_are_taken(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there/figures").mkdir()
    link(tmp_path / "here", tmp_path / "there")
    link(tmp_path / "there/tensorboard", tmp_path / "there/figures")
    with _files.locked(tmp_path / "here"):
        assert (tmp_path / "there/.lock").is_file()


@pytest.mark.parametrize("kind", ["symlink", "link"])
def test_a_lock_that_is_another_name_of_a_file_is_refused(tmp_path, kind):
    (tmp_path / "model.keras").write_text("mine", "utf-8")
    getattr(os, kind)(tmp_path / "model.keras", tmp_path / ".lock")
    with pytest.raises(ValueError, match=".lock must be a file by itself"), _files.locked(tmp_path):
        pass
    assert (tmp_path / "model.keras").read_text("utf-8") == "mine"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (b"", "Expecting value"),
        (b'{"a": 1', "Expecting"),
        (b'{"a": "\xff"}', "can't decode byte 0xff"),
        (b"[" * 100_000, "recursion"),
        (b"9" * 5000, "Exceeds the limit"),
        (b"1" + b" " * (32 << 20), "33,554,433 bytes; 33,554,432 are allowed"),
    ],
    ids=["empty", "cut", "no UTF-8", "deep", "many digits", "huge"],
)
def test_a_file_that_is_no_json_is_named(tmp_path, written, said):
    path = tmp_path / "a.json"
    path.write_bytes(written)
    with pytest.raises(ValueError, match=f"a.json is damaged: .*{said}.*Get another."):
        _files.read_json(path, "Get another.")


def test_a_folder_in_the_place_of_json_is_named(tmp_path):
    with pytest.raises(ValueError, match="is damaged: it is no file. Get another."):
        _files.read_json(tmp_path, "Get another.")
