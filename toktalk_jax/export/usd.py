"""A head's motion as USD (Pixar, `usd-core`): a UsdSkel character with blend shapes.

One time code is one frame; metres, y up. Blend shapes are sparse, and named as the
head's expressions.
"""

import numpy as np

from toktalk_jax.export.skin import JOINTS, extent
from toktalk_jax.flame.model import PARENTS
from toktalk_jax.page.shade import vertex_normals

MOVES_M = 1e-7  # a blend shape leaves out the vertices that it moves less


def write(path, animated):
    """Write an `Animated`: .usda is text, .usd and .usdc are binary.

    Raises:
      ImportError: usd-core is not installed.
      OSError: the file cannot be written.
    """
    try:
        from pxr import Usd, UsdGeom, UsdSkel
    except ImportError:
        raise ImportError(
            "usd-core is not installed; USD needs this project's [export] extra"
        ) from None
    stage = Usd.Stage.CreateInMemory()
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    stage.SetTimeCodesPerSecond(animated.fps)
    stage.SetFramesPerSecond(animated.fps)
    stage.SetStartTimeCode(0)
    stage.SetEndTimeCode(len(animated.weights) - 1)
    root = UsdSkel.Root.Define(stage, "/Head")
    stage.SetDefaultPrim(root.GetPrim())
    bounds = root.CreateExtentAttr()
    for frame, corners in enumerate(extent(animated).astype(np.float32)):
        bounds.Set(_vectors(corners), frame)
    skeleton = _skeleton(stage, animated)
    _mesh(stage, skeleton, animated)
    _animation(stage, animated)
    if not stage.GetRootLayer().Export(str(path)):
        raise OSError(f"{path} cannot be written")


def _vectors(array):
    from pxr import Vt

    return Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(array, np.float32))


def _paths():
    """Joint paths, such as root/neck/jaw."""
    paths = []
    for name, parent in zip(JOINTS, PARENTS, strict=True):
        paths.append(name if parent < 0 else f"{paths[parent]}/{name}")
    return paths


def _skeleton(stage, animated):
    from pxr import Gf, UsdSkel, Vt

    def shifts(places):
        return Vt.Matrix4dArray(
            [Gf.Matrix4d().SetTranslate(Gf.Vec3d(*place)) for place in places.tolist()]
        )

    skeleton = UsdSkel.Skeleton.Define(stage, "/Head/Skeleton")
    skeleton.CreateJointsAttr(_paths())
    rest = animated.joints.copy()
    rest[1:] -= animated.joints[list(PARENTS[1:])]
    skeleton.CreateBindTransformsAttr(shifts(animated.joints))
    skeleton.CreateRestTransformsAttr(shifts(rest))
    binding = UsdSkel.BindingAPI.Apply(skeleton.GetPrim())
    binding.CreateAnimationSourceRel().SetTargets(["/Head/Animation"])
    return skeleton


def _mesh(stage, skeleton, animated):
    from pxr import UsdGeom, UsdSkel, Vt

    mesh = UsdGeom.Mesh.Define(stage, "/Head/Mesh")
    faces = np.ascontiguousarray(animated.faces, np.int32)
    mesh.CreatePointsAttr(_vectors(animated.points))
    mesh.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(faces.reshape(-1)))
    mesh.CreateFaceVertexCountsAttr(
        Vt.IntArray.FromNumpy(np.full(len(faces), 3, np.int32))
    )
    corners = np.stack([animated.points.min(0), animated.points.max(0)])
    mesh.CreateExtentAttr(_vectors(corners))
    mesh.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
    mesh.CreateDoubleSidedAttr(True)
    mesh.CreateNormalsAttr(_vectors(vertex_normals(animated.points, faces)))
    mesh.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
    colours = mesh.CreateDisplayColorPrimvar(UsdGeom.Tokens.vertex)
    colours.Set(_vectors(animated.colours))
    binding = UsdSkel.BindingAPI.Apply(mesh.GetPrim())
    binding.CreateSkeletonRel().SetTargets([skeleton.GetPath()])
    influences = animated.influences.astype(np.int32).reshape(-1)
    binding.CreateJointIndicesPrimvar(False, 4).Set(Vt.IntArray.FromNumpy(influences))
    shares = np.ascontiguousarray(animated.shares.reshape(-1))
    binding.CreateJointWeightsPrimvar(False, 4).Set(Vt.FloatArray.FromNumpy(shares))
    paths = []
    for name, delta in zip(animated.targets, animated.deltas, strict=True):
        shape = UsdSkel.BlendShape.Define(stage, f"/Head/Mesh/{name}")
        moved = np.flatnonzero(np.abs(delta).max(1) > MOVES_M).astype(np.int32)
        shape.CreateOffsetsAttr(_vectors(delta[moved]))
        shape.CreatePointIndicesAttr(Vt.IntArray.FromNumpy(moved))
        paths.append(shape.GetPath())
    binding.CreateBlendShapesAttr(animated.targets)
    binding.CreateBlendShapeTargetsRel().SetTargets(paths)


def _animation(stage, animated):
    from pxr import Gf, UsdSkel, Vt

    track = UsdSkel.Animation.Define(stage, "/Head/Animation")
    track.CreateJointsAttr(_paths())
    track.CreateBlendShapesAttr(animated.targets)
    track.CreateScalesAttr(Vt.Vec3hArray([Gf.Vec3h(1, 1, 1)] * len(JOINTS)))
    turns, places = track.CreateRotationsAttr(), track.CreateTranslationsAttr()
    weights = track.CreateBlendShapeWeightsAttr()
    for frame, values in enumerate(animated.weights):
        weights.Set(Vt.FloatArray.FromNumpy(np.ascontiguousarray(values)), frame)
        places.Set(_vectors(animated.places[frame]), frame)
        now = animated.turns[frame].tolist()
        turns.Set(Vt.QuatfArray([Gf.Quatf(q[3], *q[:3]) for q in now]), frame)
