"""The size and character of a synthetic world."""

from dataclasses import dataclass

from peterrec.errors import SettingsError


@dataclass(frozen=True)
class WorldSettings:
    """What a synthetic world is made of; the same settings give identical bytes.

    Lengths are events a user; `repeat` is the share of events that repeat an earlier item of the same topic
    (where there is one), `ties` the share of events at the very second of the event before, `zipf` the
    exponent of popularity. `related=False` cuts the relation between the behaviour on one side and attributes
    and target domain on the other. Raises SettingsError.
    """

    users: int = 5000
    items: int = 1000
    topics: int = 20
    personas: int = 32
    mean_length: float = 40
    min_length: int = 8
    max_length: int = 120
    repeat: float = 0.05
    ties: float = 0.15
    zipf: float = 1.0
    target_items: int = 200
    related: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        checks = [
            ("users", self.users >= 1, "at least 1"),
            ("topics", self.topics >= 5, "at least 5"),
            ("items", self.items >= self.topics, f"at least the number of topics, {self.topics}"),
            (
                "target_items",
                self.target_items >= self.topics,
                f"at least the number of topics, {self.topics}",
            ),
            ("personas", self.personas >= 8 and self.personas % 8 == 0, "a multiple of 8"),
            ("min_length", self.min_length >= 1, "at least 1"),
            ("max_length", self.max_length >= self.min_length, f"at least min_length, {self.min_length}"),
            (
                "mean_length",
                self.min_length <= self.mean_length <= self.max_length,
                f"between min_length and max_length, {self.min_length} and {self.max_length}",
            ),
            ("repeat", 0 <= self.repeat < 1, "from 0 to less than 1"),
            ("ties", 0 <= self.ties < 1, "from 0 to less than 1"),
            ("zipf", self.zipf >= 0, "at least 0"),
            ("seed", self.seed >= 0, "at least 0"),
        ]
        for name, holds, wanted in checks:
            if not holds:
                raise SettingsError(f"World setting {name} = {getattr(self, name)}: it must be {wanted}.")
