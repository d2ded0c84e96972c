"""What the customer of an order is told, and what was told. Pure: no I/O, no clock, no identifier is made here."""
