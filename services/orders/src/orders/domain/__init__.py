"""The domain of orders is pure: no I/O, no clock, and no identifier is made here."""
