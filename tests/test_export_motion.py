"""Exports read back by other programs' rules: the same frames, the same vertices."""

import json
import pathlib
import shutil
import struct
import subprocess

import jax
import numpy as np
import pytest
import soundfile
from scipy.spatial.transform import Rotation

from tests.test_flame import flame_arrays, some_motion
from toktalk_jax import motion as mo
from toktalk_jax import takes
from toktalk_jax.data.corpora import performer
from toktalk_jax.export import gltf, live_link, skin, usd
from toktalk_jax.flame import arkit, model
from toktalk_jax.flame.assets import load_head
from tools import export_motion

ROOT = pathlib.Path(__file__).resolve().parent.parent
FRAMES = 30
SHOWN = (0, 11, FRAMES - 1)
posed = jax.jit(model.vertices, static_argnames="head_joint")


@pytest.fixture(scope="module")
def head():
    return load_head()


@pytest.fixture(scope="module")
def motion():
    """[T, 56] speech with what a model adds: coefficients below zero, a rolled jaw."""
    clip = next(iter(performer.read(3.0, seed=5)))
    noise = np.random.default_rng(0).normal(0, 0.03, (FRAMES, mo.F))
    noise[:, 48:50] = 0
    return (clip.motion[:FRAMES] + noise).astype(np.float32)


@pytest.fixture(scope="module")
def take(motion, tmp_path_factory):
    """A motion file as `sample` leaves it."""
    path = tmp_path_factory.mktemp("take") / "motion.npz"
    tone = np.sin(np.arange(FRAMES * 640) / 5) * 8000
    np.savez(
        *(path,),
        **{"motion": motion, "fps": 25, "head_joint": "neck", "chunk_frames": 10},
        **{"face_model": "stand_in", "seed": 3, "checkpoint": "abc", "style": "warm"},
        **{"audio": tone.astype(np.int16), "sample_rate": 16000},
    )
    return path


@pytest.fixture(scope="module")
def flame(tmp_path_factory):
    """A head whose joints follow the expression, with five joints to a vertex."""
    path = tmp_path_factory.mktemp("flame") / "generic_model.npz"
    np.savez(path, **flame_arrays(4))
    return path


def glb_parts(data):
    """JSON and binary chunk by the container's layout (glTF 2.0, section 4.4)."""
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack_from("<I4s", data, 12)
    assert kind == b"JSON" and size % 4 == 0
    return json.loads(data[20 : 20 + size]), data[28 + size :]


def accessor(document, blob, index):
    entry = document["accessors"][index]
    view = document["bufferViews"][entry["bufferView"]]
    kind = {5126: "<f4", 5125: "<u4", 5121: "u1"}[entry["componentType"]]
    width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4, "MAT4": 16}[entry["type"]]
    count = entry["count"] * width
    array = np.frombuffer(blob, kind, count, view.get("byteOffset", 0))
    array = array.reshape(entry["count"], width)
    for name, found in (("min", array.min(0)), ("max", array.max(0))):
        if name in entry:
            np.testing.assert_allclose(entry[name], found, rtol=1e-6)
    return array


def glb_vertices(data, frames):
    """[n, V, 3] of key frames: morph, then skin, in NumPy alone."""
    document, blob = glb_parts(data)
    read = lambda index: accessor(document, blob, index)  # noqa: E731
    mesh, skins = document["meshes"][0], document["skins"][0]
    primitive = mesh["primitives"][0]
    attributes = {
        k: read(v) for k, v in primitive["attributes"].items() if v is not None
    }
    np.testing.assert_allclose(attributes["WEIGHTS_0"].sum(1), 1, atol=1e-6)
    deltas = np.stack([read(t["POSITION"]) for t in primitive["targets"]])
    assert len(mesh["extras"]["targetNames"]) == len(deltas) == len(mesh["weights"])
    tracks = {}
    for channel in document["animations"][0]["channels"]:
        sampler = document["animations"][0]["samplers"][channel["sampler"]]
        target = channel["target"]
        tracks[target["node"], target["path"]] = read(sampler["output"])
    parent = {
        c: n
        for n, node in enumerate(document["nodes"])
        for c in node.get("children", [])
    }
    inverse = read(skins["inverseBindMatrices"]).reshape(-1, 4, 4).swapaxes(1, 2)

    def world(node, frame):
        matrix = np.eye(4)
        turn = tracks.get((node, "rotation"), [[0, 0, 0, 1]] * (frame + 1))[frame]
        rest = document["nodes"][node]["translation"]
        place = tracks.get((node, "translation"), [rest] * (frame + 1))[frame]
        matrix[:3, :3], matrix[:3, 3] = Rotation.from_quat(turn).as_matrix(), place
        return world(parent[node], frame) @ matrix if node in parent else matrix

    out = []
    for frame in frames:
        weights = tracks[0, "weights"].reshape(-1, len(deltas))[frame]
        points = attributes["POSITION"] + np.tensordot(weights, deltas, 1)
        points = np.pad(points, ((0, 0), (0, 1)), constant_values=1)
        joints = [
            world(j, frame) @ b for j, b in zip(skins["joints"], inverse, strict=True)
        ]
        bones = np.stack(joints)[attributes["JOINTS_0"]]
        blended = np.einsum("vk,vkab->vab", attributes["WEIGHTS_0"], bones)
        out.append(np.einsum("vab,vb->va", blended, points)[:, :3])
    return np.stack(out)


def test_glb_frames_are_the_heads_own(head, take, motion, tmp_path):
    path = export_motion.export(take, tmp_path / "take.glb")
    ours = glb_vertices(path.read_bytes(), SHOWN)
    truth = np.asarray(posed(head, motion[list(SHOWN)]))
    assert np.abs(ours - truth).max() < 1e-5, "10 um"
    document, blob = glb_parts(path.read_bytes())
    names = document["meshes"][0]["extras"]["targetNames"]
    assert names[:48] == list(mo.ARKIT_EXPRESSION)
    assert all(name.startswith("jaw_corrective_") for name in names[48:])
    times = accessor(document, blob, document["animations"][0]["samplers"][0]["input"])
    np.testing.assert_allclose(times[:, 0], np.arange(FRAMES) / 25, atol=1e-6)


@pytest.mark.parametrize("joint", ["neck", "root"])
def test_glb_of_a_head_whose_joints_follow_its_expression(flame, joint):
    other = load_head(flame)
    motion = some_motion(2, 3)
    data = gltf.encode(skin.animate(other, motion, 30, joint))
    truth = np.asarray(posed(other, motion, head_joint=joint))
    assert np.abs(glb_vertices(data, range(3)) - truth).max() < 1e-5


def test_glb_of_a_single_frame(head, motion):
    data = gltf.encode(skin.animate(head, motion[:1]))
    truth = np.asarray(posed(head, motion[:1]))
    assert np.abs(glb_vertices(data, [0]) - truth).max() < 1e-5


def test_glb_loads_in_other_readers(head, take, tmp_path):
    trimesh = pytest.importorskip("trimesh")
    pygltflib = pytest.importorskip("pygltflib")
    path = tmp_path / "take.glb"
    export_motion.main([str(take.parent), "--out", str(path)])
    scene = trimesh.load(path)
    (mesh,) = scene.geometry.values()
    rest = np.asarray(head.v_template)
    lashes = np.isin(np.asarray(head.faces)[:, 0], head.groups["lashes"])
    assert len(mesh.faces) == (~lashes).sum()
    used = np.unique(np.asarray(head.faces)[~lashes])
    np.testing.assert_allclose(mesh.bounds[0], rest[used].min(0), atol=1e-6)
    np.testing.assert_allclose(mesh.bounds[1], rest[used].max(0), atol=1e-6)
    file = pygltflib.GLTF2().load(path)
    clock = file.accessors[file.animations[0].samplers[0].input]
    assert clock.count == FRAMES and clock.max == pytest.approx([(FRAMES - 1) / 25])
    assert [node.name for node in file.nodes] == ["head", *skin.JOINTS]


NODE = """
import fs from "fs";
globalThis.self = globalThis;
const [three, loader, file, times] = process.argv.slice(2);
const THREE = await import(three);
const { GLTFLoader } = await import(loader);
const data = fs.readFileSync(file);
const buffer = data.buffer.slice(data.byteOffset, data.byteOffset + data.length);
new GLTFLoader().parse(buffer, "", (gltf) => {
  const mesh = gltf.scene.getObjectByProperty("isSkinnedMesh", true);
  const mixer = new THREE.AnimationMixer(gltf.scene);
  const action = mixer.clipAction(gltf.animations[0]);
  action.setLoop(THREE.LoopOnce);
  action.clampWhenFinished = true;
  action.play();
  const count = mesh.geometry.attributes.position.count;
  const frames = JSON.parse(times).map((time) => {
    mixer.setTime(time);
    gltf.scene.updateMatrixWorld(true);
    const at = new THREE.Vector3();
    return [...Array(count).keys()].filter((v) => v % 40 === 0).map((v) => {
      mesh.getVertexPosition(v, at);
      return mesh.localToWorld(at).toArray();
    });
  });
  const names = Object.keys(mesh.morphTargetDictionary);
  console.log(JSON.stringify({ frames, names, duration: gltf.animations[0].duration }));
}, (error) => { console.error(error); process.exit(1); });
"""


def test_glb_loads_in_three_js(head, take, motion, tmp_path):
    three = ROOT / "toktalk_jax/page/source/node_modules/three"
    node = shutil.which("node")
    if not node or not three.is_dir():
        pytest.skip("node, or three (npm ci in toktalk_jax/page/source), is not here")
    path = export_motion.export(take, tmp_path / "take.glb")
    (tmp_path / "load.mjs").write_text(NODE)
    times = [frame / 25 for frame in SHOWN]
    modules = (
        three / "build/three.module.js",
        three / "examples/jsm/loaders/GLTFLoader.js",
    )
    command = [node, tmp_path / "load.mjs", *modules, path, json.dumps(times)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    shown = json.loads(ran.stdout)
    truth = np.asarray(posed(head, motion[list(SHOWN)]))[:, ::40]
    assert np.abs(np.array(shown["frames"]) - truth).max() < 1e-4, "0.1 mm"
    assert shown["names"][:48] == list(mo.ARKIT_EXPRESSION)
    assert shown["duration"] == pytest.approx((FRAMES - 1) / 25)


@pytest.mark.parametrize("suffix", [".usd", ".usda"])
def test_usd_frames_are_the_heads_own_and_it_complies(
    head, take, motion, tmp_path, suffix
):
    pytest.importorskip("pxr")
    from pxr import Usd, UsdGeom, UsdSkel, UsdValidation

    path = export_motion.export(take, tmp_path / f"take{suffix}")
    stage = Usd.Stage.Open(str(path))
    rules = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    found = UsdValidation.ValidationContext(rules).Validate(stage)
    assert len(rules) > 20 and [error.GetMessage() for error in found] == []
    assert path.read_bytes().startswith(b"#usda" if suffix == ".usda" else b"PXR-USDC")
    assert stage.GetTimeCodesPerSecond() == stage.GetFramesPerSecond() == 25
    assert (stage.GetStartTimeCode(), stage.GetEndTimeCode()) == (0, FRAMES - 1)
    assert UsdGeom.GetStageMetersPerUnit(stage) == 1
    root = UsdSkel.Root(stage.GetDefaultPrim())
    bounds = [np.array(root.GetExtentAttr().Get(frame)) for frame in SHOWN]
    assert root.GetExtentAttr().GetNumTimeSamples() == FRAMES
    # USD's own skinning writes what it sees as plain points.
    assert UsdSkel.BakeSkinning(root)
    mesh = UsdGeom.Mesh(stage.GetPrimAtPath("/Head/Mesh"))
    truth = np.asarray(posed(head, motion[list(SHOWN)]))
    for frame, vertices, corners in zip(SHOWN, truth, bounds, strict=True):
        seen = np.array(mesh.GetPointsAttr().Get(frame))
        assert np.abs(seen - vertices).max() < 1e-4, "0.1 mm"
        np.testing.assert_allclose(corners[0], vertices.min(0), atol=1e-5)
        np.testing.assert_allclose(corners[1], vertices.max(0), atol=1e-5)


def test_usd_of_a_head_whose_joints_follow_its_expression(flame, tmp_path):
    pytest.importorskip("pxr")
    from pxr import Usd, UsdGeom, UsdSkel

    other, motion = load_head(flame), some_motion(3, 2)
    usd.write(tmp_path / "take.usdc", skin.animate(other, motion, 30))
    stage = Usd.Stage.Open(str(tmp_path / "take.usdc"))
    assert UsdSkel.BakeSkinning(UsdSkel.Root(stage.GetDefaultPrim()))
    points = UsdGeom.Mesh(stage.GetPrimAtPath("/Head/Mesh")).GetPointsAttr()
    truth = np.asarray(posed(other, motion))
    assert np.abs(np.array(points.Get(1)) - truth[1]).max() < 1e-4


# As the app writes it; the sides of jaw and mouth are not in Apple's order.
APP_HEADER = """Timecode,BlendShapeCount,EyeBlinkLeft,EyeLookDownLeft,EyeLookInLeft,
EyeLookOutLeft,EyeLookUpLeft,EyeSquintLeft,EyeWideLeft,EyeBlinkRight,EyeLookDownRight,
EyeLookInRight,EyeLookOutRight,EyeLookUpRight,EyeSquintRight,EyeWideRight,JawForward,
JawRight,JawLeft,JawOpen,MouthClose,MouthFunnel,MouthPucker,MouthRight,MouthLeft,
MouthSmileLeft,MouthSmileRight,MouthFrownLeft,MouthFrownRight,MouthDimpleLeft,
MouthDimpleRight,MouthStretchLeft,MouthStretchRight,MouthRollLower,MouthRollUpper,
MouthShrugLower,MouthShrugUpper,MouthPressLeft,MouthPressRight,MouthLowerDownLeft,
MouthLowerDownRight,MouthUpperUpLeft,MouthUpperUpRight,BrowDownLeft,BrowDownRight,
BrowInnerUp,BrowOuterUpLeft,BrowOuterUpRight,CheekPuff,CheekSquintLeft,CheekSquintRight,
NoseSneerLeft,NoseSneerRight,TongueOut,HeadYaw,HeadPitch,HeadRoll,LeftEyeYaw,LeftEyePitch,
LeftEyeRoll,RightEyeYaw,RightEyePitch,RightEyeRoll""".replace("\n", "")


def test_csv_is_live_link_faces(take, motion, tmp_path):
    path = export_motion.export(take, tmp_path / "take.csv")
    lines = path.read_text().splitlines()
    assert lines[0] == APP_HEADER and len(lines) == FRAMES + 1
    rows = [line.split(",") for line in lines[1:]]
    assert {len(row) for row in rows} == {63} and {row[1] for row in rows} == {"61"}
    assert [row[0] for row in rows[:3]] == [
        *("00:00:00:00.000", "00:00:00:02.400", "00:00:00:04.800")
    ]
    assert rows[25][0] == "00:00:01:00.000"
    values = np.array([row[2:] for row in rows], float)
    assert values[:, :52].min() >= 0 and values[:, :52].max() <= 1
    columns = dict(zip(APP_HEADER.split(",")[2:], values.T, strict=True))
    ours = arkit.to_arkit(arkit.prepare(load_head()), motion)
    for name, weights in zip(mo.ARKIT_52, ours.T, strict=True):
        column = columns[name[0].upper() + name[1:]]
        np.testing.assert_allclose(column, weights, atol=1e-6, err_msg=name)
    weights, neck, fps = live_link.decode(path.read_text())
    assert fps == pytest.approx(25, abs=1e-3)
    np.testing.assert_allclose(neck, motion[:, mo.NECK], atol=1e-6)
    np.testing.assert_allclose(weights, ours, atol=1e-6)


def test_head_and_eye_angles_are_about_the_faces_own_axes(head):
    weights = np.zeros((4, 52), np.float32)
    for name in ("eyeLookOutLeft", "eyeLookInRight"):  # both look to its left
        weights[3, mo.ARKIT_52.index(name)] = 1
    neck = np.array([[0, 0.3, 0], [0.2, 0, 0], [0, 0, 0.1], [0, 0, 0]])
    rows = live_link.encode(weights, neck).splitlines()
    values = np.array([row.split(",")[54:] for row in rows[1:]], float)
    np.testing.assert_allclose(values[:3, :3], [[0.3, 0, 0], [0, 0.2, 0], [0, 0, 0.1]])
    # The eyeballs of the stand-in turn as far as the columns say.
    rest = np.asarray(head.v_template)
    for column, side, way in ((3, "Left", "Out"), (6, "Right", "In")):
        ball = np.asarray(head.weights)[:, 3 if side == "Left" else 4] > 0.5
        shape = mo.ARKIT_EXPRESSION.index(f"eyeLook{way}{side}")
        moved = (rest + np.asarray(head.expression_dirs)[..., shape])[ball]
        turn, _ = Rotation.align_vectors(
            moved - moved.mean(0), rest[ball] - rest[ball].mean(0)
        )
        assert values[3, column] == pytest.approx(turn.as_rotvec()[1], abs=2e-3)


def test_timecodes_carry_over():
    assert live_link.timecode(3661 + 59.99 / 60) == "01:01:01:59.990"
    assert live_link.timecode(59.999999) == "00:01:00:00.000"


def test_npz_comes_back_and_takes_another_sound(take, motion, tmp_path):
    path = export_motion.export(take, tmp_path / "again.npz")
    one, again = takes.read(take), takes.read(path)
    for a, b in zip(one, again, strict=True):
        np.testing.assert_array_equal(a, b)
    with np.load(path) as stored:
        assert stored["arkit"].shape == (FRAMES, 52)
        assert stored["arkit_names"].tolist() == list(mo.ARKIT_52)
    wave = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    soundfile.write(tmp_path / "noise.wav", wave, 16000)
    export_motion.export(take, path, wav=str(tmp_path / "noise.wav"))
    np.testing.assert_allclose(takes.read(path).audio, wave, atol=1e-3)


def test_a_capture_becomes_motion_at_25_fps(head, motion, tmp_path):
    weights = np.zeros((60, 52), np.float32)
    weights[:, mo.ARKIT_52.index("jawOpen")] = np.linspace(0, 0.5, 60)
    neck = np.linspace([0, 0, 0], [0.1, -0.2, 0.05], 60)
    (tmp_path / "me.csv").write_text(live_link.encode(weights, neck, 60))
    path = export_motion.export(tmp_path / "me.csv", tmp_path / "style.npz")
    back = takes.read(path)
    assert back.motion.shape == (25, mo.F) and back.fps == 25
    opened = np.interp(
        (np.arange(25) + 0.5) / 25, (np.arange(60) + 0.5) / 60, range(60)
    )
    jaw = 0.3613 * 0.5 * opened / 59
    np.testing.assert_allclose(back.motion[:, mo.JAW.start], jaw, atol=2e-3)
    assert np.abs(back.motion[:, mo.EXPRESSION]).max() < 0.01
    np.testing.assert_allclose(back.motion[-1, mo.NECK], neck[-1], atol=4e-3)


def test_mp4_has_every_frame_and_the_sound(take, tmp_path):
    av = pytest.importorskip("av")
    path = export_motion.export(take, tmp_path / "take.mp4", size=64)
    with av.open(str(path)) as film:
        pictures = [f.to_ndarray(format="rgb24") for f in film.decode(video=0)]
    assert len(pictures) == FRAMES and pictures[0].shape == (64, 64, 3)
    assert np.abs(pictures[11].astype(int) - pictures[0]).max() > 20
    with av.open(str(path)) as film:
        heard = np.concatenate([f.to_ndarray()[0] for f in film.decode(audio=0)])
    assert abs(len(heard) / 48000 - FRAMES / 25) < 0.05 and heard.std() > 0.1


def test_what_cannot_be_exported_is_named(take, motion, flame, tmp_path, capsys):
    def fails(error, match, source=take, out="take.glb", **options):
        with pytest.raises(error, match=match):
            export_motion.export(source, tmp_path / out, **options)

    fails(ValueError, r"ends in '.fbx'; expected one of", out="take.fbx")
    fails(ValueError, ".glb holds no sound", wav="x.wav")
    fails(FileNotFoundError, "no motion file", source=tmp_path / "none.npz")
    fails(ValueError, "of face model 'stand_in'", head=str(flame))
    bad = tmp_path / "bad.npz"
    np.savez(bad, frames=motion)
    fails(ValueError, "holds no motion", source=bad)
    np.savez(bad, motion=motion[:0])
    fails(ValueError, "T > 0", source=bad)
    np.savez(bad, motion=motion * np.nan)
    fails(ValueError, "NaN", source=bad)
    np.savez(bad, motion=motion, face_model="generic_model")
    fails(ValueError, "no head file was given", source=bad)
    fails(ValueError, "make its own map", source=bad, out="a.csv", head=str(flame))
    fails(ValueError, "expected an even number", out="take.mp4", size=65)
    (tmp_path / "bad.csv").write_text("Timecode,JawOpen\n00:00:00:00.000,1\n")
    fails(ValueError, "bad.csv: .*lacks", source=tmp_path / "bad.csv")
    (tmp_path / "bad.csv").write_text(f"{APP_HEADER}\n00:00:00,61,{'0,' * 60}0\n")
    fails(ValueError, "line 2 cannot be read", source=tmp_path / "bad.csv")
    assert not list(tmp_path.glob("take.*")) and not list(tmp_path.glob(".take*"))
    with pytest.raises(ValueError, match="fps is 0"):
        skin.animate(load_head(), motion, 0)
    with pytest.raises(ValueError, match="neck or root"):
        skin.animate(load_head(), motion, 25, "jaw")
    with pytest.raises(SystemExit, match="1"):
        export_motion.main([str(bad), "--out", str(tmp_path / "take.glb")])
    assert "generic_model" in capsys.readouterr().err


def test_help_names_the_formats(capsys):
    with pytest.raises(SystemExit, match="0"):
        export_motion.main(["--help"])
    told = capsys.readouterr().out
    assert all(suffix in told for suffix in export_motion.SUFFIXES)
