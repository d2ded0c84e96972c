"""From messages to committed facts, and from the outbox to the topics."""
