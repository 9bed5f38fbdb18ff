"""The streaming sampler in PyTorch, noise passed in; see `toktalk_jax/streaming.py`.

Known frames are overwritten by the path at t with the noise they were born with
(`known="noised"` there, the paper's reading); there is no adapter in front.
"""

from typing import NamedTuple

import torch

from toktalk_jax import motion as mo
from tools.torch_reference import flow


class Stream(NamedTuple):
    """State of B streams between chunks.

    Attributes:
      chunk: chunks solved so far; motion, noise: [B, context, F] of the known frames;
      tokens: [B, context / 2, A] standardised; style: [B, K]; guidance: [B].
    """

    chunk: int
    motion: torch.Tensor
    noise: torch.Tensor
    tokens: torch.Tensor
    style: torch.Tensor
    guidance: torch.Tensor


class Sampler:
    """Streams motion out of tokens.

    Args:
      model: `VelocityField`, or its compiled form; stats: `toktalk_jax.motion.Stats`.
      chunk_frames, context_frames, num_steps, guidance, grid: as in
        `toktalk_jax.streaming.Sampler`.
      device: where the model is.
    """

    def __init__(
        self,
        model,
        stats,
        *,
        chunk_frames=10,
        context_frames=50,
        num_steps=20,
        guidance=0.3,
        grid="linear",
        device="cpu",
    ):
        self.model, self.guidance, self.device = model, guidance, device
        self.chunk_frames, self.context_frames = chunk_frames, context_frames
        self.times = flow.time_grid(num_steps, grid).to(device)
        self.stats = mo.Stats(*(torch.from_numpy(v).to(device) for v in stats))

    def init(self, style):
        """Open B streams of style [B, K]."""
        B, O = len(style), self.context_frames
        zeros = lambda *shape: torch.zeros(B, *shape, device=self.device)  # noqa: E731
        tokens = zeros(O // mo.FRAMES_PER_TOKEN, len(self.stats.token_mean))
        weight = torch.full((B,), self.guidance, device=self.device)
        return Stream(0, zeros(O, mo.F), zeros(O, mo.F), tokens, style, weight)

    @torch.inference_mode()
    def step(self, stream, tokens, fresh):
        """Solve one chunk.

        Args:
          tokens: [B, C / 2, A] raw embeddings; fresh: [B, C, F] noise of the chunk.

        Returns:
          (stream, motion [B, C, F] denormalised).
        """
        C, O, stats = self.chunk_frames, self.context_frames, self.stats
        tokens = torch.cat([stream.tokens, self._standardise(tokens)], 1)
        audio = tokens.repeat_interleave(mo.FRAMES_PER_TOKEN, 1)
        style = stream.style[:, None].expand(-1, O + C, -1)
        noise = torch.cat([stream.noise, fresh], 1)
        target = torch.cat([stream.motion, torch.zeros_like(fresh)], 1)
        frame = torch.arange(-O, C, device=self.device)
        # Frames from before the clip began are padding; both branches share the rest.
        valid = (frame >= -C * stream.chunk).expand(2 * len(tokens), -1)
        block = frame.div(C, rounding_mode="floor").expand(2 * len(tokens), -1)
        is_known = (frame < 0)[None, :, None]

        def overwrite(x, t):
            return torch.where(is_known, (1 - t) * noise + t * target, x)

        def velocity(x, t, audio, style):
            return self.model(x, t, audio, style, block, valid)

        field = flow.guided(velocity, stream.guidance)
        x = flow.euler(
            lambda x, t: field(x, t.expand(len(x)), audio, style),
            noise,
            self.times,
            overwrite,
        )
        stream = Stream(
            stream.chunk + 1,
            torch.cat([stream.motion, x[:, O:]], 1)[:, C:],
            noise[:, C:],
            tokens[:, C // mo.FRAMES_PER_TOKEN :],
            stream.style,
            stream.guidance,
        )
        return stream, stats.motion_mean + stats.motion_std * x[:, O:]

    def _standardise(self, tokens):
        mean, std = self.stats.token_mean, self.stats.token_std
        return (tokens - mean) / torch.where(std > 1e-8, std, 1.0)
