"""Heads: user vector in, outputs of a task out."""
