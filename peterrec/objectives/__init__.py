"""Objectives: what an encoder learns from sequences alone."""
