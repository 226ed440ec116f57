"""Which layer of the body, and which fields, each head of a task on impressions reads."""

from collections.abc import Sequence

from peterrec.errors import SettingsError, did_you_mean
from peterrec.impression_recipe import Head, ImpressionTask
from peterrec.routing.body import Body


def body_of(task: ImpressionTask, heads: Sequence[Head], *, channels: int) -> Body | None:
    """The body for those heads that read one; None where there is none, or all read products alone."""
    reads = [head.layer for head in heads if head.layer != "none"]
    apart = any(head.fields for head in heads)
    return (
        Body(task.body, channels=channels, outputs=len(reads), reads=reads, apart=apart)
        if reads and task.body
        else None
    )


def branches_of(body: Body | None, heads: Sequence[Head]) -> list[tuple[int, int] | None]:
    """Which layer, and which branch of it, each head reads; None for one that reads no body."""
    found: list[tuple[int, int] | None] = []
    for head in heads:
        if body is None or head.layer == "none":
            found.append(None)
        else:
            layer = head.layer % len(body.layers)
            found.append((layer, body.branch(layer, sum(one is not None for one in found))))
    return found


def check_fields(task: ImpressionTask, heads: Sequence[Head], *, fields: Sequence[str]) -> None:
    """Raises SettingsError where heads name `fields` that the network does not read, or do not fit together."""
    for head in heads:
        for key in ("fields", "product"):
            for name in getattr(head, key):
                if name not in fields:
                    raise SettingsError(
                        f"task {task.name}: heads.{key} of {head.name!r} names {name!r}, no field that the network "
                        f"reads. {did_you_mean(name, fields)}"
                    )
    if not any(head.fields for head in heads):
        return
    if task.domains is not None and task.domains.norm:
        raise SettingsError(
            f"task {task.name}: domains.norm normalises one input of all heads, and heads.fields gives them different "
            "ones; set domains.norm = false."
        )
    numbers = {len(head.fields) or len(fields) for head in heads if head.layer != "none"}
    if len(numbers) > 1:
        raise SettingsError(
            f"task {task.name}: heads.fields names {' and '.join(map(str, sorted(numbers)))} fields; name as many for "
            "each head, in the order in which they stand for each other (no fields: all of the network)."
        )
