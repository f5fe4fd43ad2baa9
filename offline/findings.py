"""What bootstrap tells about a log: tables, and in one sentence whether the ranker is worth more than a simple list."""

from rich.table import Table

from feed.evaluation import ablation
from feed.evaluation.ablation import Comparison
from feed.evaluation.metrics import Figure

Figures = dict[str, dict[str, Figure]]  # by name, by figure

SCORE = {
    "fused": "Counts and co-visitation are part of the score",
    "logit": "The score is the logit alone: counts and co-visitation did not improve held-out positives",
    "list": "The score is a list of what is popular lately",
}


def interval(figure: Figure, sign: str = "") -> str:
    """Mean, and 95 % interval in brackets; `sign` "+": a plus before what is above 0."""
    return f"{figure['mean']:{sign}.4f} ({figure['low']:{sign}.4f} – {figure['high']:{sign}.4f})"


def verdict(compared: Comparison, figures: Figures) -> str:
    """In one sentence: is what serves ahead of the better list of what is popular?

    A second one says so where what serves is not ahead of a quick baseline. Where it is not ahead of the list, but
    is among what was viewed, a last one has the figures, which do not depend on what was shown.
    """
    sentence = _verdict(compared) + _quick(compared)
    viewed = [by_figure["auc_looked_at"] for by_figure in figures.values() if "auc_looked_at" in by_figure]
    if compared.ahead["low"] > 0 or len(viewed) < 2 or viewed[0]["low"] <= viewed[1]["mean"]:
        return sentence
    served, listed = viewed
    return (
        f"{sentence} But what was clicked had to be shown, and among viewed items its AUC is {served['mean']:.3f}, that of "
        f"{ablation.DECAYED} {listed['mean']:.3f}."
    )


def _verdict(compared: Comparison) -> str:
    ahead = compared.ahead
    lately = f"in the last {ablation.span(compared.half_life)}" if compared.best_list == ablation.DECAYED else "so far"
    listed = f"a list of what was popular {lately}"
    if compared.users < ablation.FEWEST_USERS:
        return f"Of {compared.users} users nothing can be proven about {listed}: take a log of {ablation.FEWEST_USERS} or more."
    if ahead["low"] > 0:
        return f"What serves is ahead of {listed} by {interval(ahead)} NDCG@10."
    if ahead["high"] < 0:
        behind = interval({"mean": -ahead["mean"], "low": -ahead["high"], "high": -ahead["low"]})
        return (
            f"What serves is behind {listed} by {behind} NDCG@10: take a longer log, or let it learn "
            "online and bootstrap again; offline/evaluate.py compares other models."
        )
    return f"A{listed[1:]} would do as well on this log (NDCG@10 of what serves less that of the list: {interval(ahead)})."


def _quick(compared: Comparison) -> str:
    """A further sentence, if what serves is not ahead of the quick baseline."""
    ahead = compared.ahead_of_quick
    if ahead is None or ahead["low"] > 0 or compared.users < ablation.FEWEST_USERS:
        return ""
    verb = "is ahead of it" if ahead["high"] < 0 else "does as well"
    return f" {compared.quick} {verb} (NDCG@10 of what serves less that of {compared.quick}: {interval(ahead)})."


def parts_table(compared: Comparison) -> Table:
    """What serves, beside simple lists, a quick baseline, and its own parts."""
    shown = Table("", "NDCG@10 (95 % interval over users)", title="What each part is worth on the held-out last tenth")
    for name, figure in compared.ndcg_at_10.items():
        lately = f", the last {ablation.span(compared.half_life)}" if name == ablation.DECAYED else ""
        shown.add_row(name + lately, interval(figure))
    return shown


def table(figures: Figures) -> Table:
    """The figures as a table: mean over visits, 95 % interval over users."""
    shown = Table("", *figures, title="Held-out last tenth: mean over visits (95 % interval over users)")
    for name, label in LABELS.items():
        cells = [interval(found) for by_figure in figures.values() if (found := by_figure.get(name))]
        shown.add_row(label, *cells)
    return shown


def heads_table(figures: dict[str, dict[str, float]]) -> Table:
    """The heads' figures as a table."""
    shown = Table(
        "after a look", "predicted", "followed", "log-loss", "of the base rate", title="Heads on the held-out last tenth"
    )
    for task, of in figures.items():
        losses = f"{of['log_loss']:.4f}", f"{of['log_loss_of_base_rate']:.4f}"
        shown.add_row(task, f"{of['predicted']:.2%}", f"{of['followed']:.2%}", *losses)
    return shown


LABELS = {
    "auc": "AUC",
    "ndcg_at_10": "NDCG@10",
    "precision_at_50": "precision@50",
    "recall_at_50": "recall@50",
    "auc_looked_at": "AUC, looked at",
}
