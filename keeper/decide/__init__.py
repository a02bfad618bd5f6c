"""Decisions: pure, standard library only."""
