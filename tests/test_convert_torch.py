"""Weight files: both formats, both ways; nothing but tensors is ever read."""

import json

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="conversion needs PyTorch ([torch] extra)")
pytest.importorskip("safetensors")

from toktalk_jax import torch_port  # noqa: E402
from toktalk_jax.training import checkpoints  # noqa: E402
from tools import convert_torch  # noqa: E402
from tools.torch_reference import checks, pairs  # noqa: E402


@pytest.fixture(scope="module")
def pair():
    return pairs.make_pair(pairs.size_of("tiny"))


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_of_the_twin_converts_and_comes_back(pair, tmp_path, suffix):
    theirs, ours = tmp_path / f"model{suffix}", tmp_path / "params.npz"
    state = pair.twin["velocity"].state_dict()
    convert_torch.write_torch({k: v.numpy() for k, v in state.items()}, theirs)
    convert_torch.main([str(theirs), str(ours)])
    assert_same(convert_torch.read_params(ours), pair.params["velocity"])
    back = tmp_path / f"back{suffix}"
    convert_torch.main([str(ours), str(back)])
    again = convert_torch.read_torch(back)
    assert {*again} == {*state}
    for name, value in again.items():
        np.testing.assert_array_equal(value, state[name].numpy())
    with pytest.raises(SystemExit, match="exists"):
        convert_torch.main([str(ours), str(back)])


def test_a_prefix_is_cut_and_half_precision_becomes_f32(pair, tmp_path):
    path = tmp_path / "flow.pt"
    state = pair.twin["velocity"].state_dict()
    named = {f"decoder.estimator.{k}": v.bfloat16() for k, v in state.items()}
    torch.save({"state_dict": {**named, "length.weight": torch.zeros(3)}}, path)
    taken = convert_torch.read_torch(path, "decoder.estimator.")
    assert {*taken} == {*state}
    assert all(v.dtype == np.float32 for v in taken.values())
    with pytest.raises(ValueError, match="no name .* starts with 'nothing'"):
        convert_torch.read_torch(path, "nothing")
    with pytest.raises(ValueError, match=r"holds none of the networks"):
        convert_torch.convert(path, tmp_path / "out.npz")


class Payload:
    def __reduce__(self):
        return print, ("pickled code ran",)


def test_pickled_code_does_not_run(tmp_path, capsys):
    path = tmp_path / "evil.pt"
    torch.save({"weight": Payload()}, path)
    with pytest.raises(ValueError, match="no pickled code runs"):
        convert_torch.read_torch(path)
    assert "ran" not in capsys.readouterr().out
    torch.save({"model": {"a": torch.zeros(1)}, "epoch": 3}, path)
    with pytest.raises(ValueError, match="not tensors"):
        convert_torch.read_torch(path)


def test_the_files_names_must_tell_the_direction(tmp_path):
    for source, out in (("a.pt", "b.pt"), ("a.npz", "b.npz"), ("a.pt", "folder")):
        with pytest.raises(ValueError, match="one side is a PyTorch file"):
            convert_torch.convert(source, tmp_path / out)


@pytest.fixture
def bundle(pair, tmp_path):
    """A bundle folder of the tiny networks."""
    stats = checks.random_stats(pairs.size_of("tiny").tokens)
    params = {k: pair.params[k] for k in ("velocity", "style")}
    config = {"dataset": "", "model": {}, "style": {}}
    made = checkpoints.Bundle(config, params, stats, None, {"corpus": "x"}, {"step": 1})
    checkpoints.export(made, tmp_path / "bundle")
    return tmp_path / "bundle"


def test_a_bundle_goes_to_pytorch_and_becomes_another_bundle(bundle, pair, tmp_path):
    file = tmp_path / "model.safetensors"
    convert_torch.convert(bundle, file)
    state = convert_torch.read_torch(file)
    assert "velocity.final_proj.weight" in state and "style.convs.0.weight" in state
    twin = pair.twin["style"]
    part = {k[6:]: v for k, v in state.items() if k.startswith("style.")}
    twin.load_state_dict(pairs.tensors(part))
    # The decoder alone, changed, with the style encoder of the other bundle.
    lone = {k[9:]: v * 2 for k, v in state.items() if k.startswith("velocity.")}
    convert_torch.write_torch(lone, tmp_path / "decoder.pt")
    convert_torch.convert(tmp_path / "decoder.pt", tmp_path / "new", like=bundle)
    old, new = checkpoints.load(bundle), checkpoints.load(tmp_path / "new")
    assert_same(new.params["style"], old.params["style"])
    double = jax.tree.map(lambda a: a * 2, old.params["velocity"])
    assert_same(new.params["velocity"], double)
    assert new.meta["converted_from"] == "PyTorch"
    assert json.loads((tmp_path / "new" / "meta.json").read_text())["step"] == 1


def test_weights_of_another_size_do_not_enter_a_bundle(bundle, tmp_path):
    size = pairs.size_of("tiny")
    wide = size._replace(velocity={**size.velocity, "channels": (24, 16)})
    state = torch_port.to_torch(pairs.make_pair(wide).params["velocity"])
    convert_torch.write_torch(state, tmp_path / "wide.pt")
    with pytest.raises(ValueError, match=r"do not fit the config(.|\n)*down_0"):
        convert_torch.convert(tmp_path / "wide.pt", tmp_path / "new", like=bundle)
    assert not (tmp_path / "new").exists()
