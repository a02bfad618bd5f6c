"""The edge to an EVM chain: endpoints, logs, fees, signing, submission, journal."""
