"""`--allow` and `--block`: lists of items in the rows of the catalogue that is recommended."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from peterrec.data.item_list import known_rows, read_item_list
from peterrec.data.vocabulary import FIRST_ITEM, Vocabulary
from peterrec.errors import DataError


@dataclass(frozen=True)
class ListedItems:
    """Rows of the listed items that the catalogue holds, and how many others there are."""

    rows: NDArray[np.int64]
    unknown: int


def read_listed(path: Path, option: str, catalogue: Vocabulary, *, column: str, memory_limit: str) -> ListedItems:
    """The list of items in a file, as `read_item_list` reads it. Raises DataError where none may be recommended."""
    items = read_item_list(path, column=column, option=option, memory_limit=memory_limit)
    listed = ListedItems(*known_rows(items, catalogue))
    if option == "--allow" and not len(listed.rows):
        raise DataError(
            f"{option} {path}: the model knows none of its {len(items):,} items. The first is {items[0].as_py()!r}; "
            f"the model's are written like {catalogue.ids([FIRST_ITEM])[0]!r}: name items that it knows."
        )
    return listed
