"""Do linked tasks find items better than the same ones alone?  `python scripts/behaviours.py OUT --shop NAME=DATA ...`

    --shop NAME=DATA      behaviours of a shop: NMTR, its cascade cut (each behaviour's network, shared embeddings), the
                          purchases alone, popularity, item-kNN of all behaviours, and what the user has put into the
                          cart or collected before the rest; asked for what each user buys next
    --domains NAME=DATA   two domains of the same users: CoNet, SCoNet, the same without cross connections,
                          popularity, and item-kNN in the target domain; asked for the last item in the target domain

`scripts/implicit_data.py` makes the tables, `peterrec prepare` the data (docs/behaviours.md has the commands). Every
item of the catalogue that the user has not had is a candidate; of users, --users are drawn (all with 0). Means over the
seeds; 95 % bootstrap intervals over users and seeds, gains paired. OUT/behaviours.md and OUT/behaviours.json; a set
that stands there is kept.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from full_ranking import SAMPLED, asked, lines, neighbours, popular, ranked, touched_first, trained

from peterrec.catalogue import ImpressionTask, impression_task
from peterrec.data.impressions.impressions import Impressions, open_impressions
from peterrec.metrics.intervals import RankingRows, metric_intervals, paired_gain

METRICS = ("hr@10", "ndcg@10", "mrr", SAMPLED)
Contestants = dict[str, ImpressionTask]


def of_shop(impressions: Impressions) -> Contestants:
    """NMTR on the behaviours that the shop has, its weights summing to 1 as before, and what it is held against."""
    task = impression_task("nmtr")
    known = [head.name for head in task.heads if head.name in impressions.labels]
    total = sum(one.weight for one in task.objectives if one.of in known)
    heads = [
        head.model_copy(update={"parents": tuple(known[:place][-1:])})
        for place, head in enumerate(head for head in task.heads if head.name in known)
    ]
    objectives = [one.model_copy(update={"weight": one.weight / total}) for one in task.objectives if one.of in known]
    cascade = task.model_copy(update={"heads": tuple(heads), "objectives": tuple(objectives)})
    apart = [head.model_copy(update={"parents": ()}) for head in heads]
    alone = [one.model_copy(update={"weight": 1.0}) for one in objectives if one.of == "buy"]
    return {
        "nmtr": cascade,
        "without the cascade": cascade.model_copy(update={"name": "independent", "heads": tuple(apart)}),
        "purchases alone": cascade.model_copy(
            update={"name": "alone", "heads": tuple(apart[-1:]), "objectives": tuple(alone)}
        ),
    }


def of_domains(impressions: Impressions) -> Contestants:
    """CoNet and SCoNet, and the same network without cross connections."""
    conet = impression_task("conet")
    apart = [layer.model_copy(update={"router": "one_hot", "penalty": 0.0}) for layer in conet.body]
    return {
        "conet": conet,
        "sconet": impression_task("sconet"),
        "without cross connections": conet.model_copy(update={"name": "independent", "body": tuple(apart)}),
    }


def measured(
    contestants: Contestants,
    impressions: Impressions,
    *,
    label: str,
    item: str,
    repeats: bool,
    seeds: int,
    users: int | None,
) -> dict[str, Any]:
    """The figures of each contestant and of popularity, and what the first gains over the others.

    `repeats`: what is asked for may be something that the user has done otherwise, so that this first is a baseline.
    """
    split = impressions.split(0)
    question = asked(impressions, label=label, item=item, rows=split.test, users=users)
    rows: dict[str, list[RankingRows]] = {
        name: [
            ranked(trained(task, impressions, seed=seed), impressions, question, output=label) for seed in range(seeds)
        ]
        for name, task in contestants.items()
    }
    rows["popularity"] = [popular(impressions, question, label=label, train=split.train)] * seeds
    known = list(impressions.labels) if repeats else [label]
    rows["item-kNN"] = [neighbours(impressions, question, labels=known, train=split.train)] * seeds
    if repeats:
        rows["done otherwise first"] = [touched_first(impressions, question, label=label, train=split.train)] * seeds
    first, *others = rows
    gains = {}
    for other in others:
        for metric in METRICS:
            gain = paired_gain(rows[first], rows[other], metric=metric)
            assert gain is not None
            gains.setdefault(other, {})[metric] = vars(gain)
    return {
        "protocol": f"{len(question.rows):,} held-out events, each among the {len(impressions.value_array(item)):,} "
        f"items of the catalogue, less those that its user has had; {seeds} seed(s)",
        "results": {name: metric_intervals(own) for name, own in rows.items()},
        "gains": gains,
        "first": first,
    }


def markdown(name: str, found: dict[str, Any]) -> str:
    """The table of a set, and of the gains of its first contestant."""
    shown = [f"## {name}", "", found["protocol"] + ".", "", *lines(found["results"], METRICS), ""]
    shown += [f"Gain of {found['first']}:", "", *lines(found["gains"], METRICS)]
    return "\n".join(shown) + "\n"


def _named(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    if not name or not path:
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=FOLDER")
    return name, Path(path)


def main() -> None:
    """Measures what was asked for, and writes its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--shop", type=_named, action="append", default=[], metavar="NAME=DATA")
    parser.add_argument("--domains", type=_named, action="append", default=[], metavar="NAME=DATA")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--users", type=int, default=2000, help="test users that are drawn, the same for all; 0: all")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    kept = given.output / "behaviours.json"
    found: dict[str, Any] = json.loads(kept.read_text("utf-8")) if kept.is_file() else {}
    kinds: list[tuple[list[tuple[str, Path]], Callable[[Impressions], Contestants], str, str]] = [
        (given.shop, of_shop, "buy", "item"),
        (given.domains, of_domains, "target", "target_item"),
    ]
    for sets, kind, label, item in kinds:
        for name, data in sets:
            if name not in found:
                impressions = open_impressions(data)
                found[name] = measured(
                    kind(impressions),
                    impressions,
                    label=label,
                    item=item,
                    repeats=kind is of_shop,
                    seeds=given.seeds,
                    users=given.users or None,
                )
                kept.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    text = "\n".join(markdown(name, one) for name, one in found.items())
    (given.output / "behaviours.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
