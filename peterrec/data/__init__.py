"""Data: logs, vocabularies, prepared folders, batches, the embedded world."""
