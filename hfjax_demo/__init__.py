"""hfjax_demo: Hugging Face causal language models on JAX through torchax, made visible.

The package's wings are `inference` (the only place that knows torch, torchax, jax and transformers), the plain data
that flows out of it (`requests`, `events`) and the faces that draw it (`cli`). Importing this package imports none
of them.
"""

__version__ = "0.1.0"
