"""The story that every contender plays, and its steps as an engine of somebody else's would run them.

Placed, authorized, allocated; two shipments, each shipped and its value captured; both delivered; a part returned,
received and inspected, refunded. Nine steps, fourteen facts, all rows in PostgreSQL. A step is one transaction, which
locks the order, writes and tells; nothing is decided, validated or chained.
"""

from typing import Any, Final

LINES: Final = (("1", "bench-lamp", "BER", 1, 1_000), ("2", "bench-rug", "HAM", 2, 2_500))
"""Line, SKU, where it lies, quantity and price: from two places, so that it takes two shipments."""
RETURNED: Final = ("2", 1)
TOTAL_MINOR: Final = sum(quantity * price for _, _, _, quantity, price in LINES)
REFUND_MINOR: Final = 2_500

Fact = tuple[str, int]
"""What happened, and the amount or quantity."""

FACTS: Final[tuple[Fact, ...]] = (
    ("order.placed", TOTAL_MINOR),
    ("payment.authorized", TOTAL_MINOR),
    *(("stock.allocated", quantity) for _, _, _, quantity, _ in LINES),
    *(("shipment.shipped", quantity) for _, _, _, quantity, _ in LINES),
    *(("payment.captured", quantity * price) for _, _, _, quantity, price in LINES),
    *(("shipment.delivered", quantity) for _, _, _, quantity, _ in LINES),
    ("return.requested", RETURNED[1]),
    ("return.items_received", RETURNED[1]),
    ("return.items_inspected", RETURNED[1]),
    ("refund.completed", REFUND_MINOR),
)

TABLES: Final = """
CREATE TABLE orders (id text PRIMARY KEY, status text NOT NULL, total_minor int NOT NULL, authorized_minor int NOT NULL
    DEFAULT 0, captured_minor int NOT NULL DEFAULT 0, refunded_minor int NOT NULL DEFAULT 0);
CREATE TABLE lines (order_id text, line_id text, sku text NOT NULL, quantity int NOT NULL, price_minor int NOT NULL,
    PRIMARY KEY (order_id, line_id));
CREATE TABLE shipments (order_id text, number int, line_id text NOT NULL, status text NOT NULL,
    PRIMARY KEY (order_id, number));
CREATE TABLE returns (order_id text PRIMARY KEY, line_id text NOT NULL, quantity int NOT NULL, status text NOT NULL);
CREATE TABLE facts (order_id text, place int, type text NOT NULL, amount int NOT NULL,
    at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (order_id, place));
"""


LOCK: Final = "SELECT status FROM orders WHERE id = :order FOR UPDATE"


def _facts(*places: int) -> str:
    rows = ", ".join(f"(:order, {n}, '{FACTS[n][0]}', {FACTS[n][1]})" for n in places)
    return f"INSERT INTO facts (order_id, place, type, amount) VALUES {rows} ON CONFLICT DO NOTHING"


def _ship(n: int) -> tuple[str, ...]:
    amount = LINES[n][3] * LINES[n][4]
    return (
        LOCK,
        f"UPDATE shipments SET status = 'shipped' WHERE order_id = :order AND number = {n + 1}",
        f"UPDATE orders SET captured_minor = captured_minor + {amount} WHERE id = :order",
        _facts(4 + n, 6 + n),
    )


_LINE_ROWS: Final = ", ".join(f"(:order, '{line}', '{sku}', {n}, {price})" for line, sku, _, n, price in LINES)
_SHIPMENT_ROWS: Final = ", ".join(f"(:order, {n}, '{line[0]}', 'created')" for n, line in enumerate(LINES, 1))

STEPS: Final[dict[str, tuple[str, ...]]] = {
    "place": (
        f"INSERT INTO orders (id, status, total_minor) VALUES (:order, 'placed', {TOTAL_MINOR}) ON CONFLICT DO NOTHING",
        f"INSERT INTO lines VALUES {_LINE_ROWS} ON CONFLICT DO NOTHING",
        _facts(0),
    ),
    "authorize": (
        LOCK,
        "UPDATE orders SET status = 'confirmed', authorized_minor = total_minor WHERE id = :order",
        _facts(1),
    ),
    "allocate": (LOCK, f"INSERT INTO shipments VALUES {_SHIPMENT_ROWS} ON CONFLICT DO NOTHING", _facts(2, 3)),
    "ship_first": _ship(0),
    "ship_second": _ship(1),
    "deliver": (
        LOCK,
        "UPDATE shipments SET status = 'delivered' WHERE order_id = :order",
        "UPDATE orders SET status = 'completed' WHERE id = :order",
        _facts(8, 9),
    ),
    "ask_return": (
        LOCK,
        f"INSERT INTO returns VALUES (:order, '{RETURNED[0]}', {RETURNED[1]}, 'approved') ON CONFLICT DO NOTHING",
        _facts(10),
    ),
    "receive": (LOCK, "UPDATE returns SET status = 'inspected' WHERE order_id = :order", _facts(11, 12)),
    "refund": (
        LOCK,
        "UPDATE returns SET status = 'resolved' WHERE order_id = :order",
        f"UPDATE orders SET refunded_minor = {REFUND_MINOR} WHERE id = :order",
        _facts(13),
    ),
}
"""By name, in order: the statements of one transaction; `:order` stands for the order's id."""


async def perform(pool: Any, step: str, order_id: str) -> None:
    """One step by asyncpg."""
    async with pool.acquire() as db, db.transaction():
        for statement in STEPS[step]:
            await db.execute(statement.replace(":order", "$1"), order_id)


ORDER: Final = tuple(STEPS)
NEXT: Final = dict(zip(ORDER, (*ORDER[1:], None), strict=True))

READ: Final = "SELECT order_id, type, amount FROM facts"


def check(rows: list[tuple[str, str, int]], count: int) -> None:
    """Every story has its fourteen facts, with their amounts and quantities."""
    stories: dict[str, list[Fact]] = {}
    for order_id, type, amount in rows:
        stories.setdefault(order_id, []).append((type, amount))
    wrong = [id for id, facts in stories.items() if sorted(facts) != sorted(FACTS)]
    if len(stories) != count or wrong:
        some = f": {wrong[0]} has {sorted(stories[wrong[0]])}" if wrong else ""
        raise AssertionError(f"{len(stories)} of {count} stories, {len(wrong)} of them not as they should be{some}")
