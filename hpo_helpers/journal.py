"""A study on disk that outlives the kernel, and a disk that was full."""

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
        # Not Optuna's default, a symbolic link: Windows, exFAT and mounted drives allow none.
        super().__init__(file_path, JournalFileOpenLock(file_path, grace_period=LOCK_SECONDS))
        self._mend()

    def append_logs(self, logs):
        self._mend()
        super().append_logs(logs)

    def _mend(self):
        if self._is_whole():
            return
        # Another process may be in the middle of its line: it holds the lock while it writes.
        self._lock.acquire()
        try:
            with open(self._file_path, "rb+") as file:
                file.truncate(file.read().rfind(b"\n") + 1)
        finally:
            self._lock.release()

    def _is_whole(self):
        with open(self._file_path, "rb") as file:
            file.seek(max(0, os.path.getsize(self._file_path) - 1))
            return file.read() in (b"", b"\n")
