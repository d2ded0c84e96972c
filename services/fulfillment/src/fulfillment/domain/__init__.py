"""The fulfillment of an order: its units, shipments and backorders, and the stock they come from. Pure."""
