"""What the services share: the contracts between them and the transactional plumbing under them. Knows no service."""
