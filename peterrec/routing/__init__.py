"""Routed layers: experts, and a router that mixes them into one vector an output."""

from peterrec.routing.body import Body

__all__ = ["Body"]
