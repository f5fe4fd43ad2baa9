"""Documents whose tables benchmarks write: markdown, how figures are written, and the places for it between <!-- NAME --> and
<!-- /NAME -->."""

from collections.abc import Sequence
from pathlib import Path

from feed.errors import FeedError


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


def put(page: str, name: str, content: str, file: Path) -> str:
    """The page with `content` between the marks of `name`. Raises `FeedError` naming the file if they are not there."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise FeedError(f"{file} has no place for the table {name!r}: add the lines `{begin.strip()}` and `{end}`")
    return f"{before}{begin}{content}\n{end}{after}"


def interval(value: float, low: float, high: float) -> str:
    """A share with its interval."""
    return f"{value:.1%} ({low:.1%} – {high:.1%})"


def points(value: float, low: float, high: float, ahead: int, seeds: int) -> str:
    """A difference of shares, in percentage points, and in how many worlds it is positive."""
    return f"{100 * value:+.1f} ({100 * low:+.1f} – {100 * high:+.1f}); {ahead} of {seeds}"
