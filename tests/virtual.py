"""A launcher in virtual time for the tests of `tune`: a curve is a list of (seconds, value)."""

from hpo_helpers.jobs.replay import ReplayLauncher


class VirtualLauncher(ReplayLauncher):
    """Replays ``curve(params)``, and remembers its jobs."""

    def __init__(self, curve, n_workers=4):
        def curves(params):
            for seconds, value in curve(params):
                yield {"valid_error": value, "seconds": seconds}

        super().__init__(n_workers, curves=curves)
        self.jobs = []

    def submit(self, params, epochs):
        self.jobs.append(super().submit(params, epochs))
        return self.jobs[-1]
