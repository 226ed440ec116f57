"""What the TOML of a task says of its users: which of them train, validate and test."""

from typing import Literal

from pydantic import Field, field_validator

from peterrec.settings import Settings


class UserSplit(Settings):
    """Which users train, validate and test."""

    by: Literal["user"] = Field(default="user", description="each user is in one part")
    fractions: tuple[float, float, float] = Field(
        default=(0.70, 0.03, 0.27), description="shares of training, validation and test users"
    )

    @field_validator("fractions")
    @classmethod
    def _shares(cls, fractions: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
            raise ValueError("expected three shares above 0 that sum to 1")
        return fractions
