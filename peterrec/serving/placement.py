"""Which tasks a server holds, and which of them share an encoder with adapters inside."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from peft import PeftModel

from peterrec.errors import RefusedError
from peterrec.serving.engine import Route
from peterrec.serving.family import Family
from peterrec.serving.tasks import ServedRanking, ServedTask


@dataclass(frozen=True, eq=False)
class Placement:
    """`tasks` by name, and the `families` that their adapters form, with the name of each task in its family.

    It never changes: with a task more or less it is another one.
    """

    tasks: Mapping[str, ServedTask] = field(default_factory=dict)
    families: tuple[tuple[Family, Mapping[str, str]], ...] = ()

    def with_task(self, task: ServedTask, *, number: int) -> "Placement":
        """With a task more, in the first family that takes its adapter; `number` is no other task's."""
        route = task.route
        if route is None or not task.adapter or not isinstance(route.engine.encoder, PeftModel):
            return replace(self, tasks={**self.tasks, task.name: task})
        alone = Family.of(route.engine.encoder)
        for place, (family, members) in enumerate(self.families):
            others = [self._route(name) for name in members]
            inside = f"task_{number}"
            try:
                joined = family.joined_by(alone, task.folder, name=inside, route=route, others=others)
            except RefusedError:
                continue  # another family, or one of its own
            names = {**members, task.name: inside}
            return self._moved({**self.tasks, task.name: task}, place, joined, names)
        assert route.adapter is not None
        families = (*self.families, (alone, {task.name: route.adapter}))
        return Placement({**self.tasks, task.name: task}, families)

    def without(self, name: str) -> "Placement":
        """With a task less."""
        left = {one: task for one, task in self.tasks.items() if one != name}
        for place, (family, members) in enumerate(self.families):
            if name in members:
                names = {one: inside for one, inside in members.items() if one != name}
                return self._moved(left, place, family.without(members[name]), names)
        return replace(self, tasks=left)

    def sharing(self, name: str) -> tuple[str, tuple[str, ...]]:
        """What a task shares with others, as `TaskNote` says it."""
        task = self.tasks[name]
        if task.whole:
            return "nothing", ()
        for _, members in self.families:
            if name in members and len(members) > 1:
                return "batch", tuple(sorted(one for one in members if one != name))
        by_itself = task.adapter or task.route is None
        if isinstance(task, ServedRanking) and task.recommender.mixed:
            by_itself = True
        if by_itself:
            return ("weights" if task.facts.encoder_revision else "nothing"), ()
        return "pass", ()

    def _moved(
        self, tasks: dict[str, ServedTask], place: int, family: Family | None, members: dict[str, str]
    ) -> "Placement":
        """With another family in a place, to which the routes of its members now lead."""
        families = list(self.families)
        if family is None:
            del families[place]
            return Placement(tasks, tuple(families))
        families[place] = family, members
        for name, inside in members.items():
            route = tasks[name].route
            assert route is not None
            tasks[name] = replace(tasks[name], route=Route(family.engine, route.reader, route.reading, inside))
        return Placement(tasks, tuple(families))

    def _route(self, name: str) -> Route:
        route = self.tasks[name].route
        assert route is not None
        return route
