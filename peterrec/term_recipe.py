"""What a TOML says of a term of a ranker: an interaction of fields whose logit is added to those of the heads."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from peterrec.settings import Settings

Name = Annotated[str, Field(min_length=1)]


class Term(Settings):
    """Interactions of field embeddings, whose sum is a logit that is added to those of the heads."""

    kind: Literal["linear", "fm", "ffm", "crosses"] = Field(
        description="linear: a weight a value; fm: products of all pairs of embeddings; ffm: the same, of "
        "embeddings of its own, one for each field that is met; crosses: a weight a combination of values (Wide & Deep)"
    )
    fields: tuple[Name, ...] = Field(
        default=(),
        description="fields that it reads; none: all that the network reads, with the domain and the encoder's vectors",
    )
    dim: int = Field(default=4, ge=1, description="ffm: channels of an embedding; fm has those of features.dim")
    crosses: tuple[Annotated[tuple[Name, ...], Field(min_length=2)], ...] = Field(
        default=(), description="crosses: the fields of each; none: all pairs with at most `rows` combinations"
    )
    rows: int = Field(
        default=2**18, ge=1, description="crosses: weights of one at most; one of more combinations is hashed into them"
    )
    heads: tuple[Name, ...] | None = Field(default=None, description="heads that it is added to; all, if not given")

    @model_validator(mode="after")
    def _consistent(self) -> "Term":
        for key, kind in (("dim", "ffm"), ("crosses", "crosses"), ("rows", "crosses")):
            if self.kind != kind and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} belongs to kind = {kind!r}, and kind is {self.kind!r}")
        if self.crosses and self.fields:
            raise ValueError("crosses names the fields of each: leave fields out")
        for cross in self.crosses:
            if len(set(cross)) < len(cross):
                raise ValueError(f"crosses: {', '.join(cross)} names a field twice")
        if self.heads is not None and (not self.heads or len(set(self.heads)) < len(self.heads)):
            raise ValueError("heads: name at least one, each once; all, if not given")
        return self
