"""Why orders go wrong: the policy by which causes are found."""

from alembic import op

revision = "0005"
down_revision = "0004"

RULES = """
INSERT INTO support_policies (policy_id, version, effective_from, document, published_by, reason)
VALUES ('root-causes', 1, '2000-01-01T00:00:00Z', $json${
    "rules": {
        "stock_out": {"confidence_percent": 95},
        "split_confusion": {"confidence_percent": 60},
        "carrier_delay": {"confidence_percent": 85},
        "carrier_loss": {"confidence_percent": 90},
        "wrong_item": {"confidence_percent": 80},
        "defect": {"confidence_percent": 80},
        "damage_transit": {"confidence_percent": 85},
        "address": {"confidence_percent": 75},
        "payment_decline": {"confidence_percent": 95},
        "refund_slow": {"confidence_percent": 90},
        "refund_failed": {"confidence_percent": 95},
        "policy_unclear": {"confidence_percent": 55},
        "policy_exception": {"confidence_percent": 95},
        "duplicate_charge": {"confidence_percent": 75},
        "comms_inaccurate": {"confidence_percent": 90},
        "comms_missing": {"confidence_percent": 85},
        "system_fault": {"confidence_percent": 80},
        "customer_remorse": {"confidence_percent": 70}
    }
}$json$, 'system', 'the first of its kind')"""


def upgrade() -> None:
    op.execute(RULES)
