"""What the operator sees: logs, metrics, HTTP."""
