"""What `finetune` and `compare` take alike: where the data are, how they are read, how the run goes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from peterrec.cli import domain_panel, options
from peterrec.cli.domain_input import DomainOptions, open_domains, refuse_domains, refuse_for_ranking
from peterrec.cli.log_input import LogOptions
from peterrec.cli.options import ENCODER, BadRows, TimeUnit, Wandb
from peterrec.cli.paths import encoder_folder, impression_folder, prepared_folder
from peterrec.errors import SettingsError

if TYPE_CHECKING:
    from peterrec.data.domain_logs import DomainLogs


@dataclass(frozen=True)
class StudyInput:
    """What a task is studied on, as the stages take it."""

    encoder: Path | None
    data: Path | None = None
    logs: "DomainLogs | None" = None
    rates: tuple[float, ...] | None = (5e-4, 2e-3, 8e-3)  # that a comparison tries unless told otherwise


@dataclass(frozen=True)
class StudyOptions:
    """Options of both commands, in the order of `--help`."""

    data: options.Data = None
    without_encoder: Annotated[
        bool,
        typer.Option(
            "--without-encoder",
            help="Of impressions: read their fields alone, and nothing of what users did before.",
        ),
    ] = False
    output: options.Output = None
    seeds: options.Seeds = None
    labels: options.Labels = None
    source: domain_panel.SourceLog = None
    target: domain_panel.TargetLog = None
    items: domain_panel.DomainItems = None
    target_items: domain_panel.TargetItems = None
    user: domain_panel.DomainUser = None
    item: domain_panel.DomainItem = None
    time: domain_panel.DomainTime = None
    time_unit: domain_panel.DomainUnit = TimeUnit.auto
    target_user: domain_panel.TargetUser = None
    target_item: domain_panel.TargetItem = None
    target_time: domain_panel.TargetTime = None
    format: domain_panel.DomainFormat = None
    bad_rows: domain_panel.DomainBad = BadRows.fail
    memory_limit: domain_panel.DomainMemory = "2GB"
    set: options.Set = None
    wandb: options.Track = Wandb.off
    overwrite: options.Overwrite = False
    quiet: options.Quiet = False

    @property
    def domains(self) -> DomainOptions:
        """What was said of the logs of two domains."""
        columns = LogOptions(self.user, self.item, self.time, self.time_unit.value, format=self.format)
        of_target = LogOptions(self.target_user, self.target_item, self.target_time)
        return DomainOptions(self.source, self.target, columns, of_target, self.items, self.target_items)

    @property
    def seed_numbers(self) -> range | None:
        """The seeds; None for those of the task."""
        return None if self.seeds is None else range(self.seeds)

    @property
    def progress(self) -> Literal["silent", "auto"]:
        """How the stage tells its progress."""
        return "silent" if self.quiet else "auto"

    @contextmanager
    def opened(self, task: str, *, encoder: Path) -> Iterator[StudyInput]:
        """Encoder and data of a task, checked and opened; raises SettingsError for options that its kind has not."""
        from peterrec.catalogue import ImpressionTask, RankingTask, any_task

        recipe = any_task(task)
        if isinstance(recipe, ImpressionTask):
            refuse_domains(self.domains, recipe.name, reads="prepared impressions")
            yield self._impressions(encoder)
            return
        if self.without_encoder:
            raise SettingsError(f"--without-encoder: task {recipe.name} reads users through an encoder; leave it out.")
        if isinstance(recipe, RankingTask):
            refuse_for_ranking(recipe, data=self.data, labels=self.labels)
            folder = encoder_folder(encoder)
            with open_domains(self.domains, recipe) as logs:
                yield StudyInput(folder, logs=logs)
            return
        refuse_domains(self.domains, recipe.name)
        folder = encoder_folder(encoder)
        yield StudyInput(folder, data=None if self.data is None else prepared_folder(self.data))

    def _impressions(self, encoder: Path) -> StudyInput:
        """Prepared impressions, those of the embedded world by default, and the encoder if they hold histories."""
        from peterrec.data.impressions.impressions import HISTORIES
        from peterrec.stages import world

        data = self.data
        if data is None:
            typer.echo(f"Impressions of the embedded world, prepared in {world.SHOWN}.", err=True)
            data = world.prepared_impressions()
        impression_folder(data)
        named = encoder != ENCODER
        if self.without_encoder:
            if named:
                raise SettingsError("--encoder and --without-encoder: give one of the two options.")
            return StudyInput(None, data=data, rates=None)
        if not named and not (data / HISTORIES).is_dir():
            return StudyInput(None, data=data, rates=None)
        return StudyInput(encoder_folder(encoder), data=data, rates=None)
