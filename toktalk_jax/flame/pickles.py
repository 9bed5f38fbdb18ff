"""Reads the arrays of strangers' pickles without running what a pickle may contain.

A pickle is a program. Nothing of NumPy is let in: its builders are replaced by our own,
which read a plain dtype, a shape and bytes, and check that they fit; handing out
`np.dtype` itself would let a crafted one turn bytes into object pointers. Chumpy, SciPy
and PyTorch objects become inert records, whose numbers are then read by hand, so that
none of these packages is needed (chumpy no longer installs).
"""

import collections
import io
import pickle
import re
import types

import numpy as np

_PLAIN = {  # immutable types: a pickle cannot change them
    ("builtins", "set"): set,
    ("builtins", "bytearray"): bytearray,
    ("builtins", "slice"): slice,
    ("collections", "OrderedDict"): collections.OrderedDict,
}
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_DTYPE = re.compile(r"[biufc]\d{1,2}|[SU]\d{1,6}|O8|O")


class Record:
    """An object of a foreign class: its fields, and nothing of its code."""

    fields = types.MappingProxyType({})

    def __init__(self, *arguments):
        """Takes whatever the foreign class took."""

    def __setstate__(self, state):
        slots = state[1] if isinstance(state, tuple) and len(state) == 2 else {}
        plain = state[0] if isinstance(state, tuple) else state
        self.fields = {**(plain or {}), **(slots or {})}


class _Call:
    """A function that a pickle may call; made anew per look-up, so it keeps no mark."""

    __slots__ = ("function",)

    def __init__(self, function):
        self.function = function

    def __call__(self, *arguments):
        return self.function(*arguments)


class _Dtype:
    """A dtype as it is pickled: a plain name, then a state with the byte order."""

    __slots__ = ("name", "order")

    def __init__(self, name, *_):
        name = name.decode("ascii") if isinstance(name, bytes) else name
        if not isinstance(name, str) or not _DTYPE.fullmatch(name):
            raise pickle.UnpicklingError(f"an array of dtype {str(name)[:40]!r}")
        self.name, self.order = name, "="

    def __setstate__(self, state):
        order = state[1].decode() if isinstance(state[1], bytes) else state[1]
        if any(part is not None for part in state[2:5]) or order not in tuple("<>|="):
            raise pickle.UnpicklingError("an array of a dtype with parts")
        self.order = order

    def real(self):
        """The `np.dtype`; never of objects."""
        if self.name[0] == "O":
            raise pickle.UnpicklingError("objects where numbers were expected")
        return np.dtype(self.name).newbyteorder(self.order)


class _Array:
    """An array as it is pickled: empty, then a state of shape, dtype and content."""

    __slots__ = ("value",)

    def __init__(self, *_):
        self.value = None

    def __setstate__(self, state):
        _, shape, dtype, fortran, content = state
        if not isinstance(dtype, _Dtype):
            raise pickle.UnpicklingError("an array without a dtype")
        order = "F" if fortran else "C"
        if dtype.name[0] == "O":
            if not isinstance(content, list):
                raise pickle.UnpicklingError("an array of objects that is no list")
            flat = np.empty(len(content), object)
            flat[:] = content
            self.value = flat.reshape(shape, order=order)
            return
        content = content.encode("latin1") if isinstance(content, str) else content
        self.value = _numbers(content, dtype, shape, order)


def _numbers(content, dtype, shape, order="C"):
    if not isinstance(dtype, _Dtype):
        raise pickle.UnpicklingError("an array without a dtype")
    if not isinstance(content, (bytes, bytearray)):
        raise pickle.UnpicklingError("an array whose content is no bytes")
    array = np.frombuffer(bytes(content), dtype.real())
    return array.reshape(shape, order=order).copy(order="K")


def _scalar(dtype, content):
    content = content.encode("latin1") if isinstance(content, str) else content
    return _numbers(content, dtype, ())[()]


def _new_record(kind, *_):
    if not (isinstance(kind, type) and issubclass(kind, Record)):
        raise pickle.UnpicklingError("it builds an object of no known class")
    return kind()


def _latin1(text, encoding="latin1"):
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes text as {encoding!r}")
    return text.encode("latin1")


_BUILDERS = {  # what NumPy's pickles call: name in any of its modules
    "ndarray": _Array,
    "dtype": _Dtype,
    "_reconstruct": _Array,
    "scalar": _scalar,
    "_frombuffer": _numbers,
}


class _Restricted(pickle.Unpickler):
    foreign = ("chumpy", "scipy", "torch")

    def find_class(self, module, name):
        top = module.split(".")[0]
        place = (_PYTHON_2.get(module, module), name)
        if place in _PLAIN:
            return _PLAIN[place]
        if place == ("_codecs", "encode"):
            return _Call(_latin1)
        if place == ("builtins", "object"):
            return _Call(Record)
        if top == "numpy" and name in _BUILDERS:
            return _Call(_BUILDERS[name])
        if self.foreign and place == ("copyreg", "_reconstructor"):
            return _Call(_new_record)
        if top in self.foreign:
            return type(name, (Record,), {"package": top})
        raise pickle.UnpicklingError(
            f"it asks for {module}.{name}; only NumPy arrays"
            + (", SciPy sparse matrices and chumpy arrays" if self.foreign else "")
            + " and plain containers are read"
        )

    def persistent_load(self, pid):
        raise pickle.UnpicklingError("it refers to an object outside the file")

    def load(self):
        return _resolved(super().load())


class _ArraysOnly(_Restricted):
    foreign = ()


def _resolved(value):
    """The loaded object with its arrays in place of what stood for them."""
    if isinstance(value, _Array):
        array = value.value
        if array is None:
            raise pickle.UnpicklingError("an array without content")
        if array.dtype == object:
            for k, item in enumerate(array.flat):
                array.flat[k] = _resolved(item)
        return array
    if isinstance(value, Record):
        value.fields = {k: _resolved(v) for k, v in value.fields.items()}
        return value
    if isinstance(value, dict):
        return type(value)((k, _resolved(v)) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return type(value)(_resolved(v) for v in value)
    return value


def loads(data):
    """An object of NumPy arrays and plain containers from a pickle's bytes.

    Raises:
      pickle.UnpicklingError: broken, or it asks for anything else; nothing has run.
    """
    try:
        return _ArraysOnly(io.BytesIO(data)).load()
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
