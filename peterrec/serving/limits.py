"""What a request may ask for at most, and how long it may take."""

from pydantic import Field

from peterrec.settings import Settings


class Limits(Settings):
    """Bounds of the HTTP server and its queue."""

    body_bytes: int = Field(default=4 * 2**20, ge=1024, description="bytes of a request's body")
    histories: int = Field(default=512, ge=1, description="histories, and impressions, of a request")
    events: int = Field(default=100_000, ge=1, description="item ids in a request, all lists together")
    k: int = Field(default=1000, ge=1, description="items recommended to each user")
    answers: int = Field(default=200_000, ge=1, description="values in an answer: users × tasks, or users × k")
    batch_rows: int = Field(default=512, ge=1, description="rows of a batch, from which on no more requests join it")
    wait_ms: float = Field(default=2.0, ge=0, le=1000, description="how long a batch waits for more requests")
    queued: int = Field(default=256, ge=1, description="requests that wait; more are turned away with 503")
    timeout: float = Field(default=30.0, gt=0, description="seconds that a request may take, then 504")
