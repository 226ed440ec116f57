"""What a user is told of a training whose numbers are no longer finite."""

from peterrec.errors import DivergedError
from peterrec.training.optimizer import NotFiniteError
from peterrec.training.settings import TrainingSettings
from peterrec.training.state import TrainingState


def diverged(problem: NotFiniteError, *, state: TrainingState, settings: TrainingSettings) -> DivergedError:
    """Where it happened, and which settings may help."""
    in_epoch = problem.step - (state.step - state.done) + 1
    clip = f"clip (now {settings.clip:g})" if settings.clip else "the gradient's norm with clip (now off), e.g. clip=1"
    return DivergedError(
        f"Training diverged in epoch {state.epoch} at its step {in_epoch} (step {problem.step + 1} "
        f"in all): {problem.reason}. Nothing was updated with it. Lower learning_rate (now "
        f"{settings.learning_rate:g}) or {clip}, or lengthen warmup (now {settings.warmup}), and start afresh with "
        "--overwrite."
    )
