"""The outside world for demos and tests: card processor, warehouse, carrier and mailbox, with faults to choose."""
