"""The whole road on the embedded world, from a raw log with bad rows to two honest tables. No network, a few minutes.

Run it with `make demo`. Everything is written below `runs/demo`; each step prints the command that a user would type.
"""

import shlex
import shutil
import sys
import time
from pathlib import Path

from peterrec.cli import execute
from peterrec.data.synthetic import WorldSettings
from peterrec.stages.world import write_world

FOLDER = Path("runs/demo")
LABELS = 400  # few fill in their gender: that is the case for transfer


def say(text: str) -> None:
    """A heading."""
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def step(command: str, *, wanted: int = 0) -> None:
    """Runs `peterrec COMMAND` in this process and stops the demo where it does not end as it should."""
    say(f"$ peterrec {command}")
    code = execute(shlex.split(command))
    if code != wanted:
        raise SystemExit(f"the demo stopped: `peterrec {command}` left with {code}")


def main() -> None:
    """Check, prepare, pretrain, compare; then the negative control on the same behaviour with unrelated labels."""
    started = time.perf_counter()
    shutil.rmtree(FOLDER, ignore_errors=True)
    related, unrelated = WorldSettings(), WorldSettings(related=False)
    log = " ".join(str(path) for path in write_world(FOLDER / "raw", settings=related, bad_rows=8))
    columns = "--user user --item item --time timestamp"
    data, encoder, control = FOLDER / "data", FOLDER / "encoder", FOLDER / "control"

    say(f"1. A raw log of {related.users:,} users, with eight bad rows in it. The check finds them:")
    step(f"check {log} {columns} --users {FOLDER}/raw/users.csv", wanted=3)
    say("2. Prepared without them:")
    step(
        f"prepare {log} {columns} --users {FOLDER}/raw/users.csv --bad-rows drop --split leave_one_out --output {data}"
    )
    say("3. A user encoder learns from the sequences alone:")
    step(f"pretrain {data} --output {encoder} --config scripts/demo.toml")
    say(f"4. Gender from {LABELS} labels: one serial patch adapter on the frozen encoder …")
    step(f"finetune --task gender --adapter serial --encoder {encoder} --labels {LABELS} --output {FOLDER}/gender")
    say("5. … and beside everything that a user might do instead:")
    step(
        f"compare --task gender --encoder {encoder} --labels {LABELS} --adapters serial,none,full "
        f"--learning-rates recipe --output {FOLDER}/compare"
    )
    say("6. The negative control: the same behaviour, attributes that have nothing to do with it. Nothing is gained:")
    other = " ".join(str(path) for path in write_world(FOLDER / "raw-control", settings=unrelated))
    step(
        f"prepare {other} {columns} --users {FOLDER}/raw-control/users.csv --split leave_one_out "
        f"--encoder {encoder} --output {control}"
    )
    step(
        f"compare --task gender --encoder {encoder} --data {control} --labels {LABELS} --adapters serial "
        f"--controls random --learning-rates recipe --output {FOLDER}/compare-control"
    )
    minutes = (time.perf_counter() - started) / 60
    say(f"Done in {minutes:.1f} minutes. Open {FOLDER}/compare/report.html; `peterrec list runs --folder {FOLDER}`.")


if __name__ == "__main__":
    main()
