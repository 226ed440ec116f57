"""Which files are published of a run: those that its use needs, by name, and no others."""

MANIFEST, CARD, RUN = "manifest.json", "README.md", "run.json"
_ALWAYS = {RUN, CARD}
_OF_ADAPTER = {"adapter_config.json", "adapter_model.safetensors", "model.safetensors"}
# kind: what it needs, what it may have beside that
_NAMES: dict[str, tuple[set[str], set[str]]] = {
    "encoder": ({"config.json", "model.safetensors", "vocabulary.parquet"}, set()),
    "classification": ({"adapter.toml", "task.toml"}, _OF_ADAPTER),
    "ranking": ({"adapter.toml", "task.toml", "target_vocabulary.parquet"}, {*_OF_ADAPTER, "item_features.parquet"}),
    "impressions": (
        {"adapter.toml", "task.toml", "schema.json", "fields.json", "field_values.parquet"},
        _OF_ADAPTER,
    ),
}
KINDS = tuple(_NAMES)


def names_of(kind: str) -> tuple[set[str], set[str]]:
    """The files that an artefact of `kind` needs, and all those that it may have, its manifest left out."""
    needed, beside = _NAMES[kind]
    return needed | _ALWAYS, needed | beside | _ALWAYS
