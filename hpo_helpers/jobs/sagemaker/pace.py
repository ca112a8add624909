"""How often a loop may ask."""

from __future__ import annotations

import time


class Pace:
    """Calls at least `shortest` seconds apart, and further apart, up to `longest`, while nothing happens.

    Parameters
    ----------
    shortest, longest
        Seconds between two calls.
    """

    def __init__(self, shortest: float, longest: float) -> None:
        self._shortest = shortest
        self._longest = longest
        self._interval = shortest
        self._last = time.monotonic()

    @property
    def due(self) -> float:
        """When the next call may be made, on the clock of `time.monotonic`."""
        return self._last + self._interval

    def is_due(self) -> bool:
        """Whether the next call may be made now."""
        return time.monotonic() >= self.due

    def called(self) -> None:
        """Take note of a call that brought nothing new."""
        self._last = time.monotonic()
        self._interval = min(1.5 * max(self._interval, self._shortest), self._longest)

    def hurry(self) -> None:
        """Ask as often as allowed again: something happened, or is about to."""
        self._interval = self._shortest

    def go_on(self) -> None:
        """Ask again at once: the last answer was only a part."""
        self._interval = 0.0

    def back_off(self, longest: float = 30.0) -> None:
        """Take note of a call that was refused for now: wait twice as long."""
        self._last = time.monotonic()
        self._interval = min(2 * max(self._interval, self._shortest), longest)
