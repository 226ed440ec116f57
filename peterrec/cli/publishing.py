"""`peterrec publish` and `peterrec fetch`: encoders and adapters out to a hub or a folder, and in again."""

from pathlib import Path
from typing import Annotated

import typer

from peterrec.cli.paths import named, output_path
from peterrec.errors import SettingsError

SALT = "File with the salt of item hashes: 16 characters or more, to be kept secret."


def publish(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of a finished pretrain or finetune run.", callback=named)
    ],
    to: Annotated[str, typer.Option("--to", help="owner/name on the hub, or a folder (./name, /shared/name).")],
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public, not private.")] = False,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            "-e",
            help="Of an adapter: where its encoder is published, if not where `publish` has put it.",
            show_default=False,
        ),
    ] = None,
    anonymise_items: Annotated[
        bool, typer.Option("--anonymise-items", help="Publish hashes in the place of item ids; needs --salt.")
    ] = False,
    salt: Annotated[Path | None, typer.Option("--salt", metavar="FILE", help=f"{SALT} Made if missing.")] = None,
    license: Annotated[
        str | None,
        typer.Option("--license", metavar="ID", help="For the card: apache-2.0, …", show_default="not stated"),
    ] = None,
    dataset: Annotated[
        str, typer.Option("--dataset", metavar="TEXT", help="What the card calls the data it was trained on.")
    ] = "a private log",
    message: Annotated[str | None, typer.Option("--message", help="Of the commit.", show_default=False)] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="A name of this revision: v1.", show_default=False)] = None,
) -> None:
    """Publish an encoder, then its adapters: weights, settings and a card; no users, no rows, no paths.

    The hub is that of HF_ENDPOINT, the token the one of `hf auth login` or HF_TOKEN. All files go in one commit, so
    that others see the old state or the new one. An adapter names the repository and revision of its encoder, which
    has to be published first.

    Example: `peterrec publish runs/encoder --to ./shared/encoder`
    """
    from peterrec.hub.item_names import read_salt
    from peterrec.hub.publishing import publish as stage
    from peterrec.report.reading import size

    if anonymise_items != (salt is not None):
        raise SettingsError("--anonymise-items and --salt FILE go together: the salt makes the hashes.")
    secret = None if salt is None else read_salt(salt, make=True)
    made = stage(
        run,
        to=to,
        public=public,
        licence=license,
        dataset=dataset,
        message=message,
        tag=tag,
        salt=secret,
        encoder=encoder,
    )
    for name, fact in sorted(made.manifest.files.items()):
        typer.echo(f"  {name}  {size(fact.size)}")
    what = "Published" if made.changed else "There already, nothing changed:"
    typer.echo(f"{what} {made.kind} {to}@{made.revision[:12]}, {size(made.manifest.size)} in all.")
    if secret is not None:
        typer.echo(
            f"Item ids are hashed. Keep {salt}: `peterrec fetch {to} --salt {salt} --items TABLE -o FOLDER` undoes it."
        )


def fetch(
    reference: Annotated[
        str, typer.Argument(metavar="REPOSITORY", help="owner/name[@revision], or a published folder.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Copy it there, with its encoder.",
            show_default=False,
            callback=output_path,
        ),
    ] = None,
    salt: Annotated[Path | None, typer.Option("--salt", metavar="FILE", help=SALT)] = None,
    items: Annotated[
        Path | None, typer.Option("--items", metavar="TABLE", help="With --salt: a table of your items, ids in `item`.")
    ] = None,
    item: Annotated[str, typer.Option("--item", metavar="COLUMN", help="Column of the ids in that table.")] = "item",
    largest: Annotated[float, typer.Option(help="Refuse what is larger, in GiB.", min=0.001)] = 64,
) -> None:
    """Fetch an encoder, or an adapter with its encoder, and check every file; print the folder.

    Other commands fetch by themselves where a repository is named for --encoder or --model. What was fetched stays in
    the cache (PETERREC_CACHE) and is not asked for again by commit.

    Example: `peterrec fetch ./shared/encoder --output runs/fetched`
    """
    from peterrec.hub.fetching import fetch as stage

    if (salt is None) != (items is None):
        raise SettingsError("--salt and --items go together: your ids are hashed to find which is which.")
    if salt is not None and output is None:
        raise SettingsError("--salt: true ids are for a copy of your own; say where with --output.")
    folder = stage(reference, largest=int(largest * 2**30))
    if output is None:
        typer.echo(str(folder))
        return
    from peterrec.hub.copying import copy_fetched
    from peterrec.hub.item_names import read_salt, restoring

    rename = None
    if salt is not None and items is not None:
        from peterrec.data.item_list import read_item_list

        ids = read_item_list(items, column=item, option="--items", memory_limit="2GB")
        rename = restoring(ids.to_pylist(), salt=read_salt(salt, make=False))
    for place in copy_fetched(folder, output=output, rename=rename):
        typer.echo(str(place))
