"""A short run of `make chaos`: a load of stories, a strike every few seconds, and at rest every invariant is asked.

Then something is broken on purpose, to see that the invariants can tell.
"""

from pathlib import Path

import pytest

from ops.supervision import silent
from tests.chaos import invariants
from tests.chaos.play import Play, perform, scene

SHORT = Play(seed=5, seconds=30, at_once=16, between=(0.5, 2), scale=0.15, rest_s=150)


@pytest.mark.timeout(420)
async def test_nothing_is_lost_or_doubled_whatever_is_struck_and_the_invariants_can_tell(tmp_path: Path) -> None:
    struck: list[str] = []
    async with scene(SHORT, tmp_path, struck.append, silent) as on:
        await perform(SHORT, on)
        assert on.crowd.broken == [], struck
        asked = await invariants.ask(on.stage, on.crowd.history, lambda *_: None)
        assert asked.findings == [], struck
        assert on.nemesis.done.total() >= 3, struck
        assert on.crowd.ended.total() >= SHORT.at_once
        assert asked.counted["facts"] > 500

        view = await on.stage.connect("support-view")
        [lost] = await view.fetch("DELETE FROM timeline WHERE id = (SELECT id FROM timeline LIMIT 1) RETURNING id")
        [wrong] = await view.fetch(
            "UPDATE sections SET next = next + 1 WHERE (subject, service) = "
            "(SELECT subject, service FROM sections ORDER BY 1, 2 LIMIT 1) RETURNING subject, service"
        )
        await view.close()
        on.crowd.history.acknowledged["orders", "never-placed", "order.placed"] += 1
        broken = await invariants.ask_outside(on.stage, on.crowd.history, lambda *_: None)
    told = {(finding.promise, finding.where) for finding in broken.findings}
    assert ("what is acknowledged has one effect", "orders never-placed") in told
    assert ("the view is a fold of the facts", f"{wrong['service']} {wrong['subject']}") in told
    assert any(str(lost["id"]) in f.what for f in broken.findings if f.promise == "every fact is in the timeline once")
