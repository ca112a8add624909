"""The progress bar of `tune`."""

from __future__ import annotations

import os
import warnings

with warnings.catch_warnings():
    # Without ipywidgets tqdm warns and falls back to text, which is what we want there.
    warnings.simplefilter("ignore")
    from tqdm.auto import tqdm


class ProgressBar:
    """Shows finished trials (or, where only time is limited, seconds) and the incumbent's value.

    Parameters
    ----------
    n_trials
        The number of trials that is the end; None if only time is limited.
    timeout
        The seconds that are the end; looked at only where `n_trials` is None.
    enabled
        Whether anything is shown.
    """

    def __init__(self, n_trials: int | None, timeout: float | None, enabled: bool = True) -> None:
        self._counts_trials = n_trials is not None
        total, unit = (n_trials, "trials") if self._counts_trials else (timeout, "s")
        # No rates: trials of different lengths have none. The bar vanishes at the end, so that outputs compare.
        shape = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} " + unit + "{postfix}"
        # tqdm's own reading of TQDM_DISABLE is lost in its notebook variant.
        hidden = not enabled or bool(os.environ.get("TQDM_DISABLE"))
        self._bar = tqdm(total=total, desc="tuning", bar_format=shape, leave=False, disable=hidden)

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def show(self, n_finished: int, seconds: float, incumbent: float | None) -> None:
        """Draw the bar anew."""
        self._bar.n = min(n_finished if self._counts_trials else seconds, self._bar.total)
        if incumbent is not None:
            self._bar.set_postfix_str(f"incumbent {incumbent:.4g}", refresh=False)
        self._bar.refresh()
