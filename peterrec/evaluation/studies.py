"""Every kind of task that fine-tuning and comparing know."""

from pathlib import Path
from typing import Any

from peterrec.catalogue import any_task
from peterrec.evaluation.classification_study import ClassificationStudy
from peterrec.evaluation.impression_study import ImpressionStudy
from peterrec.evaluation.ranking_study import RankingStudy
from peterrec.evaluation.study import TaskStudy

STUDIES: dict[str, type[TaskStudy[Any, Any, Any]]] = {
    "classification": ClassificationStudy,
    "ranking": RankingStudy,
    "impressions": ImpressionStudy,
}


def study_of(task: str | Path) -> type[TaskStudy[Any, Any, Any]]:
    """The study of the task of that name, or in that file. Raises SettingsError where there is none."""
    return STUDIES[any_task(task).kind]
