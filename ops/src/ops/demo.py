"""`oms demo`: start everything, play every story, show each order as support sees it, and stay up until Ctrl-C."""

import time
from pathlib import Path
from typing import Final

from rich.console import Console, Group
from rich.panel import Panel
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ops.actors import Actors, Refused, StoryFailed, View
from ops.endpoints import Endpoints
from ops.stories import STORIES, Story
from shared.web.auth import Role
from support_view.figures.api import Amounts
from support_view.figures.pages import headline

COLOURS: Final = {
    "order": "cyan",
    "payment": "green",
    "fulfillment": "yellow",
    "return": "magenta",
    "notification": "blue",
    "support": "red",
}


def run_name() -> str:
    """Keeps the ids of one run apart from those of the others; sorts by time."""
    alphabet, number, name = "0123456789abcdefghjkmnpqrstvwxyz", int(time.time()), ""
    while number:
        number, digit = divmod(number, 32)
        name = alphabet[digit] + name
    return name


async def play(name: str, story: Story, actors: Actors) -> str:
    """One story to its end; the order it was about. Raises StoryFailed with the step it failed at."""
    try:
        return await story(actors)
    except (AssertionError, TimeoutError, Refused, KeyError, ValueError) as error:
        raise StoryFailed(name, actors.step, str(error) or repr(error)) from error


async def demo(endpoints: Endpoints, auth_key: str, console: Console) -> None:
    """Play all stories in order. Raises StoryFailed."""
    run = run_name()
    told: list[tuple[str, str]] = []
    columns = (SpinnerColumn(finished_text="[green]✓[/]"), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, TextColumn("[dim]{task.fields[step]}[/]"), console=console) as progress:
        for name, story in STORIES.items():
            task = progress.add_task(name, total=1, step="")

            def report(step: str, task: object = task) -> None:
                progress.update(task, step=step)  # type: ignore[arg-type]  # the id this very call was given
                if not console.is_terminal:
                    console.print(f"  {step}", markup=False, highlight=False, soft_wrap=True)

            if not console.is_terminal:
                console.print(name, style="bold")
            async with Actors(endpoints, auth_key, run, report) as actors:
                told.append((name, await play(name, story, actors)))
            progress.update(task, completed=1, step="")
    async with Actors(endpoints, auth_key, run, lambda _: None) as actors:
        for name, order_id in told:
            view = await actors.get("support-view", f"/api/orders/{order_id}")
            console.print(_shown(name, view, await actors.timeline(order_id)))
        console.print(await supervised(actors))


SEED: Final = ("return-cycle-time", "refund-latency", "unit-accuracy", "repeat-contacts-7")
"""The figures that support is measured by."""


async def supervised(actors: Actors) -> Panel:
    """What a supervisor sees of it all. Raises StoryFailed where nothing waits for one, or a figure stays at nothing."""
    actors.says("the queue and the figures are read with a supervisor's token")
    try:
        waiting = await actors.reads(
            "support-view",
            "/api/queue",
            "who needs attention now",
            lambda found: found["escalations"],
            Role.SUPERVISOR,
        )
        figures = [
            await actors.reads(
                "support-view",
                f"/api/figures/{key}",
                "more than nothing",
                lambda found: found["total"]["share"] or found["total"]["p90_seconds"],
                Role.SUPERVISOR,
            )
            for key in SEED
        ]
    except (AssertionError, TimeoutError, Refused) as error:
        raise StoryFailed("supervision", actors.step, str(error)) from error
    queue = Table("level", "why", "about", "what to do", box=None, header_style="dim")
    for raised in waiting["escalations"]:
        about = raised["order_id"] or raised["subject"]
        queue.add_row(str(raised["level"]), Text(raised["why"]), Text(about), Text(raised["to_do"], "dim"))
    counted = Table("figure", "comes to", box=None, header_style="dim")
    for figure in figures:
        counted.add_row(figure["definition"]["title"], headline(Amounts.model_validate(figure["total"])))
    return Panel(Group(queue, "", counted), title="what a supervisor sees", title_align="left")


def _shown(name: str, view: View, timeline: list[View]) -> Panel:
    states = Table("order", "payment", "fulfillment", "return", "refund", box=None, header_style="dim")
    rollups = view["rollups"]
    also = [word for word in ("backorder", "lost", "exception", "unknown") if rollups.get(f"has_{word}")]
    states.add_row(
        view["order"]["status"],
        rollups["payment_status"],
        ", ".join([rollups["fulfillment_status"], *also]),
        rollups["return_status"],
        rollups["refund_status"],
    )
    quantities = Table("line", "ordered", "units, forward", "units, reverse", box=None, header_style="dim")
    for line in view["lines"]:
        quantities.add_row(
            f"{line['line_id']} {line['title']}",
            str(line["ordered"]),
            ", ".join(f"{n} {bucket}" for bucket, n in line["forward"].items() if n),
            ", ".join(f"{n} {bucket}" for bucket, n in line["reverse"].items() if n),
        )
    money = Table("ordered", "authorized", "captured", "voided", "refunded", "pending", box=None, header_style="dim")
    totals = view["totals"]
    money.add_row(
        *(totals[k]["text"] for k in ("ordered", "authorized", "captured", "voided", "refunded", "refund_pending"))
    )
    entries = Table("when", "", "what happened", "who", box=None, header_style="dim")
    for entry in timeline:
        if not entry["is_quiet"]:
            colour = COLOURS[entry["domain"]]
            when = entry["occurred_at"][:16].replace("T", " ")
            entries.add_row(
                f"[dim]{when}[/]", Text(entry["domain"], colour), Text(entry["title"]), Text(entry["actor"], "dim")
            )
    return Panel(
        Group(states, "", quantities, "", money, "", entries), title=f"{name} · {view['order_id']}", title_align="left"
    )


def footer(endpoints: Endpoints) -> Panel:
    """Where to look next."""
    table = Table("", "URL", box=None, show_header=False)
    table.add_row("the page", f"{endpoints.url('support-view')}/")
    table.add_row("sign in there as", "Sam Supervisor, Anna Agent, Olga Operator or Max Auditor, by a click")
    table.add_row("a supervisor's queue, as Sam", f"{endpoints.url('support-view')}/queue")
    table.add_row("a supervisor's figures, as Sam", f"{endpoints.url('support-view')}/figures")
    for name, service in endpoints.services.items():
        table.add_row(f"{name} API", service.docs)
    table.add_row("the customer's mails", f"{endpoints.url('sandbox')}/mailbox")
    table.add_row("everything else", str(Path("var") / "endpoints.json"))
    return Panel(table, title="look at it", title_align="left")
