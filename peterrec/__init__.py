"""Pretrain a user encoder once, adapt it to many recommendation tasks with small adapters."""
