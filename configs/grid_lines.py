"""The lines of the paper's tables on GRID; `configs/grid.py` is their config."""

SEEDS = (0, 1, 2)
AHEAD_S = ", 0.4 s ahead"  # re-encoded for each chunk, to its end: --causal
TOKENIZERS = {  # name: (label, block, the paper's row)
    "mimi": ("mimi", "Audio LLM", "Moshi"),
    "cosyvoice2": ("cosyvoice2" + AHEAD_S, "Audio LLM", "CosyVoice2"),
    "glm4voice": ("glm4voice" + AHEAD_S, "Audio LLM", "GLM-4-Voice"),
    "wav2vec2": ("wav2vec2" + AHEAD_S, "ASR", "Wav2vec2"),
    "hubert": ("hubert" + AHEAD_S, "ASR", "HuBERT"),
    "whisper": ("whisper" + AHEAD_S, "ASR", "Whisper"),
    "lyra": ("lyra", "Codecs that stream", ""),
    "mel_rvq": ("mel_rvq", "Codecs that stream", ""),
}


def table_2():
    """Audio representations: one model per tokenizer, equal width and steps."""
    for name, (label, block, printed) in TOKENIZERS.items():
        yield {
            **{"label": label, "block": block, "paper": printed, "data": name},
            "seeds": SEEDS,
        }
        yield {
            **{"label": f"ridge, {label}", "block": "Ridge regression"},
            **{"data": name, "method": "ridge", "probes": True},
        }
    later = "the EmoTalk baseline is not part of this code base yet"
    yield {"label": "EmoTalk", "block": "Other", "paper": "EmoTalk", "reason": later}


AHEAD = "FaceFormer, 0.32 s ahead"
MATCHED = "std_ratio matched"
NO_STYLE = {"train.style_drop": 1.0}
SPEECH = ", performer's speech"
SPOKEN = {"total_steps": 4000}  # 19 minutes to train on
# Its lve_mm on validation, mel_rvq: 1.90 after 1,000 steps, 1.76 after 2,000, 1.81
# after 4,000, where it has begun to learn the training clips by heart.
REGRESSION = {"train.objective": "regression", "total_steps": 2000}


def table_3():
    """Variants and baselines on GRID; styles on its sound acted in many styles."""
    variants = {"block": "TokTalk", "data": "mel_rvq", "seeds": SEEDS}
    yield {**variants, "label": "TokTalk", "paper": "TokTalk w/ style"}
    yield {
        **{**variants, "label": "trained without style", "train": NO_STYLE},
        **{"paper": "TokTalk w/o style", "style": "none"},
    }
    yield {**variants, "label": "mean of 5 samples", "method": "mean", "seeds": (0,)}
    yield {**variants, "label": "whole clip", "method": "whole", "seeds": (0,)}
    # What the noise adds, good and bad; Table 5 has more of such.
    yield {**variants, "label": MATCHED, "sample": {"num_steps": 10}, "match_std": True}
    yield {**variants, "label": "temperature 0", "sample": {"temperature": 0.0}}
    adapted = {"block": "Adaptation layers", "seeds": SEEDS}
    yield {
        **{**adapted, "label": "whisper (0.4 s ahead) before a base on lyra"},
        **{"data": "whisper_to_lyra", "method": "adapter"},
    }
    yield {**adapted, "label": "its base, on lyra's own tokens", "data": "lyra"}
    for name in ("CosyVoice2", "GLM-4-Voice"):
        yield {
            **{**adapted, "label": f"{name} adapted"},
            "paper": f"adapted from {name}",
            "reason": "no dataset: its weights were out of reach",
        }
    yield from baselines()
    yield from styles()
    yield from style_gains()


def baselines():
    """Other methods on the same tokens."""
    block = {"block": "Baselines", "data": "mel_rvq"}
    yield {
        **{**block, "label": "the same U-Net, regression"},
        **{"train": REGRESSION, "seeds": SEEDS},
    }
    drawn = {"method": "faceformer", "run": "faceformer_run", "seeds": SEEDS}
    yield {**block, **drawn, "label": "FaceFormer", "paper": "FaceFormer"}
    offline = {"train": {"model.before": 4, "model.after": 4}}
    yield {**block, **drawn, **offline, "label": AHEAD}
    yield {**block, "label": "ridge regression", "method": "ridge"}
    yield {**block, "label": "rules, told the phonemes", "method": "rules"}
    yield {**block, "label": "mean face", "method": "static"}
    yield {**block, "label": "ground truth", "method": "truth"}
    for name in ("DiffPoseTalk", "MSMD"):
        reason = f"the {name} baseline is not part of this code base yet"
        yield {"label": name, "block": "Baselines", "paper": name, "reason": reason}


def styles():
    """What the style encoder is shown, scored on the second half of each clip."""
    block = {"block": "Style", "data": "acted", "scored": "second_half"}
    shown = {
        "none": "no style",
        "same_window": "the scored window itself (the paper's text)",
        "first_half": "the clip's first half",
        "another_clip": "another clip of the style",
        "wrong_speaker": "a clip of another style",
        "mean_offset": "nothing but the style's mean pose",
    }
    for style, words in shown.items():
        yield {**block, "label": words, "style": style, "seeds": SEEDS}
    yield {
        **{**block, "label": "trained without style, acted", "train": NO_STYLE},
        **{"style": "none", "seeds": SEEDS},
    }
    yield {**block, "label": "ground truth, acted", "method": "truth"}
    spoken = {**block, "block": "Style, the performer's speech", "data": "performer"}
    for style in ("none", "another_clip", "wrong_speaker"):
        yield {
            **{**spoken, "label": shown[style] + SPEECH, "style": style},
            **{"train": SPOKEN, "seeds": SEEDS},
        }
    yield {
        **{**spoken, "label": "trained without style" + SPEECH, "style": "none"},
        **{"train": SPOKEN | NO_STYLE, "seeds": SEEDS},
    }


GAINS = {
    "rank correlation of gain and motion": {},
    "rank correlation, temperature 0": {"temperature": 0.0},
}


def style_gains():
    """Which of the performer's eight gains a style clip carries over."""
    for label, sample in GAINS.items():
        yield {
            **{"label": label, "block": "Style gains", "sample": sample},
            **{"data": "acted", "gains": True, "seeds": SEEDS},
        }


STEPS, CHUNKS = (1, 5, 10, 20), (0.4, 0.8, 1.2)
# Weights change no time: one step makes a network that can be timed.
TIMED = {"timed": 100, "unscored": True, "train": {"total_steps": 1}}


def table_4():
    """Latency of the first frame on this machine."""
    for steps in STEPS:
        printed = f"TokTalk, n = {steps}" if steps in (1, 20) else ""
        yield {
            **{"label": f"TokTalk, n = {steps}", "block": "Measured here"},
            **{"data": "mel_rvq", "sample": {"num_steps": steps}, "paper": printed},
            **TIMED,
        }
    yield {
        "label": "whisper before a base on lyra, n = 10",
        **{"block": "Measured here", "data": "whisper_to_lyra", "method": "adapter"},
        **{**TIMED, "adapter": {"total_steps": 1, "report_clips": 1}},
    }
    for name in ("Han et al.", "Lee et al.", "DiffPoseTalk"):
        yield {
            **{"label": name, "block": "The paper's", "paper": name},
            "reason": "not part of this code base; its numbers stand beside",
        }


def cell(seconds, steps):
    """Name of a cell of Table 5."""
    return f"C = {seconds} s, n = {steps}"


def table_5():
    """Chunk size by Euler steps, at one temperature and at matched motion, and timed.

    Context length and look-ahead are further axes, at the settings of the config.
    """
    configured = {"block": "As configured", "data": "mel_rvq"}
    cells = {
        cell(seconds, steps): {"chunk_seconds": seconds, "num_steps": steps}
        for seconds in CHUNKS
        for steps in STEPS
    }
    for name, sample in cells.items():
        yield {**configured, "label": name, "sample": sample, "paper": name}
    further = {  # the further axes: {what: line}
        f"{frames} context frames": {"sample": {"context_frames": frames}}
        for frames in (10, 20)
    }
    further["one token of look-ahead"] = {"data": "mel_rvq_ahead"}
    for words, line in further.items():
        yield {**configured, "label": f"{cell(0.4, 10)}, {words}", **line}
    for name, sample in cells.items():
        yield {
            **{"label": f"{name}, matched", "block": "std_ratio matched to 1"},
            **{"data": "mel_rvq", "sample": sample, "match_std": True},
            "seeds": SEEDS,
        }
    for seconds in CHUNKS:  # how much of the jitter is speech
        yield {
            **{"label": f"C = {seconds} s, ground truth", "method": "truth"},
            **{"block": "Truth", "data": "mel_rvq"},
            "sample": {"chunk_seconds": seconds},
        }
    timed = {"block": "First frame", **TIMED}
    for name, sample in cells.items():
        yield {
            **{**timed, "data": "mel_rvq", "sample": sample},
            **{"label": f"{name}, timed", "paper": name},
        }
    for words, line in further.items():
        yield {**timed, "data": "mel_rvq", "label": f"{words}, timed", **line}
