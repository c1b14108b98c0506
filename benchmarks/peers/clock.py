"""The hook that times our own runs."""

import time

from cirilla_cli.engine.trainer import Metrics, Trainer


class Clock:
    """Notes what each step took, and its loss; ends the run after ``most`` of them."""

    def __init__(self, most: int | None = None) -> None:
        self.most = most
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def on_start(self, trainer: Trainer) -> None:
        """Start the clock."""
        self._since = time.perf_counter()

    def on_step(self, trainer: Trainer, metrics: Metrics) -> None:
        """Note a step."""
        now = time.perf_counter()
        self.seconds.append(now - self._since)
        self.losses.append(metrics["loss"])
        self._since = now
        if self.most == len(self.seconds):
            trainer.stop = "enough"

    def on_end(self, trainer: Trainer, metrics: Metrics) -> None:
        """Nothing is left to do."""
