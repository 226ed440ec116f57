"""Item ids as salted hashes, and back: an encoder can be published without the names of what it knows.

A hash is HMAC-SHA256 of the id under the salt, its first 128 bits in hex. Whoever has salt and ids can tell which is
which; without the salt ids cannot be tried one by one.
"""

import hashlib
import hmac
import json
import secrets
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from safetensors import safe_open
from safetensors.torch import save_file

from peterrec.adapter_weights import WEIGHTS, Pairing, sort_metadata
from peterrec.atomic import atomic_file, readable
from peterrec.data.vocabulary import Prefix, Vocabulary
from peterrec.errors import SettingsError

SHORTEST_SALT = 16
Rename = Callable[[list[str]], list[str]]


def read_salt(path: Path, *, make: bool) -> bytes:
    """The salt in a file; with `make` a new one of 256 random bits is written where there is none.

    Raises SettingsError where it is missing or shorter than sixteen characters.
    """
    path = Path(path)
    if not path.exists() and make:
        with atomic_file(path) as temporary:
            temporary.write_text(secrets.token_hex(32) + "\n", encoding="utf-8")
        path.chmod(0o600)
    try:
        salt = path.read_text(encoding="utf-8").strip().encode()
    except (OSError, UnicodeDecodeError) as problem:
        raise SettingsError(f"--salt {path}: cannot be read ({problem}); name the file that the salt is in.") from None
    if len(salt) < SHORTEST_SALT:
        raise SettingsError(
            f"--salt {path}: {len(salt)} characters are too few, ids could be guessed; take {SHORTEST_SALT} or more."
        )
    return salt


def hashed(ids: list[str], *, salt: bytes) -> list[str]:
    """The hash of each id, 32 hex digits."""
    return [hmac.new(salt, one.encode(), hashlib.sha256).hexdigest()[:32] for one in ids]


def hashing(salt: bytes) -> Rename:
    """A renaming of ids to their hashes."""
    return lambda ids: hashed(ids, salt=salt)


def restoring(known: list[str], *, salt: bytes) -> Rename:
    """A renaming of hashes to those of `known` ids that they are of; others stay as they are."""
    names = dict(zip(hashed(known, salt=salt), known, strict=True))
    return lambda ids: [names.get(one, one) for one in ids]


def renamed_vocabulary(path: Path, rename: Rename) -> Vocabulary:
    """Renames the items of a saved vocabulary in place; rows and counts stay."""
    old = Vocabulary.load(path)
    items = pa.array(rename(old.items.to_pylist()), pa.string())
    shorter = [Vocabulary(items.slice(0, one.items), old.counts[: one.items]) for one in old.prefixes]
    prefixes = [Prefix(one.num_items, one.fingerprint) for one in shorter]
    new = Vocabulary(items, np.asarray(old.counts), prefixes=prefixes)
    new.save(path)
    return new


def renamed_encoder(folder: Path, rename: Rename) -> Pairing:
    """Renames the items of an encoder's folder in place; its tensors stay to the bit.

    It becomes another encoder by name, since revision and vocabulary are what it is known by; the ones that it was
    continued from are unknown under the new names, so it names none.
    """
    vocabulary = renamed_vocabulary(folder / "vocabulary.parquet", rename)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["vocabulary_fingerprint"] = vocabulary.fingerprint
    config |= {name: [] for name in ("ancestors", "preserved") if name in config}
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return Pairing.of(folder)


def paired_anew(folder: Path, pairing: Pairing) -> None:
    """Writes the weights of a task in `folder` again as those of the encoder `pairing`; the tensors stay to the bit."""
    for name in (WEIGHTS, "model.safetensors"):
        path = folder / name
        if not path.is_file():
            continue
        with safe_open(path, framework="pt") as file:
            told = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        told["encoder_revision"] = pairing.encoder_revision
        told["vocabulary_fingerprint"] = pairing.vocabulary_fingerprint
        with atomic_file(path) as temporary:
            save_file(tensors, temporary, metadata=told)
            sort_metadata(temporary)
        readable(path)
