"""Evaluation: contestants and baselines on the same users, with intervals."""
