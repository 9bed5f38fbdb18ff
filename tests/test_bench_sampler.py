"""The sampler's bench: counts by hand, the networks' sizes, what it writes."""

import json

import jax
import numpy as np
import pytest

from configs import base, small
from tools import bench_cases, bench_explain, bench_sampler


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "new" / "tiny.json"
    bench_sampler.main(
        [
            *("--size", "tiny", "--steps", "1,3", "--context", "10"),
            *("--rounds", "4", "--explain", "--json", str(out)),
        ]
    )
    return json.loads(out.read_text()), out


def test_it_writes_times_floors_a_fit_and_a_picture(result):
    found, out = result
    assert out.with_suffix(".png").stat().st_size > 10_000
    assert found["compiles_while_measuring"] == 0 and len(found["rows"]) == 2
    for row in found["rows"]:
        assert len(row["after"]["all_ms"]) == len(row["total"]["all_ms"]) == 4
        assert row["after"]["p50_ms"] < row["total"]["p50_ms"]
        assert 0 < row["host_ms"] and row["started"]["compile_s"] > 0
        assert row["started"]["first_call_s"] > row["started"]["compile_s"] / 2
    (fit,) = found["fits"].values()
    one, three = (row["after"]["p50_ms"] for row in found["rows"])
    assert fit["b_ms"] == pytest.approx((three - one) / 2)
    assert fit["a_ms"] == pytest.approx(one - fit["b_ms"])


def test_work_grows_with_the_steps_and_bytes_are_those_of_the_weights(result):
    one, three = result[0]["rows"]
    # All that a chunk computes once, whatever n, is two steps' time projections.
    assert three["solve_flop"] == pytest.approx(3 * one["solve_flop"], rel=1e-3)
    assert three["prefill_flop"] == pytest.approx(3 * one["prefill_flop"], rel=1e-3)
    assert three["history_bytes"] == 3 * one["history_bytes"]
    _, params, _ = bench_cases.network("tiny")
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert one["weight_bytes"] == three["weight_bytes"] == 4 * count
    # Two products of [2 * 10, 288] and [2 * 10, 16 * 3], to name the least there is.
    width = 56 + bench_cases.TOKENS + 6
    assert one["solve_flop"] > 2 * 20 * (3 * width * 16 + 3 * 16 * 16)
    rate = result[0]["rates"]["float32"]
    floor = 1e3 * three["solve_flop"] / rate["flops"]
    assert three["compute_floor_ms"] == pytest.approx(floor)


@pytest.mark.parametrize(("size", "config"), [("paper", base), ("small", small)])
def test_the_networks_are_those_of_the_configs(size, config):
    c = config.get_config()
    width, options = bench_cases.SIZES[size]
    ours = vars(bench_cases.models.VelocityField(**options))
    for name, value in c.model.to_dict().items():
        want = tuple(value) if isinstance(value, list | tuple) else value
        assert ours[name] == want, name
    assert width == c.style.width


def test_summaries_and_instructions_by_hand():
    found = bench_sampler.summary([1.0, 2.0, 3.0, 4.0, 90.0])
    assert (found["p50_ms"], found["least_ms"], found["spread_ms"]) == (3, 1, 2)
    text = """HloModule x

%step (p: f32[]) -> f32[] {
  %a.1 = f32[2]{0} fusion(%p), kind=kLoop
  %b.1 = f32[2]{0} fusion(%a.1), kind=kLoop
  %c = f32[2]{0} copy(%b.1)
  %d = f32[2]{0} get-tuple-element(%c), index=0
}

ENTRY %main () -> f32[] {
  %w = f32[] while(%t), condition=%until, body=%step
}"""
    assert bench_explain.instructions(text) == ["fusion 2", "copy 1"]
    assert np.isfinite(found["p99_ms"])


def test_help_and_unknown_sizes(capsys):
    with pytest.raises(SystemExit) as stop:
        bench_sampler.main(["--help"])
    assert stop.value.code == 0 and "--twin" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        bench_sampler.main(["--size", "huge"])
