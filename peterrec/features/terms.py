"""The terms of a ranker: interactions of fields, added to the logits of heads."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from peterrec.data.impressions.field_batch import FieldSizes
from peterrec.errors import SettingsError
from peterrec.features.crosses import CrossTerm, all_crosses
from peterrec.features.ffm import FFMTerm
from peterrec.features.field_part import FieldPart
from peterrec.features.fm import FMTerm
from peterrec.features.linear import LinearTerm
from peterrec.features.term_input import TermInput
from peterrec.term_recipe import Term


class Terms(nn.Module):
    """A logit of each term, added to those of its heads: all of the `heads`, unless the recipe names some.

    `sizes` are those of the fields that the network reads, `dim` the channels of their shared embeddings, `domains`
    the number of domains that terms read, `vectors` the width of an encoder's vectors, None without one. A term that
    names its fields reads these alone. Raises SettingsError for a head that there is not, and for crosses of what
    cannot be crossed.
    """

    def __init__(
        self,
        terms: Sequence[Term],
        *,
        sizes: FieldSizes,
        dim: int,
        domains: int,
        vectors: int | None,
        heads: Sequence[str],
    ):
        super().__init__()
        self.heads = [tuple(heads) if term.heads is None else term.heads for term in terms]
        for own in self.heads:
            if unknown := [name for name in own if name not in heads]:
                raise SettingsError(f"terms: there is no head {unknown[0]!r}; there are {', '.join(heads)}.")
        self.terms = nn.ModuleList(
            _built(
                term,
                sizes=sizes,
                dim=dim,
                domains=0 if term.fields else domains,
                vectors=None if term.fields else vectors,
                heads=len(own),
            )
            for term, own in zip(terms, self.heads, strict=True)
        )

    @property
    def shares(self) -> bool:
        """Whether a term multiplies the network's own embeddings."""
        return any(isinstance(term, FMTerm) for term in self.terms)

    def forward(self, batch: TermInput, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs `(B,)` of the heads, by name, with the terms added."""
        found = dict(raw)
        for term, heads in zip(self.terms, self.heads, strict=True):
            added = term(batch)
            for number, name in enumerate(heads):
                found[name] = found[name] + added[:, number]
        return found


def _built(term: Term, *, sizes: FieldSizes, dim: int, domains: int, vectors: int | None, heads: int) -> nn.Module:
    if term.kind == "crosses":
        crosses = term.crosses or _all_crosses(sizes, term=term)
        for cross in crosses:
            _check_cross(cross, sizes=sizes)
        return CrossTerm(sizes, crosses, rows=term.rows, heads=heads)
    part = FieldPart(sizes, term.fields, domains=domains)
    if term.kind == "linear":
        return LinearTerm(part, heads=heads, vectors=vectors)
    if term.kind == "ffm":
        return FFMTerm(part, dim=term.dim, heads=heads, vectors=vectors)
    return FMTerm(dim, heads=heads, vectors=vectors, places=part.places if term.fields else None)


def _all_crosses(sizes: FieldSizes, *, term: Term) -> list[tuple[str, str]]:
    crosses = all_crosses(sizes, fields=term.fields, rows=term.rows)
    if not crosses:
        raise SettingsError(
            f"terms: no two fields have at most {term.rows:,} combinations of values: name crosses, which are hashed, "
            "or raise rows."
        )
    return crosses


def _check_cross(cross: Sequence[str], *, sizes: FieldSizes) -> None:
    """Raises SettingsError for a cross of what has no combinations of values."""
    several = sizes.names[len(sizes) - len(sizes.multi) :]
    for name in cross:
        if name not in sizes.names:
            raise SettingsError(f"terms: crosses names {name!r}, which the network does not read.")
        if name not in (*sizes.names[: len(sizes.categorical)], *several):
            raise SettingsError(
                f"terms: crosses names {name!r}, whose values are numbers. Prepare it as categories, with "
                f"--field {name}:categorical, or leave it out."
            )
    if len(own := [name for name in cross if name in several]) > 1:
        raise SettingsError(
            f"terms: the cross of {', '.join(cross)} has {len(own)} fields of several values, and may have one."
        )
