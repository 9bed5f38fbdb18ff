"""Reads the arrays of FLAME's pickles without running what a pickle may contain.

A pickle is a program; these come from strangers' servers. Only NumPy's array builders
are let in. Chumpy, SciPy and PyTorch objects become inert records, whose numbers are
then read by hand, so that none of these packages is needed (chumpy no longer installs).
"""

import codecs
import collections
import copyreg
import io
import pickle
import types

import numpy as np

# NumPy's builders, taken from its own pickles: their modules move between versions.
_NUMPY = {
    "ndarray": np.ndarray,
    "dtype": np.dtype,
    "_reconstruct": np.zeros(1).__reduce__()[0],
    "scalar": np.float64(0).__reduce__()[0],
    "_frombuffer": np.zeros(1).__reduce_ex__(5)[0],
}
_PLAIN = {
    ("_codecs", "encode"): codecs.encode,
    ("copyreg", "_reconstructor"): copyreg._reconstructor,
    ("builtins", "object"): object,
    ("builtins", "set"): set,
    ("builtins", "slice"): slice,
    ("builtins", "bytearray"): bytearray,
    ("collections", "OrderedDict"): collections.OrderedDict,
}
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}


class Record:
    """An object of a foreign class: its fields, and nothing of its code."""

    fields = types.MappingProxyType({})

    def __init__(self, *arguments):
        """Takes whatever the foreign class took."""

    def __setstate__(self, state):
        slots = state[1] if isinstance(state, tuple) and len(state) == 2 else {}
        plain = state[0] if isinstance(state, tuple) else state
        self.fields = {**(plain or {}), **(slots or {})}


class _Restricted(pickle.Unpickler):
    def find_class(self, module, name):
        top = module.split(".")[0]
        place = (_PYTHON_2.get(module, module), name)
        if place in _PLAIN:
            return _PLAIN[place]
        if top == "numpy" and name in _NUMPY:
            return _NUMPY[name]
        if top in ("chumpy", "scipy", "torch"):
            return type(name, (Record,), {"package": top})
        raise pickle.UnpicklingError(
            f"it asks for {module}.{name}; only NumPy arrays, SciPy sparse matrices "
            "and chumpy arrays are read"
        )

    def persistent_load(self, pid):
        raise pickle.UnpicklingError("it refers to an object outside the file")


class _Arrays(_Restricted):
    def find_class(self, module, name):
        found = super().find_class(module, name)
        if isinstance(found, type) and issubclass(found, Record):
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}; only NumPy arrays and plain containers "
                "are read"
            )
        return found


def loads(data):
    """An object of NumPy arrays and plain containers from a pickle's bytes.

    Raises:
      pickle.UnpicklingError: broken, or it asks for anything else; nothing has run.
    """
    try:
        return _Arrays(io.BytesIO(data)).load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise pickle.UnpicklingError(f"not a whole pickle ({error})") from error


def load_arrays(path):
    """The named arrays of a FLAME pickle, masks pickle or embedding (.pkl or .npy).

    PyTorch tensors in a file are skipped. Sparse matrices come back dense.

    Raises:
      ValueError: the file is no pickle, holds no dict, or asks for foreign code.
      FileNotFoundError: no file there.
    """
    with open(path, "rb") as file:
        try:
            if file.read(6) == b"\x93NUMPY":
                file.seek(0)
                version = np.lib.format.read_magic(file)
                if version == (1, 0):
                    np.lib.format.read_array_header_1_0(file)
                else:
                    np.lib.format.read_array_header_2_0(file)
            else:
                file.seek(0)
            loaded = _Restricted(file, encoding="latin1").load()
            while isinstance(loaded, np.ndarray) and loaded.dtype == object:
                loaded = loaded.item()
        except Exception as error:  # a damaged pickle may raise anything
            raise ValueError(f"{path} cannot be read as a pickle: {error}") from error
    if not isinstance(loaded, dict):
        raise ValueError(
            f"{path} holds a {type(loaded).__name__}; expected a dict of named arrays"
        )
    plain = {str(key): _plain(value) for key, value in loaded.items()}
    return collections.OrderedDict((k, v) for k, v in plain.items() if v is not None)


def _plain(value):
    """A stored value as NumPy, or None for what holds no numbers we can read."""
    if not isinstance(value, Record):
        return value
    if value.package == "chumpy" and "x" in value.fields:
        return np.asarray(_plain(value.fields["x"]))
    if value.package == "scipy":
        return _dense(type(value).__name__, value.fields)
    return None


def _dense(kind, fields):
    """Dense array of a pickled SciPy sparse matrix or array (csc, csr, coo)."""
    shape = tuple(int(n) for n in fields.get("_shape", fields.get("shape", ())))
    if len(shape) != 2 or "data" not in fields:
        return None
    data = np.asarray(fields["data"])
    dense = np.zeros(shape, data.dtype)
    if kind[:3] == "coo":
        rows, columns = fields.get("coords") or (fields["row"], fields["col"])
    elif kind[:3] in ("csc", "csr"):
        counts = np.diff(fields["indptr"])
        major = np.repeat(np.arange(len(counts)), counts)
        minor = np.asarray(fields["indices"])
        rows, columns = (minor, major) if kind[:3] == "csc" else (major, minor)
    else:
        return None
    np.add.at(dense, (np.asarray(rows), np.asarray(columns)), data)
    return dense
