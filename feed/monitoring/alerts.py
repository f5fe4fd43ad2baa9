"""What is said when the world has changed: one message an alert, for the log, the topic `alerts` and whoever acts on it."""

import msgspec
from msgspec import Struct

from feed.errors import Unreadable
from feed.events import utc

EVERYBODY = "everybody"
FIGURES = {
    "error": "over-promised clicks per look",
    "clicks": "clicks per item shown",
    "engagement": "likes, shares and comments per item shown",
    "dwell": "seconds of dwell per item shown",
}


class Alert(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One change for the worse (kind `features`: of either direction) in what the learned arm is served.

    `kind`: `error`, `clicks`, `engagement`, `dwell` or `features`; `figure`: which one of the latter. `segment`: `everybody`
    or `dimension=value`; `also`: what else showed the change by then. `before` and `after`: the means of the figure on both
    sides of the change, which is put at `since`; `at`: of the example that raised it (event time, seconds since 1970); `after`
    is over `requests` requests; `popular_...`: the popular arm's in the same spans (for `error`: its clicks per look).
    `retrain`: offline is asked for a re-train. `source` and `sequence` are that example's, so that a second reading raises
    the same `alert_id`.
    """

    alert_id: str
    kind: str
    segment: str
    at: float
    since: float
    before: float
    after: float
    requests: int
    source: int
    sequence: int
    figure: str | None = None
    model_version: str | None = None
    also: tuple[str, ...] = ()
    popular_before: float | None = None
    popular_after: float | None = None
    retrain: bool = True

    @property
    def what(self) -> str:
        """The figure that changed, in words."""
        return FIGURES[self.kind] if self.figure is None else f"mean {self.figure}"


_alert = msgspec.json.Decoder(Alert)


def decode_alert(value: bytes | None) -> Alert:
    """The alert in `value`, a record of `alerts`. Raises `Unreadable`."""
    try:
        alert: Alert = _alert.decode(value or b"")
        return alert
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(f"not a valid alert: {error}") from error


def headline(alert: Alert) -> str:
    """One sentence: what, where, how much, since when, against what."""
    change = f" ({alert.after / alert.before - 1:+.0%})" if alert.kind != "error" and alert.before > 0 else ""
    against = "its own past"
    if alert.popular_before is not None and alert.popular_after is not None:
        what = "clicks per look" if alert.kind == "error" else "same"
        against += f" and the popular arm ({what}: {alert.popular_before:.4g} -> {alert.popular_after:.4g})"
    return (
        f"{alert.what} of {alert.segment}: {alert.before:.4g} -> {alert.after:.4g}{change} "
        f"since {utc(alert.since):%Y-%m-%d %H:%M}, over {alert.requests:,} requests, against {against}"
    )
