"""Machines are tables, and tables have laws."""

from dataclasses import FrozenInstanceError, dataclass, field
from enum import StrEnum

import pytest

from ops.docs import machines
from shared.contracts.orders import OrderClosed, OrderCompleted, OrderPlaced
from shared.core.machine import Machine, NotAllowed, remembering_last_fold, replace


class Light(StrEnum):
    RED = "red"
    GREEN = "green"
    OFF = "off"


LIGHT = Machine(
    "light",
    Light.RED,
    {
        Light.RED: {OrderPlaced: Light.GREEN},
        Light.GREEN: {OrderCompleted: frozenset({Light.RED, Light.OFF})},
        Light.OFF: {},
    },
)
COMPLETED = OrderCompleted(order_id="A", delivered=1, cancelled=0, lost=0)


def test_a_listed_step_is_made_and_the_choice_is_the_callers() -> None:
    assert LIGHT.step(Light.GREEN, COMPLETED, Light.OFF) is Light.OFF
    assert LIGHT.step(Light.GREEN, COMPLETED, Light.RED) is Light.RED


@pytest.mark.parametrize("to", [None, Light.GREEN])
def test_what_is_not_listed_is_not_allowed(to: Light | None) -> None:
    with pytest.raises(NotAllowed) as refused:
        LIGHT.step(Light.GREEN, COMPLETED, to)
    assert refused.value.allowed == ("order.completed",)
    with pytest.raises(NotAllowed, match="while off"):
        LIGHT.step(Light.OFF, OrderClosed(order_id="A"))


def test_a_status_that_cannot_be_reached_or_has_no_row_breaks_a_law() -> None:
    assert LIGHT.broken_laws() == []
    lonely = Machine("lonely", Light.RED, {Light.RED: {OrderPlaced: Light.RED}, Light.OFF: {}})
    assert lonely.broken_laws() == ["green has no row", "green is unreachable", "off is unreachable"]


def test_a_machine_draws_itself() -> None:
    assert "red --> green: order.placed" in LIGHT.mermaid()
    assert "off --> [*]" in LIGHT.mermaid()


@pytest.mark.parametrize(("service", "machine"), [pytest.param(s, m, id=f"{s}-{m.name}") for s, m in machines()])
def test_every_machine_of_every_service_keeps_the_laws(service: str, machine: Machine[Light]) -> None:
    assert machine.broken_laws() == []


@dataclass(frozen=True, slots=True)
class Counted:
    count: int
    names: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Lit(Counted):
    light: Light = Light.OFF


def test_a_replaced_field_leaves_the_others_and_the_state_before_as_they_were() -> None:
    before = Lit(1, ("a",), Light.RED)
    after = replace(before, count=2, light=Light.GREEN)
    assert (before, after) == (Lit(1, ("a",), Light.RED), Lit(2, ("a",), Light.GREEN))
    assert after.names is before.names
    with pytest.raises(FrozenInstanceError):
        after.count = 3  # type: ignore[misc]


def test_what_is_no_field_is_not_replaced() -> None:
    with pytest.raises(AttributeError, match="colour"):
        replace(Lit(1), colour="red")  # type: ignore[call-arg]


def test_what_was_folded_is_known_for_that_very_state_and_fact_alone() -> None:
    folded = []

    @remembering_last_fold
    def evolve(state: Counted, fact: OrderCompleted) -> Counted:
        folded.append(fact)
        return replace(state, count=state.count + fact.delivered)

    before, alike = Counted(1), Counted(1)
    after = evolve(before, COMPLETED)
    assert evolve(before, COMPLETED) is after
    assert folded == [COMPLETED]
    assert evolve(alike, COMPLETED) is not after
    assert evolve(before, COMPLETED.model_copy()) == after
    assert len(folded) == 3
    for n in range(100):  # more than it remembers
        assert evolve(before, COMPLETED.model_copy(update={"delivered": n})).count == 1 + n


def test_a_refusal_names_the_command_and_the_status_in_words() -> None:
    assert str(NotAllowed("partially_shipped", "PlaceHold")) == "place hold is not allowed while partially shipped"
    assert str(NotAllowed("created", "recall")) == "recall is not allowed while created"
