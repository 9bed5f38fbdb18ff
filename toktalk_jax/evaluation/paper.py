"""The numbers that the paper prints, each with the corpus that it belongs to.

Source: TokTalk, Tables 2 to 5. Other speakers, another face model, other tracks: they
stand beside ours, never in one ranking with them.
"""

from typing import NamedTuple


class Printed(NamedTuple):
    """One of the paper's tables.

    Attributes:
      corpus: what it was measured on; columns: its heads, with units.
      rows: {name: values}; None where the paper prints none.
    """

    corpus: str
    columns: tuple
    rows: dict


_ERRORS = ("MSE (mm)", "LVE (mm)", "FDD (1e-5 m)", "MOD (mm)")

TABLE_2 = Printed(
    "RAVDESS, FLAME",
    _ERRORS,
    {
        "Wav2vec2": (0.26, 2.15, 2.63, 1.51),
        "HuBERT": (0.27, 2.26, 3.03, 1.65),
        "Whisper": (0.25, 2.07, 2.79, 1.41),
        "GLM-4-Voice": (0.23, 1.87, 3.11, 1.42),
        "CosyVoice2": (0.22, 1.84, 2.99, 1.35),
        "Moshi": (0.24, 2.03, 2.90, 1.40),
        "EmoTalk": (0.35, 3.11, 4.33, 1.65),
    },
)
TABLE_3 = Printed(
    "HDTF-TFHP, FLAME",
    _ERRORS,
    {
        "TokTalk w/o style": (2.11, 20.73, 4.45, 3.15),
        "TokTalk w/ style": (1.39, 14.53, 4.29, 2.82),
        "adapted from CosyVoice2": (1.37, 14.26, 4.34, 2.94),
        "adapted from GLM-4-Voice": (1.35, 14.02, 4.44, 2.96),
        "DiffPoseTalk": (1.33, 13.64, 4.33, 2.68),
        "MSMD": (1.54, 16.07, 11.19, 2.65),
        "FaceFormer": (2.50, 24.02, 5.19, 3.77),
    },
)
# Section 4.4: time to the first token batch and to its sound, milliseconds. The first
# is for a chunk of 0.4 s; a longer one waits for proportionally more tokens.
TTFTB_MS, T_AUDIO_MS, TTFTB_SECONDS = 200.0, 200.0, 0.4

TABLE_4 = Printed(
    "NVIDIA L40S",
    ("TTFTB (ms)", "T_audio (ms)", "T_animation (ms)", "latency (ms)"),
    {
        "Han et al.": (200, 200, 1.4, 401.4),
        "Lee et al.": (200, 200, 10, 410),
        "DiffPoseTalk": (200, 200, 3326, 3726),
        "TokTalk, n = 1": (200, 200, 26, 400),
        "TokTalk, n = 20": (200, 200, 187, 400),
    },
)
_T_ANIMATION = {1: 26, 5: 60, 10: 101, 20: 187}
_JITTER = {
    0.4: {1: (1.61, 0.232), 5: (1.57, 0.223), 10: (1.56, 0.201), 20: (1.57, 0.178)},
    0.8: {1: (1.58, 0.246), 5: (1.55, 0.204), 10: (1.54, 0.184), 20: (1.53, 0.161)},
    1.2: {1: (1.57, 0.239), 5: (1.54, 0.171), 10: (1.53, 0.151), 20: (1.52, 0.140)},
}
TABLE_5 = Printed(
    "HDTF-TFHP, FLAME; NVIDIA L40S",
    ("MSE (mm)", "jitter", "T_animation (ms)"),
    {
        f"C = {seconds} s, n = {steps}": (*errors, _T_ANIMATION[steps])
        for seconds, found in _JITTER.items()
        for steps, errors in found.items()
    },
)
TABLES = {2: TABLE_2, 3: TABLE_3, 4: TABLE_4, 5: TABLE_5}
