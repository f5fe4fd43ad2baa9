"""What the ledger says about trials: pure functions of its lines, so that a gatekeeper needs no memory of its own.

Its lines, beside the registry's `published`, `promoted` and `rolled back`:

    trial     number, champion, challenger, generation, alpha, topic_id, from_offset, after     a trial was opened
    refused   number (none if it was not even tried), champion, challenger, why, figures
    gave up   number, champion, challenger, why, figures
    void      number, champion, challenger, why                                       ended without a verdict
    watch     generation, champion, challenger (who served before), alpha, topic_id, from_offset, after
    stands    generation, champion, why, figures                                      the watch found nothing
    restart   version, why                                                            the learner was told to go on from it

A promotion's line carries its trial's number in its evidence.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Line = Mapping[str, Any]

TRIAL, REFUSED, GAVE_UP, VOID, WATCH, STANDS, RESTART = "trial", "refused", "gave up", "void", "watch", "stands", "restart"
PROMOTED, ROLLED_BACK = "promoted", "rolled back"
HELD = "held"
REFUSALS = 3  # in a row, before the learner starts again from the champion


def next_number(lines: Sequence[Line]) -> int:
    """The number of the next trial, from 1."""
    return 1 + max((line["number"] for line in lines if line["event"] == TRIAL), default=0)


def promotions(lines: Sequence[Line]) -> list[int]:
    """The numbers of the trials that ended in a promotion."""
    return [line["evidence"]["number"] for line in lines if line["event"] == PROMOTED and "number" in line.get("evidence", {})]


def won_a_trial(lines: Sequence[Line], generation: int) -> bool:
    """Whether a trial made this generation's champion; else somebody promoted it by hand."""
    made = next((line for line in lines if line["event"] == PROMOTED and line["generation"] == generation), None)
    return made is not None and "number" in (made.get("evidence") or {})


def tried(lines: Sequence[Line]) -> set[str]:
    """The challengers that have been on trial, or refused without one, and who was rolled back."""
    back = {line["instead_of"] for line in lines if line["event"] == ROLLED_BACK and "instead_of" in line}
    return back | {line["challenger"] for line in lines if line["event"] in (TRIAL, REFUSED)}


def open_trial(lines: Sequence[Line]) -> Line | None:
    """The newest trial, if no line says how it ended. It is void if another generation serves than it names."""
    newest = next((line for line in reversed(lines) if line["event"] == TRIAL), None)
    if newest is None or newest["number"] in promotions(lines):
        return None
    over = any(line["event"] in (REFUSED, GAVE_UP, VOID) and line.get("number") == newest["number"] for line in lines)
    return None if over else newest


def watch_of(lines: Sequence[Line], generation: int) -> tuple[Line | None, bool]:
    """The line that opened this generation's watch (None: there is none), and whether it is over."""
    opened = next((line for line in lines if line["event"] == WATCH and line["generation"] == generation), None)
    return opened, any(line["event"] == STANDS and line["generation"] == generation for line in lines)


def reached(lines: Sequence[Line], topic_id: str) -> int:
    """How far this log had been read when the newest trial or watch was opened; 0 if there was none."""
    opened = [line for line in lines if line["event"] in (TRIAL, WATCH) and line["topic_id"] == topic_id]
    return max((int(line["from_offset"]) for line in opened), default=0)


def restart_due(lines: Sequence[Line], learners: Callable[[str], bool]) -> str | None:
    """Why the learner is to start again from the champion; None if it need not. `learners`: did it make this version?

    After a roll-back, after another's version became champion (not the first one: the learner begins with that), after
    `REFUSALS` refusals in a row and after a refusal of weights that were held; until the ledger has the line `restart`.
    """
    why, refusals = None, 0
    for line in lines:
        match line["event"]:
            case "restart":
                why, refusals = None, 0
            case "promoted":
                foreign = line.get("previous") is not None and not learners(line["version"])
                why, refusals = f"{line['version']} became champion, which the learner did not make" if foreign else None, 0
            case "rolled back":
                why, refusals = f"{line.get('instead_of')} was rolled back to {line['version']}", 0
            case "gave up":
                refusals = 0
            case "refused" if learners(line["challenger"]):
                refusals += 1
                if str(line.get("why", "")).startswith(HELD):
                    why = f"{line['challenger']} was {line['why']}"
                elif refusals >= REFUSALS:
                    why = why or f"{refusals} refusals in a row"
    return why
