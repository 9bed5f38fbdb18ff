"""Profiles: the arithmetic on made-up events, and a real trace of a tiny function."""

import json
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.profiler import ProfileData

from toktalk_jax.training import profile
from tools import read_profile, xplane

STEPS, SLEEP_S = 4, 0.03


def op(start, end, name="op", scope=(), backward=False, device="cpu", track="0"):
    return xplane.Op(name, scope, backward, device, track, start, end)


def brute_force(trace, last):
    """Shares counted nanosecond by nanosecond, for spans of whole ns."""

    def covered(spans):
        flags = np.zeros(last, bool)
        for start, end in spans:
            flags[start:end] = True
        return flags

    host = trace.steps + trace.waits
    window = slice(min(host)[0], max(s[1] for s in trace.steps + spans_of(trace.ops)))
    waits, found = covered(trace.waits)[window], []
    for device in {o.device for o in trace.ops}:
        busy = covered(spans_of(o for o in trace.ops if o.device == device))[window]
        found.append([busy.mean(), (waits & ~busy).mean(), (~waits & ~busy).mean()])
    return np.mean(found, 0), waits.mean()


def spans_of(ops):
    return [(o.start, o.end) for o in ops]


@pytest.mark.parametrize("seed", range(5))
def test_shares_of_random_events(seed):
    rng = np.random.default_rng(seed)

    def spans(count):
        starts = rng.integers(0, 1000, count)
        return [(int(start), int(start + rng.integers(1, 80))) for start in starts]

    ops = [
        op(*span, device=f"{i % 2}", track=f"{i % 3}")
        for i, span in enumerate(spans(20))
    ]
    trace = xplane.Trace(spans(3), spans(5), ops)
    found = read_profile.shares(trace)
    expected, waited = brute_force(trace, 1100)
    three = [found[key] for key in ("compute", "input", "idle")]
    np.testing.assert_allclose(three, expected, atol=1e-12)
    np.testing.assert_allclose(sum(three), 1)
    np.testing.assert_allclose(found["input"] + found["input_hidden"], waited)
    assert (found["steps"], found["devices"]) == (3, 2)


def test_what_overlaps_counts_once():
    both = [op(0, 60, track="0"), op(20, 80, track="1")]
    found = read_profile.shares(xplane.Trace([(0, 100)], [(70, 90)], both))
    assert (found["compute"], found["input"], found["idle"]) == (0.8, 0.1, 0.1)
    assert found["input_hidden"] == pytest.approx(0.1)
    assert found["step_ms"] == 100 / 1e6


def test_what_ran_before_the_first_step_is_left_out():
    ops = [op(0, 60), op(80, 100)]
    found = read_profile.shares(xplane.Trace([(50, 55)], [], ops))
    assert found["compute"] == pytest.approx(0.6) and found["step_ms"] == 50 / 1e6


def test_own_time_is_without_what_nests_inside():
    events = [
        op(0, 100, "while", ("loss",), True),
        op(10, 40, "dot", ("loss", "mid")),
        op(20, 30, "copy"),
        op(50, 60, "counter"),
        op(100, 110, "after"),
        op(10, 90, "elsewhere", track="1"),
    ]
    timed = read_profile.own_times(events)
    assert {o.name: own for o, own in timed} == {
        **{"while": 60, "dot": 20, "copy": 10},
        **{"counter": 10, "after": 10, "elsewhere": 80},
    }
    scopes = {o.name: (o.scope, o.backward) for o, _ in timed}
    assert scopes["copy"] == (("loss", "mid"), False)
    assert scopes["counter"] == (("loss",), True)
    assert scopes["after"] == scopes["elsewhere"] == ((), False)


def test_scopes_hold_what_is_indented_under_them():
    timed = [
        (op(0, 1, scope=("loss", "down", "a")), 1e6),
        (op(0, 1, scope=("loss", "mid"), backward=True), 6e6),
        (op(0, 1, scope=("optimiser",)), 2e6),
        (op(0, 1), 1e6),
    ]
    found = read_profile.by_scope(timed, depth=2)
    assert [(r["scope"], r["forward_ms"], r["backward_ms"]) for r in found] == [
        ("loss", 1, 6),
        ("loss/mid", 0, 6),
        ("loss/down", 1, 0),
        ("optimiser", 2, 0),
        ("(no scope)", 1, 0),
    ]
    assert [r["share"] for r in found] == [0.7, 0.6, 0.1, 0.2, 0.1]


def test_operations_by_own_time():
    timed = [(op(0, 4, "a"), 4), (op(4, 6, "a"), 2), (op(0, 9, "b"), 3), (op(0, 1), 1)]
    first, second = read_profile.by_operation(timed, top=2)
    assert (first["name"], first["count"], first["share"]) == ("a", 2, 0.6)
    assert second["name"] == "b" and second["ms"] == 9e-6 and second["own_ms"] == 3e-6


@pytest.mark.parametrize(
    ("op_name", "scope", "backward"),
    [
        ("jit(f)/transpose(jvp(loss))/down_0/mul", ("loss", "down_0"), True),
        (
            "jit(_fun)/shard_map/jvp(vmap(Style))/while/body/closed_call/mid.<lambda>/mid"
            "/attention/bnth,bnsh->bnts/dot_general",
            ("Style", "mid", "attention", "bnth,bnsh->bnts"),
            False,
        ),
        ("jit(f)/jvp(vmap(jit(_uniform)))/vmap()/sub", (), False),
        ("jit(f)/checkpoint/rematted_computation/mid/sin", ("mid",), False),
        ("", (), False),
    ],
)
def test_scopes_from_an_op_name(op_name, scope, backward):
    assert xplane.scope_of(op_name) == (scope, backward)


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """(directory, share of the wall time that was slept as input)."""

    def loss(w, x):
        with jax.named_scope("down_0"):
            x = jnp.sin(x @ w)

        def turn(x, _):
            with jax.named_scope("mid"):
                return jnp.tanh(x @ w), None

        return (lax.scan(turn, x, length=3)[0] ** 2).sum()

    @jax.jit
    def step(w, x):
        with jax.named_scope("loss"):
            gradient = jax.grad(loss)(w, x)
        with jax.named_scope("optimiser"):
            return w - 1e-3 * gradient / jnp.sqrt(1 + (gradient**2).sum())

    w, x = jnp.ones((200, 200)), jnp.ones((400, 200))
    w = step(step(w, x), x).block_until_ready()
    directory = tmp_path_factory.mktemp("profile")
    slept = 0.0
    with profile.trace(directory):
        begin = time.perf_counter()
        for i in range(STEPS):
            with jax.profiler.TraceAnnotation(profile.INPUT):
                before = time.perf_counter()
                time.sleep(SLEEP_S)
                slept += time.perf_counter() - before
            with jax.profiler.StepTraceAnnotation(profile.STEP, step_num=i):
                w = step(w, x).block_until_ready()
        whole = time.perf_counter() - begin
    return directory, slept / whole


def test_a_real_trace(traced, tmp_path, capsys):
    directory, slept = traced
    out = tmp_path / "new" / "profile.json"
    read_profile.main([str(directory), "--top", "5", "--json", str(out)])
    found = json.loads(out.read_text())
    assert found["steps"] == STEPS and found["devices"] == 1
    assert found["input"] == pytest.approx(slept, abs=0.08)
    assert found["compute"] > 0 and found["input_hidden"] < 0.02
    scopes = {row["scope"]: row for row in found["scopes"]}
    assert {"loss", "loss/mid", "loss/down_0", "optimiser"} <= {*scopes}
    assert scopes["loss/mid"]["backward_ms"] > 0 < scopes["loss/mid"]["forward_ms"]
    assert scopes["loss"]["share"] >= scopes["loss/mid"]["share"] > 0
    assert len(found["operations"]) == 5
    assert all(row["count"] % STEPS == 0 for row in found["operations"])
    assert any("loss" in row["scope"] for row in found["operations"])
    printed = capsys.readouterr().out
    assert f"{STEPS} steps of" in printed and "  mid" in printed


def test_planes_of_devices_take_the_hosts_place(traced, tmp_path):
    """What a TPU and a GPU write, beside the host's steps of the real trace."""
    written = xplane.find(traced[0]).read_bytes()
    names = xplane.op_names(written)
    # Of those known by name alone: these events name no program.
    known = next(k[1] for k, v in names.items() if "/mid/" in v and not k[0])
    plane = """planes {{ name: "{plane}" lines {{ name: "{line}" events {{
      metadata_id: 1 offset_ps: 0 duration_ps: {ps} }} }} lines {{ name: "{other}"
      events {{ metadata_id: 1 duration_ps: 9 }} }}
      event_metadata {{ key: 1 value {{ id: 1 name: "{name}" }} }} }}"""
    fields = dict(ps=10**9, name=f"%{known} = f32[8] fusion()")
    tpu = plane.format(plane="/device:TPU:0", line="XLA Ops", other="Steps", **fields)
    gpu = plane.format(
        plane="/device:GPU:0", line="Stream #7", other="Source", **fields
    )
    both = ProfileData.text_proto_to_serialized_xspace(f"{tpu} {gpu}")
    path = tmp_path / "device.xplane.pb"
    path.write_bytes(written + both)  # as protocol buffers join
    trace = xplane.read(path)
    assert [o.device for o in trace.ops] == ["/device:TPU:0", "/device:GPU:0"]
    assert {o.name for o in trace.ops} == {known}
    assert all("mid" in o.scope and o.end - o.start == 1e6 for o in trace.ops)
    assert len(trace.steps) == STEPS == len(trace.waits)


def test_mistakes_end_in_one_line(traced, tmp_path):
    def fails(match):
        with pytest.raises(SystemExit, match=match):
            read_profile.main([str(tmp_path)])

    fails("no .*xplane.pb under .* --profile_steps")
    path = tmp_path / "run" / "host.xplane.pb"
    path.parent.mkdir()
    path.write_bytes(b"")
    fails("holds no operation")
    path.write_bytes(xplane.find(traced[0]).read_bytes()[:-100])
    fails("is torn")


def test_the_newest_trace_is_read(tmp_path):
    for name, at in (("a", 3), ("b", 9), ("c", 5)):
        path = tmp_path / name / "host.xplane.pb"
        path.parent.mkdir()
        path.touch()
        os.utime(path, (at, at))
    assert xplane.find(tmp_path).parent.name == "b"
    assert xplane.find(tmp_path / "a" / "host.xplane.pb").parent.name == "a"


def test_the_flag_that_names_the_steps():
    assert profile.parse_steps("10:20") == range(10, 20)
    assert not profile.parse_steps("")
    for wrong in ("10", "20:10", "5:5", "a:b", ":3", "-1:3"):
        with pytest.raises(ValueError, match="--profile_steps is"):
            profile.parse_steps(wrong)
