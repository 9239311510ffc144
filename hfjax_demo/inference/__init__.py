"""The one place that knows torch, torchax, jax and transformers.

Outside, use `engine.InferenceEngine`, `inspection.inspect_model` and `model_sources.catalog_status`; everything they
return is plain data. Importing this package imports none of its modules.
"""
