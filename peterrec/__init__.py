"""Pretrain a user encoder once, adapt it to many recommendation tasks with small adapters.

`import peterrec` costs nothing by itself; as soon as `transformers` or `peft` is imported too, before or after, our
encoders are known to the Auto classes and our tuners to peft:

>>> import peterrec
>>> from transformers import AutoModel
>>> encoder = AutoModel.from_pretrained("runs/encoder")  # doctest: +SKIP
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from peterrec.adaptation import adapt as adapt
    from peterrec.adapter_file import add_adapter_from as add_adapter_from
    from peterrec.adapter_file import hot_swap as hot_swap
    from peterrec.adapter_file import load_adapter as load_adapter
    from peterrec.adapter_file import save_adapter as save_adapter
    from peterrec.data.prepared import PreparedLog as PreparedLog
    from peterrec.data.prepared import open_prepared as open_prepared
    from peterrec.data.synthetic import World as World
    from peterrec.data.synthetic import WorldSettings as WorldSettings
    from peterrec.data.vocabulary import Vocabulary as Vocabulary
    from peterrec.encoders import DUPN as DUPN
    from peterrec.encoders import DUPNConfig as DUPNConfig
    from peterrec.encoders import GRec as GRec
    from peterrec.encoders import GRecConfig as GRecConfig
    from peterrec.encoders import NextItNet as NextItNet
    from peterrec.encoders import NextItNetConfig as NextItNetConfig
    from peterrec.encoders import PooledConfig as PooledConfig
    from peterrec.encoders import PooledItems as PooledItems
    from peterrec.encoders import SASRec as SASRec
    from peterrec.encoders import SASRecConfig as SASRecConfig
    from peterrec.encoders.loading import load_encoder as load_encoder
    from peterrec.encoders.user_state import UserState as UserState
    from peterrec.errors import PeterrecError as PeterrecError
    from peterrec.hub.fetching import fetch as fetch
    from peterrec.hub.publishing import publish as publish
    from peterrec.impression_run import load_impressions as load_impressions
    from peterrec.model import TaskModel as TaskModel
    from peterrec.recommender import Recommender as Recommender
    from peterrec.recommender import load_recommender as load_recommender
    from peterrec.serving.server import Server as Server
    from peterrec.task_run import load_task as load_task
    from peterrec.top_k import top_items as top_items
    from peterrec.tuners import PatchConfig as PatchConfig
    from peterrec.tuners import StarConfig as StarConfig

_HOMES = {
    "DUPN": "peterrec.encoders",
    "DUPNConfig": "peterrec.encoders",
    "GRec": "peterrec.encoders",
    "GRecConfig": "peterrec.encoders",
    "NextItNet": "peterrec.encoders",
    "NextItNetConfig": "peterrec.encoders",
    "PatchConfig": "peterrec.tuners",
    "PeterrecError": "peterrec.errors",
    "PooledConfig": "peterrec.encoders",
    "PooledItems": "peterrec.encoders",
    "PreparedLog": "peterrec.data.prepared",
    "Recommender": "peterrec.recommender",
    "SASRec": "peterrec.encoders",
    "SASRecConfig": "peterrec.encoders",
    "Server": "peterrec.serving.server",
    "StarConfig": "peterrec.tuners",
    "TaskModel": "peterrec.model",
    "UserState": "peterrec.encoders.user_state",
    "Vocabulary": "peterrec.data.vocabulary",
    "World": "peterrec.data.synthetic",
    "WorldSettings": "peterrec.data.synthetic",
    "adapt": "peterrec.adaptation",
    "add_adapter_from": "peterrec.adapter_file",
    "fetch": "peterrec.hub.fetching",
    "hot_swap": "peterrec.adapter_file",
    "load_adapter": "peterrec.adapter_file",
    "load_encoder": "peterrec.encoders.loading",
    "load_impressions": "peterrec.impression_run",
    "load_recommender": "peterrec.recommender",
    "load_task": "peterrec.task_run",
    "open_prepared": "peterrec.data.prepared",
    "publish": "peterrec.hub.publishing",
    "save_adapter": "peterrec.adapter_file",
    "top_items": "peterrec.top_k",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'peterrec' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])


def _know_encoders(_: ModuleType) -> None:
    importlib.import_module("peterrec.encoders")


def _know_tuners(_: ModuleType) -> None:
    importlib.import_module("peterrec.tuners")


# Registering imports torch; the hooks put that off until the library in question is imported anyway.
wrapt.register_post_import_hook(_know_encoders, "transformers")
wrapt.register_post_import_hook(_know_tuners, "peft")
