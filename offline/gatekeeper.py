"""The gatekeeper: tries the learner's challengers against the champion, and promotes, refuses or gives up.

    training-examples ─► chunks by offset ─┬─► trial:  champion against the newest challenger  ─► promote | refused | gave up
                                           └─► watch:  who served before against the champion  ─► roll back | stands

All that it knows beside the log is in the registry's ledger, so one that is killed at any instant goes on from there: it finds
the trial that has no verdict and computes it again from the log, from `from_offset` on, with the catalogue of the examples
before. Chunks are cut at multiples of 64 offsets, whenever they arrive, so a trial's figures are a function of the log.

What chance showed does not depend on who served. A version that was promoted by hand is therefore watched from some way back
in the log on, for which the gatekeeper begins again there; one that won a trial only from then on, since what it was chosen by
would speak for it.

`python offline/gatekeeper.py [--once]`
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import structlog
import torch
import typer
from kafka.errors import KafkaError

from feed import errors, logs, settings, wire
from feed.errors import BadModel, FeedError, NotPromoted
from feed.examples import Example, RaiseRate, Restart, SetAside, is_new
from feed.heartbeat import heartbeat_of
from feed.io import kafka
from feed.registry import Champion, Registry
from feed.trial import LOOKBACK, Comparison, LastSeen, Verdict, give_up, history, judge, judge_return, level
from feed.trial.levels import ALPHA
from feed.trial.verdict import GIVE_UP, PROMOTE, ROLL_BACK
from offline.contenders import CHUNK, Contenders, Running, headline, names, progress

log = structlog.get_logger()

SETTLING = 1000  # records after an alert that a challenger must have learned from
BACK = 10_000  # records before a promotion by hand that its watch begins with, none of them before an alert
LOOK_SECONDS = 1.0  # between two looks at the registry
RETRY_SECONDS = 5.0


class Gatekeeper:
    """Decides on the registry's versions; `see` wants the records of `training-examples` in order, from `start` on.

    `send` brings a command to the learner and returns when it is acknowledged. `topic_id`: of the log that is read; positions
    in another one do not count.
    """

    def __init__(self, registry: Registry, topic_id: str, limit: int, send: Callable[[Restart], None]) -> None:
        self._registry, self._topic_id, self._limit, self._send = registry, topic_id, limit, send
        self._contenders = Contenders(registry, topic_id)
        self._catalogue = LastSeen()
        self._last: dict[int, int] = {}
        self._chunk: list[Example] = []
        self._set_aside = SetAside()
        self._trial: Running | None = None
        self._watch: Running | None = None
        self._looked: tuple[object, ...] = ()
        self._changed = 0  # the offset of the last alert: before, the world was another
        self.behind = False  # a watch begins before what was read: a new gatekeeper must read that again
        self._resume()
        running: tuple[Running | None, ...] = (self._trial, self._watch)
        waiting = [int(one.opened["from_offset"]) for one in running if one]
        self._known_from = min([*waiting, history.reached(registry.ledger(), topic_id)])
        self.start = max(0, self._known_from - LOOKBACK)
        self.start -= self.start % CHUNK
        self._done = self._read = self.start  # every chunk before `_done` is done, every record before `_read` is read

    def see(self, record: kafka.Record) -> None:
        """Read one record; decides when it completes a chunk. Raises `BadModel`, `OSError`: then make a new gatekeeper."""
        while record.offset >= self._done + CHUNK:  # offsets may have gaps
            self._end_chunk()
        self._read = record.offset + 1
        found = self._set_aside.read(record.offset, record.value)
        if isinstance(found, RaiseRate):
            self._world_has_changed(found)
        if isinstance(found, Example) and is_new(found, self._last):
            self._chunk.append(found)
        if record.offset == self._done + CHUNK - 1:
            self._end_chunk()

    def _world_has_changed(self, alarm: RaiseRate) -> None:
        """The monitor's command to the learner says so: what was learned before is not what should be tried now."""
        self._changed = self._read
        if self._trial and self._read > self._trial.opened["from_offset"]:
            self._end_trial(self._trial, give_up(self._trial.comparison, f"the world has changed: {alarm.why}"))

    def look(self) -> None:
        """Follow the registry: end what became void, open what can be opened, tell the learner. Raises as `see`."""
        self._end_void()
        champion = self._registry.champion()
        if champion is None or self.behind:
            return
        known = self._read >= self._known_from  # the catalogue is whole, as it will be for whoever computes the trial again
        looked = (champion.generation, self._registry.versions(), self._trial is None, self._watch is None, known)
        if looked == self._looked:  # the ledger grows for ever: it is read when something has changed
            return
        self._looked = looked
        if self._watch is None and known:
            self._open_watch(champion)
        if self._trial is None and known:
            self._open_trial(champion)
        self._restart(champion)

    def _end_chunk(self) -> None:
        examples, self._chunk = self._chunk, []
        self._end_void()
        for running in (self._trial, self._watch):
            if running and self._done >= running.opened["from_offset"]:
                later = [example for example in examples if example.at > running.opened["after"]]
                self._compare(running.comparison, [example for example in later if running.repeats or not example.again])
        self._done += CHUNK
        self._catalogue.add(examples, self._done)
        self._decide()

    def _compare(self, comparison: Comparison, examples: Sequence[Example]) -> None:
        """Show these to the comparison, one after the other if it fails on them together, and set aside those it fails on."""
        before = comparison.requests
        try:
            comparison.see(examples, self._catalogue)
        except Exception as error:
            counted = comparison.requests - before  # the last of these is the one it failed on
            if counted or len(examples) == 1:
                self._set_aside.example(examples[max(counted - 1, 0)], error)
                self._compare(comparison, examples[max(counted, 1) :])
            else:
                for example in examples:
                    self._compare(comparison, [example])

    def _decide(self) -> None:
        if self._trial:
            if verdict := judge(self._trial.comparison, self._limit):
                self._end_trial(self._trial, verdict)
            else:
                progress(self._trial)
        if self._watch:
            if verdict := judge_return(self._watch.comparison, self._limit):
                self._end_watch(self._watch, verdict)
            else:
                progress(self._watch)

    def _resume(self) -> None:
        """Take up what the ledger says is open."""
        lines, generation = self._registry.ledger(), self._registry.generation()
        opened, over = history.watch_of(lines, generation)
        if opened is not None and not over and opened["topic_id"] == self._topic_id:
            self._watch = self._contenders.running(opened)
        if (trial := history.open_trial(lines)) is None:
            return
        if trial["topic_id"] != self._topic_id:
            self._void(trial, "its log is not there any more")
        elif trial["generation"] == generation:
            self._trial = self._contenders.running(trial)
            if self._trial is None:
                self._void(trial, "a version of it cannot be read any more")
        elif (champion := self._registry.champion()) is None or champion.version != trial["challenger"]:
            self._void(trial, "another version became champion")
        # else it was promoted; the registry writes the line before its next one

    def _open_watch(self, champion: Champion) -> None:
        previous, lines = self._registry.previous(), self._registry.ledger()
        opened, _ = history.watch_of(lines, champion.generation)
        if previous is None or opened is not None:
            return
        won = history.won_a_trial(lines, champion.generation)
        since = self._read if won else max(self._read - BACK, self._changed, self.start)
        line = {
            "generation": champion.generation,
            "champion": champion.version,
            "challenger": previous,
            "alpha": ALPHA,
            **self._contenders.evidence_from((champion.version, previous), since),
        }
        self._registry.note(history.WATCH, **line)
        self._watch = self._contenders.running(line)
        if self._watch is None:
            self._registry.note(
                history.STANDS, generation=champion.generation, champion=champion.version, why="one of the two cannot be read"
            )
        else:
            self.behind = int(line["from_offset"]) < self._done
            log.info(f"{self._watch.name}: it returns by itself if it does better", read=self._read, **line)

    def _open_trial(self, champion: Champion) -> None:
        lines = self._registry.ledger()
        settled = self._changed + SETTLING if self._changed else 0
        challenger = self._contenders.next(champion.version, self._registry.previous(), history.tried(lines), settled)
        if challenger is None:
            return
        about: dict[str, Any] = {"champion": champion.version, "challenger": challenger}
        if why := self._contenders.unfit(challenger):
            self._registry.note(history.REFUSED, **about, why=why)
            log.warning(f"VERDICT {challenger} refused without a trial: {why}", **about)
            return
        number = history.next_number(lines)
        line = {
            "number": number,
            **about,
            "generation": champion.generation,
            "alpha": level(number, history.promotions(lines)),
            **self._contenders.evidence_from((champion.version, challenger), self._read),
        }
        running = self._contenders.running(line)
        if running is None:
            return
        self._registry.note(history.TRIAL, **line)
        self._trial = running
        log.info(f"{running.name} opened", **line)

    def _end_void(self) -> None:
        generation = self._registry.generation()
        if self._trial and self._trial.opened["generation"] != generation:
            self._void(self._trial.opened, "another version became champion")
            self._trial = None
        if self._watch and self._watch.opened["generation"] != generation:
            self._watch = None

    def _void(self, trial: history.Line, why: str) -> None:
        self._registry.note(history.VOID, **names(trial), why=why)
        log.info(f"trial {trial['number']} is void: {why}", **names(trial))

    def _end_trial(self, running: Running, verdict: Verdict) -> None:
        trial, self._trial = running.opened, None
        evidence = {"offset": self._done, **verdict.evidence()}
        if verdict.decision != PROMOTE:
            event = history.GAVE_UP if verdict.decision == GIVE_UP else history.REFUSED
            self._registry.note(event, **names(trial), **evidence)
            log.info(f"VERDICT {running.name}: {event}, {verdict.why}", **headline(verdict))
            return
        try:
            self._registry.promote(
                trial["challenger"], generation=trial["generation"], evidence={"by": "gatekeeper", **names(trial), **evidence}
            )
        except (NotPromoted, BadModel) as error:
            self._void(trial, str(error))
        else:
            log.info(f"VERDICT {running.name}: promoted, {verdict.why}", **headline(verdict))

    def _end_watch(self, running: Running, verdict: Verdict) -> None:
        opened, self._watch = running.opened, None
        evidence = {"offset": self._done, **verdict.evidence()}
        if verdict.decision != ROLL_BACK:
            self._registry.note(history.STANDS, generation=opened["generation"], champion=opened["champion"], **evidence)
            log.info(f"VERDICT {running.name}: {opened['champion']} stands, {verdict.why}", **headline(verdict))
            return
        try:
            self._registry.roll_back(generation=opened["generation"], evidence={"by": "gatekeeper", **evidence})
        except (NotPromoted, BadModel) as error:
            log.warning(f"{running.name}: not rolled back", reason=str(error))
        else:
            log.warning(f"VERDICT {running.name}: rolled back, {verdict.why}", **headline(verdict))

    def _restart(self, champion: Champion) -> None:
        if why := history.restart_due(self._registry.ledger(), self._contenders.learners):
            self._send(Restart(champion.version, why))
            self._registry.note(history.RESTART, version=champion.version, why=why)
            log.warning(f"the learner starts again from {champion.version}: {why}")


def follow(gatekeeper: Gatekeeper, records: Iterable[kafka.Record | None], alive: Callable[[], None], once: bool) -> None:
    """Feed it the records as they come, with a look at the registry each second, until it is behind what it needs.

    `once`: until nothing more comes.
    """
    looked = 0.0
    for record in records:
        if time.monotonic() - looked > LOOK_SECONDS or record is None:
            gatekeeper.look()
            alive()
            looked = time.monotonic()
        if gatekeeper.behind:
            return
        if record is not None:
            gatekeeper.see(record)
        elif once:
            return


def main(once: Annotated[bool, typer.Option("--once", help="stop when the log is read to its end")] = False) -> None:
    """Try challengers against the champion, for as long as it runs."""
    configuration = settings.load()
    logs.setup(configuration, "gatekeeper")
    torch.set_num_threads(1)  # two are hardly faster on matrices this small
    topic_ids = kafka.ensure_topics(configuration.broker, configuration.partitions, wire.topics(configuration.examples_days))
    topic_id = topic_ids[wire.TRAINING_EXAMPLES.name]
    heartbeat = heartbeat_of("gatekeeper")
    registry = Registry(configuration.registry)
    with kafka.Sender(configuration.broker) as sender:

        def send(command: Restart) -> None:
            sender.send(wire.TRAINING_EXAMPLES, "gatekeeper", command)
            sender.flush()

        while True:
            try:
                gatekeeper = Gatekeeper(registry, topic_id, configuration.trial_requests, send)
                records = kafka.follow_topic(configuration.broker, wire.TRAINING_EXAMPLES, gatekeeper.start)
                follow(gatekeeper, records, heartbeat.touch, once)
                if once and not gatekeeper.behind:
                    return
            except (FeedError, OSError, KafkaError) as error:
                if once:
                    raise
                log.warning("cannot go on; trying again from the ledger", reason=str(error), seconds=RETRY_SECONDS)
                heartbeat.touch()
                time.sleep(RETRY_SECONDS)


if __name__ == "__main__":
    errors.run(lambda: typer.run(main))
