"""The page: what a browser shows and the JSON API beside it, drawn from events alone.

Never imports torch, jax, torchax or transformers; the engine is handed in.
"""
