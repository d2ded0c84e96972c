"""The domain of fulfillment has the units of an order, its shipments and backorders, and the stock they come from. Pure."""
