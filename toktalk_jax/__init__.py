"""TokTalk in JAX: audio-LLM token embeddings in, FLAME face motion out, streaming.

Importing the package touches no JAX device and no TensorFlow.
"""

__version__ = "0.1.0"
