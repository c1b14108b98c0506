"""What happens between steps: evaluation, samples, early stopping, the log, progress; checkpoints: `saving.py`."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cirilla_cli.compat import peak_memory
from cirilla_cli.data.rows import Message
from cirilla_cli.data.tokenizer import Tokenizer
from cirilla_cli.engine.config import EarlyStoppingConfig, EvaluationConfig, LogConfig
from cirilla_cli.engine.metrics import FILE, cut_back, read_metrics
from cirilla_cli.engine.plot import draw_curves
from cirilla_cli.engine.step import mean_terms
from cirilla_cli.engine.trainer import Metrics, Trainer
from cirilla_cli.infer.generator import Stop, greedy
from cirilla_cli.model.decoder import Decoder
from cirilla_cli.progress import Progress
from cirilla_cli.units import span_steps


class Quiet:
    """A hook that does nothing; the others override what they need."""

    def on_start(self, trainer: Trainer) -> None:
        """Before the first step of this sitting."""

    def on_step(self, trainer: Trainer, metrics: Metrics) -> None:
        """After each step."""

    def on_end(self, trainer: Trainer, metrics: Metrics) -> None:
        """After the last step of this sitting."""


class AfterSteps(Quiet):
    """Calls a function after each step."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call

    def on_step(self, trainer: Trainer, metrics: Metrics) -> None:
        """Call it."""
        self._call()


def due(step: int, every: int, last: int) -> bool:
    """Whether something that happens every so many steps, and at the last, happens after ``step``."""
    return step == last or step % max(1, every) == 0


@dataclass
class Evaluate(Quiet):
    """Validation terms under names that begin with ``val_``; ``val_loss`` is the plain loss, without smoothing."""

    config: EvaluationConfig

    def on_start(self, trainer: Trainer) -> None:
        """Measure the model as it comes in, once."""
        if trainer.state.step == 0:
            trainer.state.first_validation = self._measure(trainer)

    def on_step(self, trainer: Trainer, metrics: Metrics) -> None:
        """Measure when it is due."""
        if not due(trainer.state.step, span_steps(self.config.every, trainer.steps), trainer.steps):
            return
        values = self._measure(trainer)
        metrics.update({f"val_{name}": value for name, value in values.items()})
        if trainer.objective.main not in values:
            return
        loss, state = values[trainer.objective.main], trainer.state
        metrics["val_loss"] = loss
        if state.best_loss is None or loss < state.best_loss:
            state.best_loss, state.best_step = loss, state.step
            metrics["best"] = True

    def _measure(self, trainer: Trainer) -> dict[str, float]:
        batches = list(trainer.source.validation(self.config.max_tokens))
        if not batches:
            return {}
        trainer.model.eval()
        with trainer.averaged():
            values = mean_terms(trainer.forward(), trainer.objective, batches, trainer.device, ranks=trainer.ranks)
        trainer.ranks.apart(trainer.model)
        return {name: round(value, 6) for name, value in values.items()}


@dataclass
class ShowSamples(Quiet):
    """Continues fixed prompts at each evaluation, into samples.jsonl, so that progress can be read."""

    config: EvaluationConfig
    tokenizer: Tokenizer
    out: Path
    as_chat: bool
    progress: Progress

    def on_start(self, trainer: Trainer) -> None:
        """Forget lines after the step that is resumed from."""
        if trainer.ranks.leads:
            cut_back(self.out / "samples.jsonl", trainer.state.step)

    def on_step(self, trainer: Trainer, metrics: Metrics) -> None:
        """Write what the model says when it is due."""
        if not due(trainer.state.step, span_steps(self.config.every, trainer.steps), trainer.steps):
            return
        model = trainer.ranks.whole_model(trainer.model)
        if model is None:
            return
        assert isinstance(model, Decoder), "only a decoder continues text"
        prompts = [self._ids(prompt) for prompt in self.config.prompts]
        with trainer.averaged():
            answers = greedy(model, prompts, most_new=self.config.sample_tokens, stop=Stop(self.tokenizer.stop_ids))
        with (self.out / "samples.jsonl").open("a", encoding="utf-8") as file:
            for prompt, ids in zip(self.config.prompts, answers, strict=True):
                text = self.tokenizer.decode(ids)
                row = {"step": trainer.state.step, "prompt": prompt, "text": text}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.progress.say(
            f"step {trainer.state.step}: {self.config.prompts[0]} -> {text_line(self.tokenizer.decode(answers[0]))}"
        )

    def _ids(self, prompt: str) -> list[int]:
        if self.as_chat:
            return self.tokenizer.chat([Message(role="user", content=prompt)], generation_prompt=True).ids
        return [*self.tokenizer.bos_ids, *self.tokenizer.encode(prompt)]


def text_line(text: str, most: int = 100) -> str:
    """Text on one line, cut."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 3] + "..."


@dataclass
class StopEarly(Quiet):
    """Ends the run when validation has not improved for a while."""

    config: EarlyStoppingConfig
    _best: float | None = field(default=None, init=False)
    _since: int = field(default=0, init=False)

    def on_start(self, trainer: Trainer) -> None:
        """Go on counting where an interrupted run was."""
        self._best, self._since = trainer.state.loss_to_beat, trainer.state.evaluations_without_gain

    def on_step(self, trainer: Trainer, metrics: Metrics) -> None:
        """Count evaluations without enough improvement."""
        loss = metrics.get("val_loss")
        if loss is None:
            return
        if self._best is None or loss < self._best - self.config.min_improvement:
            self._best, self._since = loss, 0
        else:
            self._since += 1
        trainer.state.loss_to_beat, trainer.state.evaluations_without_gain = self._best, self._since
        if self._since >= self.config.patience and trainer.state.step < trainer.steps:
            trainer.state.stopped_early = True
            trainer.stop = f"validation has not improved over {self._since} evaluations"


@dataclass
class Log(Quiet):
    """metrics.jsonl; the last line always is the last step's."""

    config: LogConfig
    out: Path
    flops_per_step: float
    """Matrix products of all tokens of a step's rows, trained on or not."""
    rate: float | None
    """Floating-point operations per second of the machine's matrix product, for MFU."""
    _written: int = field(default=0, init=False)

    def on_start(self, trainer: Trainer) -> None:
        """Forget lines after the step that is resumed from."""
        cut_back(self.out / FILE, trainer.state.step)

    def on_step(self, trainer: Trainer, metrics: Metrics) -> None:
        """Write a line when it is due, and whenever something was evaluated."""
        metrics["peak_memory_bytes"] = peak_memory(trainer.device)
        if self.rate:
            metrics["mfu"] = round(self.flops_per_step / metrics["step_seconds"] / self.rate, 4)
        noted = "val_loss" in metrics or "skipped_batches" in metrics
        if noted or due(metrics["step"], self.config.every, trainer.steps):
            self._write(metrics)

    def on_end(self, trainer: Trainer, metrics: Metrics) -> None:
        """Write the last step, if it was not, and draw the curves."""
        if metrics and metrics["step"] != self._written:
            self._write(metrics)
        picture = self.out / "curves.png"
        if self.config.plot and (metrics or not picture.is_file()):
            draw_curves(read_metrics(self.out), picture, self.out.name)

    def _write(self, metrics: Metrics) -> None:
        rounded = {key: _rounded(value) for key, value in metrics.items()}
        with (self.out / FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(rounded) + "\n")
        self._written = metrics["step"]


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


@dataclass
class TensorBoard(Quiet):
    """The same numbers as TensorBoard events, under ``tensorboard/``."""

    out: Path
    every: int
    _writer: Any = field(default=None, init=False)

    def on_start(self, trainer: Trainer) -> None:
        """Open the event file."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self.out / "tensorboard"), purge_step=trainer.state.step + 1)

    def on_step(self, trainer: Trainer, metrics: Metrics) -> None:
        """Write what is due."""
        if "val_loss" in metrics or due(metrics["step"], self.every, trainer.steps):
            for key, value in metrics.items():
                if isinstance(value, int | float) and key != "step":
                    self._writer.add_scalar(key, value, metrics["step"])
            self._writer.flush()

    def on_end(self, trainer: Trainer, metrics: Metrics) -> None:
        """Close the event file."""
        self._writer.close()


@dataclass
class ShowProgress(Quiet):
    """Tells the listener after every step."""

    progress: Progress
    verb: str

    def on_step(self, trainer: Trainer, metrics: Metrics) -> None:
        """Loss, speed, MFU, memory, the first group's learning rate and the gradient's length beside the count."""
        names = {
            "loss": "loss",
            "val_loss": "val",
            "tokens_per_second": "tok/s",
            "mfu": "mfu",
            "peak_memory_bytes": "memory",
            "lr": "lr",
            "grad_norm": "norm",
        }
        seen = {**metrics, "lr": trainer.optimizer.param_groups[0]["lr"]}
        figures = {shown: float(seen[key]) for key, shown in names.items() if seen.get(key) is not None}
        self.progress.step(self.verb, trainer.state.step, trainer.steps, **figures)


def order(hooks: Sequence[Quiet | None]) -> list[Quiet]:
    """The hooks that are wanted, as given: what adds to the metrics stands before what writes them."""
    return [hook for hook in hooks if hook is not None]
