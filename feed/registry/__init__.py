"""Trained versions on disk, which of them serves, and what was decided about them.

    versions/v000001/       one version, complete or absent: written aside, synced, renamed
    roles/champion.json     who serves, since which generation, who served before and why it changed
    roles/challenger.json   the newest version that was published to be tried
    roles/previous.json     who served before the champion; written last, so it also says which change is complete
    ledger.jsonl            one line an event, for people and for `show`

Each role file is replaced whole and read without a lock; writers hold one file lock. `champion.json` is the truth: it *is* the
ledger's line of the change and names who served before. So a change has happened exactly when that file is renamed; whatever a
writer had still to do when it died (take the seat from the challenger, the ledger's line, `previous.json`), the next writer
does first. Where a role file is no role (a fault of a disk or a hand), what the ledger tells of it stands in for it, until the
next writer writes it anew. In the same way a version exists when its folder is renamed, and a file in it says whether it
takes the challenger's seat. The generation grows at every change of the champion, a roll-back included, so that a feed made by
an earlier champion can be told from a later one's.

After a roll-back there is no previous version until the next promotion: else two versions that each do worse than the other
on some day would take turns, by themselves, for ever.
"""

from feed.registry.registry import Champion, Registry

__all__ = ["Champion", "Registry"]
