"""The business of orders. Pure: no I/O, no clock, no identifier is made here."""
