"""A head's motion as one .glb file (glTF 2.0, Khronos): morph targets, joints, skin.

Key frames lie 1 / fps seconds apart, from 0. Named morph targets stand in the mesh's
extras, as three.js, Blender and Unreal read them.
"""

import numpy as np

from toktalk_jax.export.skin import JOINTS
from toktalk_jax.flame.model import PARENTS
from toktalk_jax.page.shade import vertex_normals

MESH_NODE, FIRST_JOINT = 0, 1
MOVES_M = 1e-6  # a joint that moves less is written as still


def encode(animated):
    """Bytes of the .glb of an `Animated`.

    Raises:
      ImportError: pygltflib is not installed.
    """
    try:
        import pygltflib as gl
    except ImportError:
        raise ImportError(
            "pygltflib is not installed; .glb needs this project's [export] extra"
        ) from None
    file, blob = gl.GLTF2(), bytearray()
    file.asset = gl.Asset(version="2.0", generator="toktalk_jax")
    add = _adder(gl, file, blob)
    file.materials = [_material(gl)]
    file.meshes = [_mesh(gl, add, animated)]
    file.nodes = _nodes(gl, animated)
    bind = np.tile(np.eye(4, dtype=np.float32), (len(JOINTS), 1, 1))
    bind[:, 3, :3] = -animated.joints  # column-major: the translation is the last row
    joints = [FIRST_JOINT + k for k in range(len(JOINTS))]
    file.skins = [
        gl.Skin(
            name="skin",
            joints=joints,
            skeleton=FIRST_JOINT,
            inverseBindMatrices=add(bind, "MAT4"),
        )
    ]
    file.scenes = [gl.Scene(name=animated.name, nodes=[MESH_NODE, FIRST_JOINT])]
    file.scene = 0
    file.animations = [_animation(gl, add, animated)]
    file.buffers = [gl.Buffer(byteLength=len(blob))]
    file.set_binary_blob(bytes(blob))
    return b"".join(file.save_to_bytes())


def _adder(gl, file, blob):
    """A function that appends an array as an accessor and returns its index."""
    types = {"f4": gl.FLOAT, "u4": gl.UNSIGNED_INT, "u1": gl.UNSIGNED_BYTE}

    def add(array, kind, target=None, bounds=False, normalized=None):
        array = np.ascontiguousarray(array)
        place = {"buffer": 0, "byteOffset": len(blob), "byteLength": array.nbytes}
        file.bufferViews.append(gl.BufferView(**place, target=target))
        blob.extend(array.tobytes())
        blob.extend(bytes(-len(blob) % 4))
        accessor = gl.Accessor(
            bufferView=len(file.bufferViews) - 1,
            componentType=types[array.dtype.str[1:]],
            count=len(array),
            type=kind,
            normalized=normalized,
        )
        if bounds:
            flat = array.reshape(len(array), -1)
            accessor.min, accessor.max = flat.min(0).tolist(), flat.max(0).tolist()
        file.accessors.append(accessor)
        return len(file.accessors) - 1

    return add


def _material(gl):
    look = gl.PbrMetallicRoughness(metallicFactor=0.0, roughnessFactor=0.6)
    return gl.Material(name="head", pbrMetallicRoughness=look, doubleSided=True)


def _mesh(gl, add, animated):
    def vertex(array, kind, **options):
        return add(array, kind, gl.ARRAY_BUFFER, **options)

    normals = vertex_normals(animated.points, animated.faces)
    # A vertex that no face uses has no normal; any unit one is valid.
    normals[~normals.any(1)] = [0, 0, 1]
    linear = np.where(  # glTF's vertex colours are linear light
        animated.colours <= 0.04045,
        animated.colours / 12.92,
        ((animated.colours + 0.055) / 1.055) ** 2.4,
    )
    colours = np.pad(linear, ((0, 0), (0, 1)), constant_values=1)
    attributes = gl.Attributes(
        POSITION=vertex(animated.points, "VEC3", bounds=True),
        NORMAL=vertex(normals.astype(np.float32), "VEC3"),
        COLOR_0=vertex(
            np.round(255 * colours).astype(np.uint8), "VEC4", normalized=True
        ),
        JOINTS_0=vertex(animated.influences, "VEC4"),
        WEIGHTS_0=vertex(animated.shares, "VEC4"),
    )
    targets = [
        gl.Attributes(POSITION=vertex(delta.astype(np.float32), "VEC3", bounds=True))
        for delta in animated.deltas
    ]
    indices = animated.faces.astype(np.uint32).reshape(-1)
    primitive = gl.Primitive(
        attributes=attributes,
        indices=add(indices, "SCALAR", gl.ELEMENT_ARRAY_BUFFER),
        material=0,
        targets=targets,
    )
    return gl.Mesh(
        name=animated.name,
        primitives=[primitive],
        weights=[0.0] * len(targets),
        extras={"targetNames": animated.targets},
    )


def _nodes(gl, animated):
    """The mesh, then the joints, where they stand in the first frame."""
    nodes = [gl.Node(name="head", mesh=0, skin=0)]
    for joint, name in enumerate(JOINTS):
        children = [FIRST_JOINT + k for k, p in enumerate(PARENTS) if p == joint]
        place = animated.places[0, joint].astype(np.float32).tolist()
        nodes.append(gl.Node(name=name, children=children, translation=place))
    return nodes


def _animation(gl, add, animated):
    times = np.arange(len(animated.weights), dtype=np.float32) / animated.fps
    clock = add(times.astype(np.float32), "SCALAR", bounds=True)
    samplers, channels = [], []

    def track(node, path, values, kind):
        values = np.asarray(values, np.float32)
        samplers.append(gl.AnimationSampler(input=clock, output=add(values, kind)))
        target = gl.AnimationChannelTarget(node=node, path=path)
        channels.append(gl.AnimationChannel(sampler=len(samplers) - 1, target=target))

    track(MESH_NODE, "weights", animated.weights.reshape(-1), "SCALAR")
    for joint in range(len(JOINTS)):
        turns, places = animated.turns[:, joint], animated.places[:, joint]
        if np.abs(turns[:, :3]).max() > 0:
            track(FIRST_JOINT + joint, "rotation", turns, "VEC4")
        if np.abs(places - places[0]).max() > MOVES_M:
            track(FIRST_JOINT + joint, "translation", places, "VEC3")
    return gl.Animation(name="take", samplers=samplers, channels=channels)
