"""What `seed` does on a system that has a champion: nothing, and it says whether that one can serve."""

import pytest

from offline import seed
from tests.small import promote, snapshot, world

pytestmark = pytest.mark.usefixtures("logging_as_it_was")


@pytest.mark.parametrize(("harm", "says"), [(False, "nothing to do: there is a champion"), (True, "it cannot serve")])
def test_a_system_with_a_champion_is_left_alone(tmp_path, monkeypatch, capfd, harm, says):
    champion = promote(tmp_path, snapshot(world(users=3, items=8)))
    if harm:
        (champion.path / "features.json").write_text("{}")
    monkeypatch.setenv("FEED_REGISTRY", str(tmp_path))
    monkeypatch.setattr(seed, "seed", lambda *_: pytest.fail("it seeds"))
    seed.main()
    said = capfd.readouterr().err
    assert says in said
    assert ("offline/bootstrap.py --data" in said) == harm
