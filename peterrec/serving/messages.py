"""The JSON of requests and answers over HTTP."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.types import JsonValue

from peterrec.serving.requests import Classes, Items, Outcomes, Read, Vectors

History = Annotated[list[str], Field(description="item ids as in the log, oldest first")]
Histories = Annotated[list[History], Field(min_length=1, description="a list of item ids for each user")]
EXAMPLE: list[JsonValue] = [["i17", "i4", "i88"], ["i3"]]


class Asked(BaseModel):
    """A body of JSON; keys that are not known are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class PredictBody(Asked):
    """Classes of users, by one task or several."""

    histories: Histories
    tasks: list[str] = Field(min_length=1, description="names of tasks with classes")
    model_config = ConfigDict(json_schema_extra={"examples": [{"histories": EXAMPLE, "tasks": ["gender", "age"]}]})


class RecommendBody(Asked):
    """The best items for users."""

    histories: Histories
    task: str | None = Field(default=None, description="a task that ranks items; without it the encoder says what next")
    k: int = Field(default=10, ge=1, description="items for each user")
    seen: list[History] | None = Field(default=None, description="for each user, items that are no candidates")
    remove_seen: bool | None = Field(
        default=None, description="whether what a user has had is no candidate; true as far as it is known"
    )
    allow: list[str] | None = Field(default=None, description="nothing but these items")
    block: list[str] | None = Field(default=None, description="none of these items")
    model_config = ConfigDict(json_schema_extra={"examples": [{"histories": EXAMPLE, "k": 5}]})


class EncodeBody(Asked):
    """User vectors."""

    histories: Histories
    model_config = ConfigDict(json_schema_extra={"examples": [{"histories": EXAMPLE}]})


Cell = str | float | int | bool | None


class ImpressionBody(Asked):
    """Something that may be shown to a user."""

    fields: dict[str, Cell | list[str | float | int | bool]] = Field(
        default_factory=dict, description="the fields that the model reads, by name; null where one is missing"
    )
    item: str | None = Field(default=None, description="the item")
    domain: str | None = Field(default=None, description="the domain, where the model knows several")
    history: int | None = Field(default=None, ge=0, description="which of `histories` is its user's, from 0")


class ImpressionsBody(Asked):
    """What follows impressions, by a task on them."""

    task: str = Field(description="the name of a task on impressions")
    rows: list[ImpressionBody] = Field(min_length=1)
    histories: list[History] = Field(
        default_factory=list, description="what users did before, for a model that reads it"
    )
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "task": "ctr_cvr",
                    "histories": EXAMPLE[:1],
                    "rows": [{"history": 0, "item": "i9", "domain": "d0", "fields": {"device": "phone"}}],
                }
            ]
        }
    )


class AddBody(Asked):
    """A run to be served."""

    folder: str = Field(
        min_length=1, description="folder of a finetune run, relative to the root that the server allows"
    )
    model_config = ConfigDict(json_schema_extra={"examples": [{"folder": "gender"}]})


class Reading(BaseModel):
    """What was read of the histories, a number for each."""

    events: list[int] = Field(description="events that were sent")
    unknown: list[int] = Field(description="events of items that are not known; they were left out")
    used: list[int] = Field(description="events that the answer depends on")

    @classmethod
    def of(cls, read: Read) -> "Reading":
        return cls(events=read.events.tolist(), unknown=read.unknown.tolist(), used=read.used.tolist())


class PredictedClasses(BaseModel):
    """Probabilities, a row for each user in the order of `classes`, and the most probable class of each."""

    classes: list[str]
    predicted: list[str]
    probabilities: list[list[float]]
    read: Reading

    @classmethod
    def of(cls, found: Classes) -> "PredictedClasses":
        return cls(
            classes=list(found.classes),
            predicted=found.predicted,
            probabilities=found.probabilities.tolist(),
            read=Reading.of(found.read),
        )


class PredictAnswer(BaseModel):
    """By task. A user without any known item has the class shares of the training labels."""

    tasks: dict[str, PredictedClasses]


class RecommendAnswer(BaseModel):
    """For each user its items and their scores, best first, and why: their history, or popularity without one."""

    items: list[list[str]]
    scores: list[list[float]]
    reasons: list[Literal["history", "popularity"]]
    read: Reading

    @classmethod
    def of(cls, found: Items) -> "RecommendAnswer":
        reasons: list[Literal["history", "popularity"]] = [
            "popularity" if one else "history" for one in found.by_popularity.tolist()
        ]
        return cls(items=found.items, scores=found.scores, reasons=reasons, read=Reading.of(found.read))


class EncodeAnswer(BaseModel):
    """A vector for each user."""

    vectors: list[list[float]]
    read: Reading

    @classmethod
    def of(cls, found: Vectors) -> "EncodeAnswer":
        return cls(vectors=found.vectors.tolist(), read=Reading.of(found.read))


class ImpressionsAnswer(BaseModel):
    """Probabilities, or values, of each output, a number for each row; `read` is of the histories."""

    outputs: dict[str, list[float]]
    read: Reading

    @classmethod
    def of(cls, found: Outcomes) -> "ImpressionsAnswer":
        outputs = {name: values.tolist() for name, values in found.outputs.items()}
        return cls(outputs=outputs, read=Reading.of(found.read))


class TaskAnswer(BaseModel):
    """A task that is served."""

    name: str
    kind: Literal["classification", "ranking", "impressions"]
    task: str = Field(description="the recipe of the task")
    adapter: str = Field(description="the recipe of its adapter")
    outputs: list[str] = Field(description="its classes, or what it predicts of impressions")
    shares: Literal["pass", "batch", "weights", "nothing"] = Field(description="what it shares of the encoder")
    with_tasks: list[str] = Field(description="with which tasks its adapter shares batches")
    bytes: int = Field(description="memory of tensors that it has for itself")


class TasksAnswer(BaseModel):
    """All tasks by name, and whether the encoder itself recommends."""

    tasks: list[TaskAnswer]
    recommends: bool
    encoder_bytes: int


class Health(BaseModel):
    """How it is."""

    status: str


class ErrorAnswer(BaseModel):
    """What was wrong, in words."""

    error: str
