"""What is learned from: MNIST, 5,000 images or all 70,000, and what was recorded on it.

MNIST is by Yann LeCun, Corinna Cortes and Christopher Burges, under CC BY-SA 3.0. Of two
environment variables, ``HPO_HELPERS_CACHE`` names the folder for what is fetched (by default
the user's cache folder), ``HPO_HELPERS_MNIST`` one that has the four original files.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
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
#: SHA-256 of each file as the mirrors pack it.
PACKED = {
    "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
#: CRC-32 of what is in it, however a reader's copy is packed.
UNPACKED = {
    "train-images-idx3-ubyte": 0xE9F4D8B3,
    "train-labels-idx1-ubyte": 0xE0CB4AD2,
    "t10k-images-idx3-ubyte": 0x91373BDF,
    "t10k-labels-idx1-ubyte": 0x4AB9EFF9,
}

Part = tuple[np.ndarray, np.ndarray]


class DataError(RuntimeError):
    """A file of MNIST is missing, damaged, or could not be fetched."""


class MNIST(NamedTuple):
    """Three parts of MNIST, each a pair of images and labels.

    Images: (n, 1, 28, 28), float32 from 0 (paper) to 1 (ink). Labels: (n,), int64 from 0 to 9.
    """

    train: Part
    valid: Part
    test: Part


def load_mnist(full: bool = False) -> MNIST:
    """Load MNIST, split into training, validation and test part.

    Parameters
    ----------
    full
        False: the 5,000 images that come with the course, 3,000 / 1,000 / 1,000, in each part every
        digit equally often. All of them are in the training part of ``full=True``.
        True: all 70,000, 50,000 / 10,000 / 10,000; the last 10,000 of the original training set
        validate. They come from the folder that ``HPO_HELPERS_MNIST`` names, packed (``.gz``) or
        not, else they are downloaded (11 MB) into the cache folder.

    Returns
    -------
    MNIST
        Read-only arrays, the same ones at every call: copy them to change them.
    """
    return _load_70000() if full else _load_5000()


def load_curves(name: str = "mnist_cnn_curves") -> pd.DataFrame:
    """Load recorded learning curves, described in ``data/README.md``.

    Parameters
    ----------
    name
        ``"mnist_cnn_curves"``: the CNN over a full grid.
        ``"mnist_cnn_noise"``: some of these configurations under 20 seeds each.
        ``"mnist_cnn_81_curves"``: the CNN at random configurations.
        ``"mnist_mlp_curves"``: a network without convolutions over a full grid.
        ``"mnist_70000_curves"``: that one on 50,000 images.

    Returns
    -------
    DataFrame
        One row an epoch: ``configuration`` (a number), its hyperparameters, named as in
        ``spaces.MNIST_CNN``, ``seed`` (of the network), ``epoch``, ``valid_error`` and
        ``test_error`` (shares of the images), and ``seconds`` (of a processor, for that epoch).
    """
    return load_table(name)


def load_table(name: str) -> pd.DataFrame:
    """Load a recorded table of ``data/README.md``, by its name without ``.csv.gz``."""
    import pandas as pd

    return pd.read_csv(_recording(f"{name}.csv.gz"))


def load_study(name: str) -> optuna.Study:
    """Load a recorded study into memory, by its file's name without ``.journal``."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    backend = JournalFileBackend(str(_recording(f"{name}.journal")))
    recorded = optuna.storages.JournalStorage(backend)
    (summary,) = optuna.get_all_study_summaries(recorded)
    memory = optuna.storages.InMemoryStorage()
    optuna.copy_study(
        from_study_name=summary.study_name, from_storage=recorded, to_storage=memory, to_study_name=name
    )
    return optuna.load_study(study_name=name, storage=memory)


def save_npz(path: str | os.PathLike[str], data: MNIST) -> None:
    """Write the ``mnist.npz`` that ``train_mnist`` reads.

    It holds ``train_images``, ``train_labels``, ``valid_images`` and so on, as uint8.

    Parameters
    ----------
    path
        The file to write, in a folder that exists.
    data
        As ``load_mnist`` returns it: images in [0, 1].
    """
    arrays = {}
    for part, (images, labels) in zip(MNIST._fields, data, strict=True):
        if not (images >= 0).all() or images.max() > 1:
            found = f"{images.min()} to {images.max()}"
            raise ValueError(f"the {part} images must lie in [0, 1], got {found}")
        arrays[f"{part}_images"] = np.rint(images[:, 0] * 255).astype(np.uint8)
        arrays[f"{part}_labels"] = labels.astype(np.uint8)
    np.savez(path, **arrays)


def _part(images, labels):
    """Scale bytes to [0, 1], in arrays that callers share and cannot write."""
    images = np.divide(images.reshape(-1, 1, 28, 28), 255, dtype=np.float32)
    labels = labels.astype(np.int64)
    images.setflags(write=False)
    labels.setflags(write=False)
    return images, labels


@functools.cache
def _load_5000():
    """Split the images at random: 300, 100 and 100 of each digit, in mixed order."""
    with np.load(_recording("mnist_5000.npz")) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    # RandomState's stream is frozen for good: all recorded figures stand on this split.
    random = np.random.RandomState(0)
    by_digit = [random.permutation(np.flatnonzero(labels == digit)) for digit in range(10)]
    parts = np.split(np.stack(by_digit), [300, 400], axis=1)
    rows = [random.permutation(part.ravel()) for part in parts]
    return MNIST(*(_part(images[chosen], labels[chosen]) for chosen in rows))


@functools.cache
def _load_70000():
    images, labels, *test = (_parse_idx(_read_idx(name)) for name in PACKED)
    return MNIST(
        train=_part(images[:-10_000], labels[:-10_000]),
        valid=_part(images[-10_000:], labels[-10_000:]),
        test=_part(*test),
    )


def _parse_idx(raw):
    """Read IDX: three bytes, the number of dimensions, each of them, the values."""
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3])
    return values.reshape(-1, 28, 28) if raw[3] == 3 else values


def _read_idx(name):
    named = os.environ.get("HPO_HELPERS_MNIST")
    if not named:
        return gzip.decompress(_fetch(name).read_bytes())
    folder = Path(named).expanduser()
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return _unpack(path, name)
    raise DataError(
        f"HPO_HELPERS_MNIST names {named!r}, which holds neither {name}.gz nor {name}: "
        "let it name the folder of MNIST's files, or unset it to have them downloaded"
    )


def _unpack(path, name):
    """Read a reader's own file, packed or not, and check that it is MNIST's."""
    content = path.read_bytes()
    # Not packed, or damaged, which the CRC-32 tells.
    with contextlib.suppress(EOFError, OSError, zlib.error):
        content = gzip.decompress(content)
    found = zlib.crc32(content)
    if found != UNPACKED[name]:
        raise DataError(
            f"{path} is damaged or not MNIST's: its CRC-32 is {found:08x} "
            f"instead of {UNPACKED[name]:08x}; put a whole copy there"
        )
    return content


def _fetch(name):
    import pooch

    cache = Path(os.environ.get("HPO_HELPERS_CACHE") or pooch.os_cache("hpo_helpers"))
    file = {"fname": f"{name}.gz", "path": cache.expanduser() / "mnist"}
    failures = []
    for mirror in MIRRORS:
        url, digest = f"{mirror}{name}.gz", f"sha256:{PACKED[name]}"
        try:
            return Path(pooch.retrieve(url, digest, **file, progressbar=True))
        except (OSError, ValueError) as error:  # no network, no room, or other bytes
            failures.append(f"{url} failed ({error})")
    raise DataError(
        f"MNIST could not be downloaded: {'; '.join(failures)}. Check the network, or put the four "
        "files into a folder and let HPO_HELPERS_MNIST name it; load_mnist() needs neither"
    )


def recordings() -> list[Path]:
    """Return the files of all recorded tables and studies."""
    folder = _recorded_folder()
    return sorted([*folder.glob("*.csv.gz"), *folder.glob("*.journal")])


def _recorded_folder():
    """Name the folder of recorded files: in the installed package, or beside it."""
    package = Path(__file__).resolve().parent
    inside = package / "data"
    return inside if inside.is_dir() else package.parent / "data"


def _recording(name):
    path = _recorded_folder() / name
    if not path.exists():
        raise FileNotFoundError(f"there is no recording {name!r}: it would lie in {path.parent}")
    return path
