"""How well a model ranks a log: `python offline/evaluate.py --data DIR --model NAME` (docs/evaluation.md).

folder in the data format ─► rows in order of time ─► tune on 70-80 % ─► figures there, or with --test on the last 20 %
                                                                         recs.csv, targets.csv, report.json in --out
"""

import re
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from feed import dataset, errors, logs, settings
from feed.dataset import Dataset
from feed.dataset.columns import NUMBER
from feed.errors import BadData, BadModel, BadSetting
from feed.evaluation import files, report
from feed.evaluation.models import BOUNDS, Model, Parameters
from feed.evaluation.models import MODELS as OFFLINE
from feed.evaluation.protocol import Outcome, progressive, static
from feed.evaluation.rows import Log, load
from feed.evaluation.slices import Slice, slices
from feed.evaluation.tuning import Trial, search
from feed.events import KINDS, POSITIVES, utc
from offline.findings import interval
from offline.served import Served

TEST_RUNS = Path(__file__).resolve().parents[1] / "docs" / "test-runs.md"
LABELS = {
    "ndcg_at_10": "NDCG@10", "recall_at_10": "recall@10", "recall_at_50": "recall@50", "hit_rate_at_10": "hit rate@10",
    "mrr": "MRR", "auc": "AUC",
}  # fmt: skip
MODELS = {**OFFLINE, "served": Model(Served, online=True)}
THREADS = 1  # so that figures of speed mean the same everywhere

Protocol = Literal["progressive", "static"]


@dataclass(frozen=True)
class Plan:
    """What is to be run; `learn_every` 0: the weights stay frozen. `fixed`: parameters that are not tuned."""

    model: str
    protocol: Protocol
    state_every: int
    learn_every: int
    seed: int
    fixed: Parameters
    tune: bool


def run(data: Dataset, plan: Plan, log: Log, parts: tuple[Slice, Slice], test: bool) -> tuple[Outcome, dict[str, Any]]:
    """Tune where there is a grid, score the slice that is meant. Returns (outcome, report)."""
    tuning, part = parts[0], parts[int(test)]
    targets = [int(log.rows.until(one.end).first[one.start :].sum()) for one in (tuning, part)]
    if not targets[1]:
        unmet, remedy = ("", "") if log.rows.repeats else (" that the user had never met", "count repeats with --repeats, ")
        raise BadData(
            f"nothing to rank in the {part.name} slice: none of its {part.end - part.start} rows begins a positive event "
            f"on an item of the catalogue{unmet}; in the whole log {int(log.rows.positive.sum())} events "
            f"are positive, and its kinds of events are {', '.join(KINDS[k] for k in sorted({*log.rows.kind.tolist()}))}; "
            f"name others with --positive, {remedy}or move --tune-from and --test-from"
        )
    with Progress(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(plan.model)

        def outcome_of(parameters: Parameters, where: Slice) -> Outcome:
            def progress(done: int, total: int) -> None:
                bars.update(task, completed=done, total=total)

            bars.update(task, description=f"{plan.model}, {where.name} slice {_words(parameters)}")
            return evaluate(plan, log, where, parameters, progress)

        def score(parameters: Parameters) -> float:
            return float(outcome_of(parameters, tuning).targets.values["ndcg_at_10"].mean())

        if targets[0]:
            chosen, trials = tuned(plan, score, bars.console)
        else:
            chosen, trials = tuned(replace(plan, tune=False), score, bars.console)
        outcome = outcome_of(chosen, part)
    return outcome, {
        "run": about(data, plan, log, part) | {"parameters": chosen},
        "tuned": [{"parameters": trial.parameters, "ndcg_at_10": trial.figure} for trial in trials],
        "figures": report.figures(outcome, log, part, plan.seed),
    }


def evaluate(plan: Plan, log: Log, part: Slice, parameters: Parameters, progress: Callable[[int, int], None]) -> Outcome:
    """One model, one slice. Raises `BadSetting` and `BadModel` for parameters that it cannot work with."""
    torch.manual_seed(plan.seed)  # some models draw from the global generator
    model = MODELS[plan.model].build(**parameters)
    try:
        if plan.protocol == "static":
            return static(model, log, part, seed=plan.seed, progress=progress)
        return progressive(
            model, log, part, state_every=plan.state_every, learn_every=plan.learn_every, seed=plan.seed, progress=progress
        )
    except np.linalg.LinAlgError as error:
        raise BadModel(
            f"{plan.model} has no solution with {_words(parameters)}: {error}; give it other parameters with --set (--grid "
            "shows some)"
        ) from error


def tuned(plan: Plan, score: Callable[[Parameters], float], console: Console) -> tuple[Parameters, Sequence[Trial]]:
    """The parameters to use and what was tried for them."""
    grid = {name: values for name, values in MODELS[plan.model].grid.items() if name not in plan.fixed}
    starts = {name: values[0] for name, values in grid.items()}
    if not grid or not plan.tune:
        return starts | plan.fixed, []
    best, trials = search(
        grid,
        lambda parameters: score(parameters | plan.fixed),
        lambda trial: console.print(f"{plan.model} {_words(trial.parameters)}: {trial.figure:.4f}", highlight=False),
    )
    return best.parameters | plan.fixed, trials


def about(data: Dataset, plan: Plan, log: Log, part: Slice) -> dict[str, Any]:
    """What makes a figure comparable."""
    return {
        "model": plan.model,
        "protocol": plan.protocol,
        "slice": part.name,
        "rows": [part.start, part.end],
        "from": utc(log.rows.at[part.start]).isoformat(),
        "state_every": plan.state_every if plan.protocol == "progressive" else None,
        "learn_every": plan.learn_every if plan.protocol == "progressive" else None,
        "seed": plan.seed,
        "users": len(log.user_ids),
        "items": len(log.item_ids),
        "data": files.fingerprint(data.interactions),
        "commit": commit(),
    }


def commit() -> str:
    """The commit that runs, with + if files were changed since (the list of test runs aside); "unknown" outside a checkout."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", f":(top,exclude)docs/{TEST_RUNS.name}")
        return git("rev-parse", "--short", "HEAD") + "+" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def count(path: Path, folder: str, result: dict[str, Any]) -> tuple[int, int]:
    """Append a test run to the list; returns its number there and among the runs on the same log, both from 1."""
    head = "# Runs on the test slice\n\nEvery one, in order, appended by `offline/evaluate.py --test`.\n\n"
    head += "| n | when | commit | data | model and configuration | NDCG@10 |\n|---|---|---|---|---|---|\n"
    lines = path.read_text() if path.exists() else head
    runs = [line for line in lines.splitlines() if line.startswith("| ") and line[2].isdigit()]
    number = 1 + len(runs)
    ran, figure = result["run"], result["figures"]["all"].get("ndcg_at_10")
    how = [ran["protocol"], f"positive {'+'.join(ran['positive'])}", _words(ran["parameters"])]
    if ran["protocol"] == "progressive":
        how.append(f"state every {ran['state_every']}, weights every {ran['learn_every']}")
    if ran.get("repeats"):
        how.append("repeats")
    how.append(f"seed {ran['seed']}")
    cells = [
        str(number), utc(time.time()).strftime("%Y-%m-%d %H:%M"), ran["commit"], f"{folder.replace('|', '/')} {ran['data']}",
        f"{ran['model']}: {', '.join(part for part in how if part)}", interval(figure) if figure else "no targets",
    ]  # fmt: skip
    path.parent.mkdir(exist_ok=True)  # an installation without the documents
    path.write_text(lines + "| " + " | ".join(cells) + " |\n")
    return number, 1 + sum(f" {ran['data']} |" in line for line in runs)


def tables(result: dict[str, Any], console: Console) -> None:
    """Print the figures."""
    ran, figures = result["run"], result["figures"]
    how = f"state every {ran['state_every']}, weights every {ran['learn_every']}" if ran["state_every"] else "at the split"
    shown = Table("", *LABELS.values(), "rankings", title=f"{ran['model']}, {ran['slice']} slice, {ran['protocol']}, {how}")
    for name, summary in {"all": figures["all"], **figures["segments"]}.items():
        cells = [_short(summary[key]) if key in summary else "" for key in LABELS]
        shown.add_row(name.replace("_", " "), *cells, f"{summary['rankings']:,}")
    console.print(shown)
    if figures["auc_shown"]:
        console.print(f"AUC per user over shown items: {interval(figures['auc_shown'])}", highlight=False)
    novelty = "" if figures["novelty"] is None else f", novelty {figures['novelty']:.2f} bits"
    console.print(
        f"coverage {figures['coverage']:.3f}{novelty}; fit {figures['seconds'].get('fit', 0):.2f} s, "
        f"{figures['ranking_ms']:.2f} ms a ranking {_words(ran['parameters'])}", highlight=False,
    )  # fmt: skip


def compare(a: Path, b: Path, seed: int, console: Console) -> None:
    """Print a - b with paired intervals."""
    left, right, of_a, of_b = files.pair(a, b)
    for name in ("state_every", "learn_every"):
        if of_a[name] != of_b[name]:
            console.print(f"note: {name} is {of_a[name]} and {of_b[name]}", highlight=False)
    shown = Table("", str(a), str(b), "a - b", title="Means, paired difference with 95 % interval over users")
    for name, figure in report.compare(left, right, seed).items():
        means = (f"{ranking.values[name][~pd.isna(ranking.values[name])].mean():.4f}" for ranking in (left, right))
        shown.add_row(LABELS[name], *means, interval(figure, "+"))
    console.print(shown)


def grids(console: Console) -> None:
    """Print what each model is tuned on."""
    for name, model in MODELS.items():
        values = "; ".join(f"{key} {', '.join(map(str, sorted(of_key)))}" for key, of_key in model.grid.items())
        console.print(f"{name}: {values or 'nothing to tune'}", highlight=False, soft_wrap=True)


def main(
    data: Annotated[Path | None, typer.Option(help="folder in the data format (docs/event-schema.md)")] = None,
    model: Annotated[str, typer.Option(help=f"one of {', '.join(MODELS)}")] = "served",
    protocol: Annotated[Protocol, typer.Option(help="rank before each event, or once at the split")] = "progressive",
    positive: Annotated[
        str | None, typer.Option(help="kinds of events that count as relevant, comma-separated; default: all positive ones")
    ] = None,
    repeats: Annotated[bool, typer.Option("--repeats", help="rank what a user has met before as well, and count it")] = False,
    state_every: Annotated[int, typer.Option(min=1, help="history and counts are refreshed every so many events")] = 1,
    learn_every: Annotated[
        int | None, typer.Option(min=0, help="weights learn every so many targets; 0: frozen; default: 1 where they can")
    ] = None,
    tune_from: Annotated[str | None, typer.Option(help="UTC time where tuning begins; default: after 70 % of events")] = None,
    test_from: Annotated[str | None, typer.Option(help="UTC time where the test begins; default: after 80 % of events")] = None,
    test: Annotated[bool, typer.Option("--test", help="score the test slice; counted in docs/test-runs.md")] = False,
    tune: Annotated[bool, typer.Option(help="choose parameters on the tuning slice first")] = True,
    given: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE of a parameter, which is then not tuned")] = None,
    out: Annotated[Path | None, typer.Option(help="folder for the results; default: var/evaluate/MODEL-SLICE")] = None,
    seed: Annotated[int, typer.Option(min=0, help="of codes, ties and intervals")] = 0,
    grid: Annotated[bool, typer.Option("--grid", help="print what each model is tuned on, and stop")] = False,
    comparing: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--compare", metavar="A B", help="two --out folders: paired intervals of the difference A - B"),
    ] = None,
) -> None:
    """Rank a log with a model and say what the rankings were worth."""
    console = Console(width=180 if not Console().is_terminal else None)
    if grid:
        return grids(console)
    if comparing:
        return compare(*comparing, seed, console)
    configuration = settings.load()
    logs.setup(configuration, "evaluate")
    torch.set_num_threads(THREADS)
    if data is None:
        raise BadSetting("--data is missing: a folder in the data format; or --compare A B, or --grid")
    if model not in MODELS:
        raise BadSetting(f"--model {model!r} is none of {', '.join(MODELS)}")
    if learn_every and not MODELS[model].online:
        raise BadSetting(f"--learn-every {learn_every}: the weights of {model} do not learn online: leave it out, or 0")
    tables_ = dataset.read(data, future_seconds=configuration.future_seconds)
    kinds = sorted(POSITIVES) if positive is None else [name.strip() for name in positive.split(",") if name.strip()]
    log = load(tables_, kinds, configuration.attribution_seconds, seed, repeats)
    parts = slices(log.rows, _time("--tune-from", tune_from), _time("--test-from", test_from))
    learn = int(MODELS[model].online) if learn_every is None else learn_every
    plan = Plan(model, protocol, state_every, learn, seed, fixed(model, given or ()), tune)
    outcome, result = run(tables_, plan, log, parts, test)
    result["run"] |= {"positive": sorted(kinds), "window_seconds": configuration.attribution_seconds}
    result["run"] |= {"repeats": True} if repeats else {}
    folder = out or Path("var") / "evaluate" / f"{model}-{parts[int(test)].name}"
    files.write(folder, outcome.targets, log, result)
    tables(result, console)
    if test:
        number, of_log = count(TEST_RUNS, data.resolve().name, result)
        console.print(
            f"test run {of_log} of this log, {number} of all that stand in {TEST_RUNS}", highlight=False, soft_wrap=True
        )
    console.print(f"{folder}: recs.csv, targets.csv, report.json", highlight=False, soft_wrap=True)


def fixed(model: str, given: Sequence[str]) -> Parameters:
    """The parameters of --set. Raises `BadSetting` for a name that the model does not have, and a value that it cannot have."""
    known = MODELS[model].parameters()
    parameters: Parameters = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals:
            raise BadSetting(f"--set {one!r}: NAME=VALUE is needed, like ridge=100")
        if name not in known:
            raise BadSetting(f"--set {one!r}: {model} has no {name!r}; it has {', '.join(sorted(known)) or 'no parameters'}")
        if name in parameters:
            raise BadSetting(f"--set {one!r}: {name} is given twice")
        parameters[name] = _number(one, value, known[name], BOUNDS[name])
    return parameters


def _number(one: str, value: str, kind: Any, bounds: tuple[float, float]) -> float | int:
    least, most = bounds
    number = float(value) if re.fullmatch(NUMBER, value, re.ASCII) else float("nan")
    if not least <= number <= most or (kind is int and number % 1):
        what = "a whole number" if kind is int else "a number"
        raise BadSetting(f"--set {one!r}: the value is to be {what} from {least:,} to {most:,}")
    return int(number) if kind is int else number


def _time(option: str, given: str | None) -> float | None:
    if given is None:
        return None
    try:
        time = pd.Timestamp(given)
        if pd.isna(time):
            raise ValueError("empty")
    except ValueError as error:
        raise BadSetting(f"{option} {given!r} is no time: write it like 2025-01-31T12:00:00Z") from error
    return float((time.tz_localize("UTC") if time.tz is None else time).timestamp())


def _words(parameters: Parameters) -> str:
    return " ".join(f"{name}={value}" for name, value in parameters.items())


def _short(figure: dict[str, float]) -> str:
    return f"{figure['mean']:.4f} ±{(figure['high'] - figure['low']) / 2:.4f}"


if __name__ == "__main__":
    errors.run(lambda: typer.run(main))
