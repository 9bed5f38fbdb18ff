"""Operations, steps and waits from an XProf trace file (XSpace, `*.xplane.pb`).

`jax.profiler.ProfileData` reads the events. The compiled programs, which say in which
`jax.named_scope` an instruction was written, lie in the same file where it does not
reach: they are taken from the protocol buffers themselves.
"""

import pathlib
import re
from typing import NamedTuple

from google.protobuf import empty_pb2
from google.protobuf.unknown_fields import UnknownFieldSet
from jax.profiler import ProfileData

from toktalk_jax.training.profile import INPUT, STEP

PROGRAMS = "/host:metadata"  # the plane that holds the compiled programs
TRACKS = "XLA Ops", "Stream"  # operations on a TPU's plane, on a GPU's
# Parts of an operation's name that no one wrote: JAX's, and methods of Flax modules.
PLUMBING = re.compile(
    r"p?jit|while|body|cond|scan|closed_call|shard_map|checkpoint|remat\w*|branch_.*"
    r"|custom_\w+_call|.*\..*|"
)


class Op(NamedTuple):
    """One run of an operation.

    Attributes:
      name: of the HLO instruction; scope: its named scopes, outermost first.
      backward: whether it belongs to the gradient.
      device: the plane; track: thread or stream on it, where operations nest.
      start, end: ns.
    """

    name: str
    scope: tuple
    backward: bool
    device: str
    track: str
    start: float
    end: float


class Trace(NamedTuple):
    """Attributes: steps, waits: [(start, end)] ns on the host; ops: list of `Op`."""

    steps: list
    waits: list
    ops: list


def find(directory):
    """The newest trace under a directory (or the file itself).

    Raises:
      FileNotFoundError: there is none.
    """
    directory = pathlib.Path(directory)
    if directory.is_file():
        return directory
    files = sorted(directory.rglob("*.xplane.pb"), key=lambda f: f.stat().st_mtime)
    if not files:
        raise FileNotFoundError(
            f"no *.xplane.pb under {directory}; write one with "
            "python -m toktalk_jax.train ... --profile_steps=10:20"
        )
    return files[-1]


def read(path):
    """A `Trace` from an XProf file.

    Raises:
      ValueError: the file is empty or torn, or holds no operation.
    """
    written = pathlib.Path(path).read_bytes()
    try:
        planes = list(ProfileData.from_serialized_xspace(written).planes)
    except RuntimeError as error:
        raise ValueError(
            f"{path} is torn ({error}); profile again and let the run end"
        ) from None
    names = op_names(written)
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    hosts = [plane for plane in planes if plane.name.startswith("/host:")]
    ops = [
        _op(event, plane.name, f"{plane.name} {line.name}", names)
        for plane in devices
        for line in plane.lines
        if line.name.startswith(TRACKS)
        for event in line.events
    ]
    trace = Trace([], [], ops)
    for plane in hosts:
        for number, line in enumerate(plane.lines):
            for event in line.events:
                span = event.start_ns, event.start_ns + event.duration_ns
                if event.name == INPUT:
                    trace.waits.append(span)
                elif event.name == STEP and "step_num" in dict(event.stats):
                    trace.steps.append(span)
                elif not devices and "hlo_op" in dict(event.stats):
                    trace.ops.append(_op(event, plane.name, str(number), names))
    if not trace.ops:
        raise ValueError(f"{path} holds no operation of a device; did anything run?")
    return trace


def _op(event, device, track, names):
    stats = dict(event.stats)
    # A TPU's event is named by its whole instruction, "%fusion.1 = f32[8] fusion(...)".
    name = stats.get("hlo_op") or event.name.split(" = ")[0].lstrip("%")
    program = f"{stats.get('hlo_module')}({stats.get('program_id')})"
    scope = scope_of(names.get((program, name)) or names.get(("", name), ""))
    end = event.start_ns + event.duration_ns
    return Op(name, *scope, device, track, event.start_ns, end)


def op_names(written):
    """{(program, instruction): op_name} of the programs that a trace file carries.

    Program "" knows every instruction, for events that name none; of two programs with
    an instruction of one name, the larger has it.
    """
    programs = {}
    for plane in _find(written, 1):  # XSpace.planes, XPlane.name
        if _find(plane, 2) != [PROGRAMS.encode()]:
            continue
        for entry in _find(plane, 4):  # XPlane.event_metadata, a map
            (metadata,) = _find(entry, 2)
            (program,) = _find(metadata, 2)  # XEventMetadata.name
            for stat in _find(metadata, 5):  # XEventMetadata.stats
                for proto in _find(stat, 6):  # XStat.bytes_value, an HloProto
                    programs[program.decode()] = dict(_instructions(proto))
    names = {}
    for program, found in sorted(programs.items(), key=lambda item: len(item[1])):
        names |= {("", name): op_name for name, op_name in found.items()}
        names |= {(program, name): op_name for name, op_name in found.items()}
    return names


def _instructions(proto):
    """(name, op_name) of each instruction of a serialised HloProto."""
    for module in _find(proto, 1):  # HloProto.hlo_module
        for computation in _find(module, 3):  # HloModuleProto.computations
            for instruction in _find(computation, 2):  # .instructions
                for metadata in _find(instruction, 7):  # .metadata
                    for op_name in _find(metadata, 2):  # OpMetadata.op_name
                        yield _find(instruction, 1)[0].decode(), op_name.decode()


def _find(message, number):
    """Values of one field of a serialised protocol buffer, whose schema XLA keeps."""
    fields = UnknownFieldSet(empty_pb2.Empty.FromString(message))
    return [field.data for field in fields if field.field_number == number]


def scope_of(op_name):
    """("loss", "down_0"), backward from "jit(f)/transpose(jvp(loss))/down_0/mul"."""
    scopes = []
    for part in op_name.split("/")[:-1]:  # the last part is the primitive
        while wrapped := re.fullmatch(r"(\w+)\((.*)\)", part):
            part = "" if wrapped[1] in ("jit", "pjit") else wrapped[2]
        if not PLUMBING.fullmatch(part):
            scopes.append(part)
    return tuple(scopes), "transpose(" in op_name
