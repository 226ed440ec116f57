"""Encoders and adapters in repositories: the Hugging Face Hub, any server that speaks its interface, or a folder.

`peterrec.publish` and `peterrec.fetch` are the two ways in.
"""
