"""A study on disk that outlives the kernel, and a disk that was full."""

from __future__ import annotations

import os
from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock


def open_journal(path: str | Path) -> JournalStorage:
    """Open the journal at `path`, or make it: a storage for ``optuna.create_study(storage=…)``.

    It is Optuna's journal file, mended twice. A write that a full disk or a power cut ends
    leaves half a line, after which no study in the file could be read again: it is cut off
    first. And the lock of a process that was killed as it wrote is broken after 5 seconds.
    """
    return JournalStorage(_MendingJournalFile(str(path)))


#: A write takes milliseconds, and is appended in one piece.
LOCK_SECONDS = 5


class _MendingJournalFile(JournalFileBackend):
    def __init__(self, file_path):
        super().__init__(file_path, _lock(file_path))
        self._mend()

    def append_logs(self, logs):
        self._mend()
        super().append_logs(logs)

    def _mend(self):
        if _ends_with_a_whole_line(self._file_path):
            return
        # Another process may be in the middle of its line: it holds the lock while it writes.
        lock = _lock(self._file_path)
        lock.acquire()
        try:
            _cut_off_half_line(self._file_path)
        finally:
            lock.release()


def _lock(path):
    # Not Optuna's default, a symbolic link: Windows, exFAT and mounted drives allow none.
    return JournalFileOpenLock(path, grace_period=LOCK_SECONDS)


def _ends_with_a_whole_line(path):
    with open(path, "rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _cut_off_half_line(path):
    with open(path, "rb+") as file:
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
