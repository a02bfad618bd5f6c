"""From a nomination to a settled attempt: what may be sent, and what became of it."""
