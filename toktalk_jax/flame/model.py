"""FLAME's forward pass: motion coefficients to vertices, in pure jnp.

Linear blend skinning over FLAME's own arrays (Li et al. 2017, section 3): blend shapes,
regressed joints, pose correctives, then a weighted sum of joint transforms.
"""

import jax.numpy as jnp

from toktalk_jax import motion as motion_layout

PARENTS = (-1, 0, 1, 1, 1)  # root, neck, jaw, two eyes
ROOT, NECK, JAW = 0, 1, 2
HEAD_JOINTS = {"root": ROOT, "neck": NECK}
# FLAME's epsilon: parity with its published code, and a finite gradient at rest.
_EPSILON = 1e-8
_PRECISION = "highest"  # TF32 would cost 0.1 mm on accelerators


def rodrigues(axis_angle):
    """Axis-angle [..., 3] in radians to rotation matrices [..., 3, 3].

    The norm is taken of the shifted vector, as in FLAME, so the gradient at zero is
    finite.
    """
    angle = jnp.linalg.norm(axis_angle + _EPSILON, axis=-1)[..., None]
    x, y, z = jnp.moveaxis(axis_angle / angle, -1, 0)
    zero = jnp.zeros_like(x)
    skew = jnp.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1)
    skew = skew.reshape(*x.shape, 3, 3)
    sin, cos = jnp.sin(angle)[..., None], jnp.cos(angle)[..., None]
    squared = jnp.matmul(skew, skew, precision=_PRECISION)
    eye = jnp.broadcast_to(jnp.eye(3, dtype=skew.dtype), skew.shape)
    return eye + sin * skew + (1 - cos) * squared


def full_pose(motion, head_joint="neck", pose=True):
    """Axis-angle of the five joints [..., 5, 3] from motion [..., 56]; eyes rest."""
    if head_joint not in HEAD_JOINTS:
        raise ValueError(
            f"head_joint is {head_joint!r}; expected one of {sorted(HEAD_JOINTS)}"
        )
    still = jnp.zeros_like(motion[..., motion_layout.JAW])
    joints = [still] * len(PARENTS)
    joints[JAW] = motion[..., motion_layout.JAW]
    if pose:
        joints[HEAD_JOINTS[head_joint]] = motion[..., motion_layout.NECK]
    return jnp.stack(joints, axis=-2)


def _joint_transforms(rotations, joints):
    """Skinning transforms [..., 5, 3, 4] of rotations [..., 5, 3, 3] about joints.

    Args:
      joints: [..., 5, 3] rest positions.
    """
    world_rotation, world_place = [], []
    for index, parent in enumerate(PARENTS):
        local, place = rotations[..., index, :, :], joints[..., index, :]
        if parent >= 0:
            offset = place - joints[..., parent, :]
            place = world_place[parent] + _apply(world_rotation[parent], offset)
            local = jnp.matmul(world_rotation[parent], local, precision=_PRECISION)
        world_rotation.append(local)
        world_place.append(place)
    rotation = jnp.stack(world_rotation, axis=-3)
    shift = jnp.stack(world_place, axis=-2) - _apply(rotation, joints)
    return jnp.concatenate([rotation, shift[..., None]], axis=-1)


def _apply(matrices, vectors):
    return jnp.einsum("...ij,...j->...i", matrices, vectors, precision=_PRECISION)


def shaped(head, expression, shape=None):
    """Rest vertices with identity and expression, before any rotation.

    Args:
      expression: [..., 50].
      shape: [n] or [..., n] identity coefficients; those past the head's own count are
        ignored (the stand-in has none).

    Returns:
      [..., V, 3] metres.
    """
    basis = head.expression_dirs
    offset = jnp.einsum("...e,vce->...vc", expression, basis, precision=_PRECISION)
    if shape is not None and head.shape_dirs.shape[-1]:
        known = min(shape.shape[-1], head.shape_dirs.shape[-1])
        identity = jnp.einsum(
            "...i,vci->...vc",
            shape[..., :known],
            head.shape_dirs[..., :known],
            precision=_PRECISION,
        )
        batch = jnp.broadcast_shapes(identity.shape, offset.shape)
        offset = jnp.broadcast_to(identity, batch) + jnp.broadcast_to(offset, batch)
    return jnp.broadcast_to(head.v_template, offset.shape) + offset


def vertices(head, motion, shape=None, head_joint="neck", pose=True):
    """Vertices of motion coefficients (FLAME's skinning; differentiable, jit-able).

    Args:
      head: `assets.Head`.
      motion: [..., 56] raw coefficients: expression, jaw and neck axis-angle (radians).
      shape: optional [n] or [..., n] identity coefficients, leading axes broadcast
        against motion's.
      head_joint: the joint that the last three coefficients turn: "neck", or "root" for
        DiffPoseTalk's tracks (a rigid turn of the whole head).
      pose: False holds the head still (vertex metrics).

    Returns:
      [..., V, 3] metres.

    Raises:
      ValueError: motion is not 56 wide, or head_joint is unknown.
    """
    motion = jnp.asarray(motion)
    if motion.ndim < 1 or motion.shape[-1] != motion_layout.F:
        raise ValueError(
            f"motion has shape {motion.shape}; expected [..., {motion_layout.F}]"
        )
    if shape is not None:
        shape = jnp.asarray(shape)
    rest = shaped(head, motion[..., motion_layout.EXPRESSION], shape)
    joints = jnp.einsum(
        "jv,...vc->...jc", head.joint_regressor, rest, precision=_PRECISION
    )
    rotations = rodrigues(full_pose(motion, head_joint, pose))
    rotations = jnp.broadcast_to(rotations, (*joints.shape, 3))
    feature = rotations[..., 1:, :, :] - jnp.broadcast_to(
        jnp.eye(3, dtype=rotations.dtype), rotations[..., 1:, :, :].shape
    )
    feature = feature.reshape(*feature.shape[:-3], -1)
    corrective = jnp.matmul(feature, head.posedirs, precision=_PRECISION)
    posed = rest + corrective.reshape(rest.shape)
    transforms = _joint_transforms(rotations, joints)
    blended = jnp.einsum(
        "vj,...jab->...vab", head.weights, transforms, precision=_PRECISION
    )
    return _apply(blended[..., :3], posed) + blended[..., 3]
