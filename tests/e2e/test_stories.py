"""Every story of the demo, played on the running system through its public interfaces; then everything is verified."""

import pytest

from ops.demo import play
from ops.keys import kept_keys
from ops.people import People
from ops.stories import STORIES, Story
from ops.system import System
from ops.verify import check


@pytest.mark.parametrize(("name", "story"), STORIES.items(), ids=[name.replace(" ", "-") for name in STORIES])
async def test_the_story_reaches_its_end(people: People, name: str, story: Story) -> None:
    await play(name, story, people)


async def test_after_the_stories_nothing_is_wrong(system: System) -> None:
    key = kept_keys(system.endpoints.secrets.parent).auth_key
    counted, findings = await check(system.endpoints, key, lambda *_: None)
    assert findings == []
    assert counted.facts > 100
    assert counted.in_timeline > 100
    assert counted.operations > 10
