"""Progress bars: that of `tune`, and one over anything that is counted."""

import os
import time
import warnings
from typing import Any

with warnings.catch_warnings():
    # Without ipywidgets tqdm warns and falls back to text, which will do.
    warnings.simplefilter("ignore")
    from tqdm.auto import tqdm


class Bar(tqdm):
    """A bar of tqdm's that vanishes at the end, so that outputs compare."""

    def __init__(self, *arguments: Any, enabled: bool = True, **settings: Any) -> None:
        # tqdm's own reading of TQDM_DISABLE is lost in its notebook variant.
        hidden = not enabled or bool(os.environ.get("TQDM_DISABLE"))
        super().__init__(*arguments, leave=False, disable=hidden, **settings)


class ProgressBar(Bar):
    """Shows finished trials, or else seconds, and the incumbent's value."""

    def __init__(self, n_trials: int | None, timeout: float | None, enabled: bool = True) -> None:
        self._counts_trials = n_trials is not None
        total, unit = (n_trials, "trials") if self._counts_trials else (timeout, "s")
        # No rates: trials of different lengths have none.
        shape = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} " + unit + "{postfix}"
        super().__init__(enabled=enabled, total=total, desc="tuning", bar_format=shape)

    def show(self, n_finished: int, seconds: float, incumbent: float | None) -> None:
        """Draw the bar anew, ten times a second at most, as that takes longer than a replay does."""
        self.n = min(n_finished if self._counts_trials else seconds, self.total)
        if incumbent is not None:
            self.set_postfix_str(f"incumbent {incumbent:.4g}", refresh=False)
        if not self.disable and time.time() - self.last_print_t >= self.mininterval:
            self.refresh()
            self.last_print_t = time.time()
