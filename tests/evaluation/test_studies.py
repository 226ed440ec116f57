"""The kinds of task behind one interface: what each refuses, what it records, how its trainings are told."""

import json
import shlex

import pytest

from peterrec.catalogue import adapter, any_task, names
from peterrec.errors import RefusedError, SettingsError
from peterrec.evaluation.classification_study import ClassificationStudy
from peterrec.evaluation.ranking_study import RankingStudy
from peterrec.evaluation.studies import STUDIES, study_of
from peterrec.evaluation.study_request import StudyRequest
from peterrec.evaluation.trial import Trial
from peterrec.stages import world
from peterrec.transfer import Contestant


@pytest.fixture
def two_logs(world_log):
    return world.TwoLogs(world.log_files(world_log), world_log / "target.csv", world.COLUMNS, world.COLUMNS)


def test_every_task_of_the_catalogue_has_a_study():
    assert {any_task(name).kind for name in names("tasks")} <= set(STUDIES)
    assert study_of("gender") is ClassificationStudy
    assert study_of("cold_start") is RankingStudy


def test_what_does_not_go_with_a_kind_is_refused(encoder_folder, two_logs, tmp_path):
    for kind, task, given, told in (
        (ClassificationStudy, "gender", {"encoder": None}, "an encoder"),
        (ClassificationStudy, "gender", {"logs": two_logs}, "no logs of two domains"),
        (ClassificationStudy, "gender", {"more_tasks": ("age",)}, "such as age"),
        (RankingStudy, "cold_start", {}, "the logs of both domains"),
        (RankingStudy, "cold_start", {"encoder": None, "logs": two_logs}, "name the encoder"),
        (RankingStudy, "cold_start", {"logs": two_logs, "data": tmp_path}, "no prepared folder"),
        (RankingStudy, "cold_start", {"logs": two_logs, "labels": 9}, "has no labels"),
        (RankingStudy, "cold_start", {"logs": two_logs, "more_tasks": ("age",)}, "such as age"),
    ):
        with pytest.raises(SettingsError, match=told):
            kind.resolve(StudyRequest(task=task, **{"encoder": encoder_folder, **given}))


def test_the_command_that_trains_again_is_the_one_that_was_given(encoder_folder, two_logs, tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text('# Mine.\ntuner = "none"\n')
    given = {"encoder": encoder_folder, "overrides": ["epochs=1"]}
    words = ("--source", "a b.csv", "--target", "c.csv")
    told = ["--set", "epochs=1", "--set", "learning_rate=0.01"]
    for name, request, between in (
        ("classification", StudyRequest(task="gender", seeds=(0, 1), labels=90, **given), None),
        ("ranking", StudyRequest(task="cold_start", seeds=(3,), logs=two_logs, log_words=words, **given), words),
    ):
        kind = STUDIES[name]
        plan = kind.resolve(request)
        field = plan.field([str(mine), "serial"], ["random"])
        assert [(one.name, role) for one, role in field] == [
            ("mine", "model"), ("serial", "model"), ("random+mine", "control")
        ]  # fmt: skip
        with kind.open(plan, request) as study:
            [command] = study.retraining(field[0][0], learning_rate=0.01)
        start = ["peterrec", "finetune", "--task", request.task, "--adapter", str(mine), "--encoder"]
        start.append(str(encoder_folder))
        if between is None:
            between = ("--data", str(plan.data), "--seeds", "2", "--labels", "90")
        assert shlex.split(command) == [*start, *between, *told], "seeds 3 are not what --seeds N gives"


@pytest.mark.parametrize("kind", ["classification", "ranking"])
def test_a_helper_opens_the_same_study_from_the_job(kind, encoder_folder, two_logs):
    request = StudyRequest(
        task="gender" if kind == "classification" else "cold_start",
        encoder=encoder_folder,
        logs=None if kind == "classification" else two_logs,
        seeds=(0,),
        overrides=("epochs=1", "device=cpu"),
    )
    plan = STUDIES[kind].resolve(request)
    contestant = plan.contestant("none")
    drawn = []
    assert contestant == Contestant("none", adapter("none"), source="none")
    with STUDIES[kind].open(plan, request) as study:
        job = json.loads(json.dumps(study.job(contestant)))
        assert job["task"]["kind"] == kind
        helper, theirs = STUDIES[kind].helper(job)
        assert (theirs.name, theirs.adapter) == (contestant.name, contestant.adapter)
        assert helper.recorded() == study.recorded()
        assert helper.plan.settings_of(theirs, seed=0) == plan.settings_of(contestant, seed=0)
        for one in (helper, study):
            assert isinstance(one, ClassificationStudy | RankingStudy)
            splits = one.arena.splits if isinstance(one, ClassificationStudy) else one.arena.cold.splits
            drawn.append(splits[0].train.tolist())
        assert drawn[0] == drawn[1]
        with pytest.raises(RefusedError, match="copy its folders"):
            STUDIES[kind].helper({**job, "fingerprint": "another"})
    assert Trial(contestant, 3, 0.01).name == "none-seed-3-rate-0.01"
