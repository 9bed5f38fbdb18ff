"""The PyTorch twin: the same networks, loss, sampler and training step as plain torch.

Written from the published description of the building blocks, to be read beside
`toktalk_jax`: `layers` and `velocity` beside `models/`, `flow` beside `flow.py`,
`sampler` beside `streaming.py`, `training` beside `training/steps.py`. Parameter names
and shapes of the velocity field are those of CosyVoice's causal decoder, so that its
state dicts load with strict=True. Shapes and axis letters are those of
`toktalk_jax/motion.py`; everything is [B, T, .] outside, [B, C, T] in convolutions.
"""
