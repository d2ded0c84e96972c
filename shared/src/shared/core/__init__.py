"""The pure ground: transition tables, money, card numbers."""
