"""Every story of the demo, played on the running system through its public interfaces; then everything is verified."""

import pytest

from ops.demo import play
from ops.keys import kept_keys
from ops.people import People
from ops.stories import STORIES, Story
from ops.system import System
from ops.verify import check
from tests.e2e.conftest import Oms


@pytest.mark.parametrize(("name", "story"), STORIES.items(), ids=[name.replace(" ", "-") for name in STORIES])
async def test_the_story_reaches_its_end(people: People, name: str, story: Story) -> None:
    await play(name, story, people)
    if name == "unknown outcome":
        # Undisturbed, that is: where a process is killed just then, the processor's late notice may be heard before.
        for order in ("unknown", "unknown-refund"):
            told = [entry["type"] for entry in await people.timeline(f"{order}-{people.run}")]
            assert "payment.operation_unknown" in told and "payment.operation_reconciled" in told


async def test_after_the_stories_nothing_is_wrong(system: System) -> None:
    key = kept_keys(system.endpoints.secrets.parent).auth_key
    counted, findings = await check(system.endpoints, key, lambda *_: None)
    assert findings == []
    assert counted.facts > 100
    assert counted.in_timeline > 100
    assert counted.operations > 10


async def test_the_view_is_rebuilt_swapped_and_rolled_back_while_it_is_used(oms: Oms) -> None:
    code, told = await oms.apart("rebuild", "support-view")
    assert (code, told["parity"], told["swapped"], told["differing"]) == (0, True, True, [])
    assert await oms.apart("rebuild", "support-view", "--roll-back") == (0, {"done": "rolled_back"})
    assert await oms.apart("rebuild", "support-view", "--discard") == (0, {"done": "discarded"})
