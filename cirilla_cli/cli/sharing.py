"""What `--shard` and `--merge` mean, and what is said of a part."""

from typing import TYPE_CHECKING, Any

from cirilla_cli.cli.options import Flags
from cirilla_cli.errors import UsageError
from cirilla_cli.units import show_seconds

if TYPE_CHECKING:
    from cirilla_cli.data.parts import Share


def share_of(flags: Flags) -> "Share | None":
    """Which share of the work a call is to do; None for all of it, or for the merge.

    Raises:
        UsageError: `--shard` is none, or the flags contradict each other.
    """
    if flags.merge and (flags.shard is not None or flags.fresh):
        other = "--fresh" if flags.shard is None else "--shard"
        raise UsageError(
            f"--merge and {other} contradict each other", hint="first --shard 1/N to N/N, each a call, then --merge"
        )
    if flags.shard is None:
        return None
    from cirilla_cli.data.parts import Share

    return Share.parse(flags.shard)


def part_said(report: Any) -> str:
    """What a part did, in one line."""
    done = "done already (--fresh starts over)" if report.already_done else f"{show_seconds(report.seconds)}"
    return f"{report.out}: {report.items:,} of {report.of:,} items, {done}"
