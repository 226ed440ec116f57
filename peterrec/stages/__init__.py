"""Stages: one command each; `run(...)` takes plain arguments and returns what it also wrote."""
