"""Interaction logs and users tables: every problem named before anything is computed."""
