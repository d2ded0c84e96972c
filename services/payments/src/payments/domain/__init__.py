"""What payments decides, pure: tenders, operations with the provider, refunds and their routing, one aggregate per order."""
