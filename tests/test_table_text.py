"""A table in Markdown and as a picture: what a reader must know stands there."""

import dataclasses

import pytest

from tests.test_claims import line
from tests.test_report import make_row
from toktalk_jax.evaluation import results
from toktalk_jax.evaluation import tables as table_text
from toktalk_jax.evaluation.claims import check_claim


def test_a_claim_that_does_not_hold_says_why():
    lines = [line("low", 0.8), line("high", 1.0)]
    claim = {"claim": "c", "metric": "lve_mm", "why": {"reversed": "Too few steps."}}
    good, bad = (
        check_claim(lines, {**claim, "better": better, "worse": worse})
        for better, worse in (("low", "high"), ("high", "low"))
    )
    text = table_text.to_markdown(3, lines, [good, bad])
    assert "- c, `lve_mm`, high against low: reversed. Too few steps." in text
    assert text.count("Too few steps") == 1
    del bad["why"]
    text = table_text.to_markdown(3, lines, [bad])
    assert "high against low: reversed. Why is not known." in text
    assert "What does not hold" not in table_text.to_markdown(3, lines, [good])


def test_a_row_keeps_the_definitions_it_was_scored_by(tmp_path):
    old = {"lve_mm": ["mm", "low", "something else"], "gone": ["", "high", "whatever"]}
    made = line("ours", 1.0, redefined=old).rows[0]
    results.write_row(tmp_path, made)
    (kept,) = results.load_rows(tmp_path)
    assert kept.redefined == old
    text = table_text.to_markdown(3, [table_text.Line("ours", "", (kept,))])
    assert f"- ours, seed 0: gone, lve_mm; remove {kept.hash()}.json" in text
    today = line("ours", 1.0).rows[0]
    results.write_row(tmp_path, today)
    (kept,) = results.load_rows(tmp_path)
    assert kept == today
    text = table_text.to_markdown(3, [table_text.Line("ours", "", (kept,))])
    assert "other definitions" not in text


def test_a_table_counts_its_clips_and_names_those_it_lacks():
    made = line("ours", 1.0, skipped={"grid/c": "one frame has no motion"})
    del made.rows[0].scores["clip0"]["energy_score"]
    text = table_text.to_markdown(3, [made])
    assert "| row | seeds | clips |" in text and "| ours | 1 | 12 |" in text
    assert "(11 clips)" in text
    assert "- ours, seed 0: grid/c, one frame has no motion" in text
    whole = table_text.to_markdown(3, [line("ours", 1.0)])
    assert "Not scored" not in whole and "(11 clips)" not in whole


def test_what_was_not_run_stands_with_its_block():
    here = dataclasses.replace(line("ours", 1.0), block="Codecs")
    later = table_text.Line("mimi", "Codecs", reason="no weights")
    other = table_text.Line("hubert", "ASR", reason="no weights")
    text = table_text.to_markdown(2, [later, other, here])
    codecs, asr = text.index("## Codecs"), text.index("## ASR")
    assert text.count("## Codecs") == 1 and text.count(". Face ") == 1
    assert codecs < text.index("| mimi |") < text.index("| ours |") < asr


def test_a_picture_keeps_corpora_and_numbers_apart():
    """Scores of two corpora share no panel; one line's numbers have one panel."""
    acted = dataclasses.replace(make_row(), corpus="acted", measured={"rho": 0.5})
    gains = {"rho nod": 1.0, "rho blink": 0.0}
    rows_ = [
        dataclasses.replace(make_row(scores={}), measured=gains | {"rho nod": r})
        for r in (0.8, 1.0)
    ]
    lines = [
        *(line("ours", 1.0), line("ridge", 2.0)),
        table_text.Line("acted", "b", (acted,)),
        table_text.Line("gains", "b", tuple(rows_)),
        table_text.Line("mimi", "b", reason="no weights"),
    ]
    ours, other, beside, of_gains = table_text.panels(3, lines)
    assert ours[1] == ["ours", "ridge"] and other[1] == ["acted"]
    once, twice = (found.value for found in ours[2]["lve_mm ↓"])
    assert twice == pytest.approx(2 * once)
    assert beside[1] == ["rho"] and of_gains[1] == ["rho blink", "rho nod"]
    assert of_gains[2]["gains"] == [[0.0, 0.0], [0.8, 1.0]]


def test_latency_prints_what_it_assumes():
    row = dataclasses.replace(make_row(scores={}), measured={"chatbot_ms": 400.0})
    made = table_text.Line(label="n = 1", block="b", rows=(row,))
    text = table_text.to_markdown(4, [made])
    assert "200 ms to the first tokens of a chunk of 0.4 s" in text
    assert "max(T_audio, T_animation)" in text and "## Definitions" not in text
