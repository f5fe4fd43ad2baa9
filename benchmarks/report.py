"""Writes what the other benchmarks found into docs/learning.md and docs/quality.md, and their plots; measures nothing itself.

    var/*.json, docs/test-runs.md ─► the tables between <!-- NAME --> and <!-- /NAME -->, and plots

A file that is not there leaves what it is needed for as it was, and says so.

`python -m benchmarks.report`
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import curves, parts, ranked
from benchmarks.drift import quantiles
from benchmarks.loop import learned
from benchmarks.page import interval, points, put, table
from feed.errors import run

ROOT = Path(__file__).parents[1]
PLOTS = ROOT / "docs" / "learning"


def learning(measured: dict[str, Any]) -> dict[str, str]:
    """Shares, differences, what the drift cost, and what monitor and gatekeeper did."""
    result = {}
    found = {scenario.drifts: scenario for scenario in curves.scenarios(measured)}
    for scenario in found.values():
        name = "drift" if scenario.drifts else "stationary"
        result[f"shares-{name}"] = table(
            ["", *scenario.phases],
            [[kind, *(interval(*scenario.share(kind, phase)) for phase in scenario.phases)] for kind in scenario.rows],
        )
        result[f"differences-{name}"] = table(
            ["points of share", *scenario.phases],
            [[f"{a} - {b}", *(points(*scenario.difference(a, b, p)) for p in scenario.phases)] for a, b in scenario.pairs],
        )
        result[f"verdicts-{name}"] = verdicts(scenario)
        if scenario.drifts:
            result["cost"] = cost(scenario, found[False])
            result["alerts"] = alerts(scenario)
        scenario.plot(PLOTS / f"{name}.png")
    runs = measured["runs"]
    seeds = len({run["seed"] for run in runs})
    result["setting"] = (
        f"{seeds} worlds, {measured['requests']:,} requests a run; where tastes drift, those of half of the users do after "
        f"{measured['drift_at']:,} requests."
    )
    return result


def corrections(objective: dict[str, Any], looks: dict[str, Any]) -> dict[str, str]:
    """What a correction of popularity, or of position, is worth in front of the learned arm."""
    dialled, plain = ([run for run in objective["runs"] if (run["table"], run["dial"]) == ("", dial)] for dial in (0.3, 0.0))
    by_place, all_rows = (
        [{"seed": run["seed"], **learned(run)} for run in looks["runs"] if run["kind"] == kind] for kind in ("drawn", "shown")
    )
    rows = [
        ["popularity correction of 0.3, off", parts.points(dialled, plain)],
        ["position correction, in logs without views", parts.points(by_place, all_rows)],
    ]
    return {"corrections": table(["with it less without", "points of share"], rows)}


def cost(scenario: curves.Scenario, calm: curves.Scenario) -> str:
    """What the drift took, and how much of it came back."""
    rows = []
    for kind in scenario.kinds:
        lost, clicks = scenario.lost(kind, calm)
        regained, requests, seeds = scenario.recovery(kind, calm)
        rows.append([
            kind, interval(*lost), f"{clicks:,.0f}", interval(*regained),
            "not within the run" if requests is None else f"{requests:,}", f"{seeds} of {len(scenario.seeds)}",
        ])  # fmt: skip
    header = [
        "", "click-through lost after it", "clicks in 1,000 requests", f"of it regained in the last {curves.AT_THE_END:,}",
        "requests until 90 % regained", "worlds in which it was",
    ]  # fmt: skip
    return table(header, rows)


def alerts(scenario: curves.Scenario) -> str:
    """The monitor's first alert after the drift, in each world."""
    rows = []
    for seed in scenario.seeds:
        early, first = scenario.alert(seed)
        told = ["none", "", ""] if first is None else [first.what, f"{first.requests:,}", f"{first.events:,}"]
        rows.append([str(seed), str(early), *told])
    return table(["world", "alerts before the drift", "first alert after it", "delay, requests", "delay, events"], rows)


def verdicts(scenario: curves.Scenario) -> str:
    """What became of the learner's versions, in each world."""
    rows = []
    for seed in scenario.seeds:
        n = scenario.ledger(seed)
        told = [str(n[event]) for event in ("published", "trial", "refused", "gave up", "void")]
        changes = [", ".join(f"{at:,}" for at in scenario.when(seed, what)) or "–" for what in ("promoted", "rolled back")]
        rows.append([str(seed), *told, *changes])
    header = ["world", "published", "trials", "refused", "given up", "void", "promoted, at request", "rolled back, at request"]
    return table(header, rows)


def trials(measured: dict[str, Any]) -> dict[str, str]:
    """False promotions and power."""
    z = measured["seeds"]["z"] | {p["series"]: p["z"] for p in measured["power"]["resampled"]}
    flipped = [
        [
            f["series"], f"{f['requests']:,}", str(f["users"]), f"{z[f['series']]:+.1f}", f"{f['trials']:,}",
            f"{f['share']:.2%}", f"{f['upper_95']:.2%}",
        ]
        for f in measured["flipped"]
    ]  # fmt: skip
    closed = measured["seeds"]
    ended = Counter(v["decision"] for v in closed["verdicts"])
    spans = {d: quantiles([v["requests"] for v in closed["verdicts"] if v["decision"] == d]) for d in ended}
    equal = [[decision, str(n), span(spans[decision])] for decision, n in ended.most_common()]
    told = {f"{v['challenger']} against {v['champion']}": v for v in measured["power"]["verdicts"]}
    power = []
    for p in measured["power"]["resampled"]:
        v, needed = told.get(p["series"]), p["median_requests"]
        verdict = "none" if v is None else f"{v['decision']} after {v['requests']:,} requests"
        power.append([
            p["series"], f"{p['z']:.1f}", f"{p['promoted']:.0%}", "–" if needed is None else f"{needed:,.0f}", verdict,
        ])  # fmt: skip
    hits = (
        f"{closed['promoted']} of {closed['trials']} in {measured['worlds']} worlds promoted (upper 95 % bound "
        f"{closed['upper_95']:.1%}); {closed['trials'] - len(closed['verdicts'])} without a verdict at the end of the run"
    )
    return {
        "flipped": table(
            ["differences of", "requests", "users", "z before flipping", "null trials", "promoted", "upper 95 % bound"], flipped
        ),
        "equals": table(["verdict", "trials", "requests, median (range)"], equal) + f"\n\n{hits}.",
        "power": table(["", "z", "promoted, users resampled", "requests with evidence, median", "the run itself"], power),
    }


def drift(measured: dict[str, Any]) -> dict[str, str]:
    """The monitor beside rules that look at nothing."""
    rows = []
    for traffic, figures in measured["figures"].items():
        for rule, f in figures.items():
            if isinstance(f, dict):
                n = len(figures["seeds"])
                rows.append([
                    traffic, rule, f"{f['alerts_a_stable_day']:.2f} ({f['stable_days']:.1f} days)",
                    f"{round(f['detected'] * n)} of {n}", span(f["delay_requests"]), span(f["delay_events"]),
                ])  # fmt: skip
    return {
        "monitor": table(["", "rule", "alerts per stable day", "drifts detected", "delay, requests", "delay, events"], rows)
    }


def latency(measured: dict[str, Any]) -> dict[str, str]:
    """Seconds."""
    about = measured["about"]
    rows = [
        [name, str(f["n"]), *(f"{f[q]:.2f} s" for q in ("p50", "p95", "max"))] for name, f in measured["seconds"].items()
    ]  # fmt: skip
    told = (
        f"{about['events_per_second']:.0f} events/s by the audience, {about['users']:,} users, {about['items']:,} items, "
        f"{about['cores']} cores, a version every {about['snapshot_seconds']:.0f} s."
    )
    return {"latency": f"{told}\n\n" + table(["", "probes", "p50", "p95", "largest"], rows)}


def span(found: dict[str, float] | None) -> str:
    """Median and extremes."""
    return "–" if found is None else f"{found['median']:,.0f} ({found['least']:,.0f} – {found['most']:,.0f})"


Part = Callable[..., dict[str, str]]  # of what was measured, as many as it names
PAGES: Mapping[str, Mapping[str, Part]] = {
    "learning.md": {
        "parts": parts.tables, "objective looks": corrections,
        "learning": learning, "trials": trials, "drift": drift, "latency": latency,
    },
    "quality.md": {"quality": partial(ranked.tables, docs=ROOT / "docs")},
}  # fmt: skip


def main() -> None:
    """Write the pages anew."""
    for page, made in PAGES.items():
        file = ROOT / "docs" / page
        file.with_suffix("").mkdir(exist_ok=True)
        text = file.read_text()
        for names, part in made.items():
            measured = {name: ROOT / "var" / f"{name}.json" for name in names.split()}
            if missing := [name for name, found in measured.items() if not found.exists()]:
                first = missing[0]
                print(f"{measured[first]} is not there: run `python -m benchmarks.{first}`; its tables stay as they are")
                continue
            for mark, content in part(*(json.loads(found.read_text()) for found in measured.values())).items():
                text = put(text, mark, content, file)
        file.write_text(text)
        print(f"wrote {file}")


if __name__ == "__main__":
    run(main)
