"""What the facts of one order add up to: pure, one module per service that tells them."""
