"""The worker of a `python` package: loads its function, and answers over a socket until that is closed.

One file, the standard library, and NumPy where the package's environment has it; Python 3.9 or newer.
The frames are described in docs/reference/python-runtime.md. What is printed goes to the log.
"""

import base64
import importlib
import inspect
import json
import os
import select
import signal
import socket
import struct
import sys
import threading
import traceback

try:
    import numpy
except ImportError:
    numpy = None

MAGIC = b"MYD1"
HEADER = struct.Struct("<4sIQ")
MOST_HEAD = 1 << 20
MOST_BODY = 1 << 30
# By datatype: NumPy's name, and struct's letter.
FORMS = {
    "BOOL": ("bool", "?"),
    "UINT8": ("<u1", "B"),
    "UINT16": ("<u2", "H"),
    "UINT32": ("<u4", "I"),
    "UINT64": ("<u8", "Q"),
    "INT8": ("<i1", "b"),
    "INT16": ("<i2", "h"),
    "INT32": ("<i4", "i"),
    "INT64": ("<i8", "q"),
    "FP16": ("<f2", "e"),
    "FP32": ("<f4", "f"),
    "FP64": ("<f8", "d"),
}


class Misfit(Exception):
    """What the function gave does not fit the signature. The text holds no data."""


def read(sock, count):
    """Exactly `count` bytes; ends the process when the server has gone."""
    data = bytearray(count)
    view = memoryview(data)
    while len(view):
        got = sock.recv_into(view)
        if got == 0:
            os._exit(0)
        view = view[got:]
    return data


def receive(sock):
    magic, head, body = HEADER.unpack(bytes(read(sock, HEADER.size)))
    if magic != MAGIC or head > MOST_HEAD or body > MOST_BODY:
        os._exit(3)
    message = json.loads(read(sock, head))
    tensors = {}
    for spec in message.get("tensors", ()):
        tensors[spec["name"]] = decoded(spec["datatype"], spec["shape"], read(sock, spec["bytes"]))
    return message, tensors


def send(sock, message, parts=()):
    head = json.dumps(message).encode()
    parts = [part for part in parts if len(part)]
    sock.sendall(HEADER.pack(MAGIC, len(head), sum(len(part) for part in parts)) + head)
    for part in parts:
        sock.sendall(part)


def texts(data):
    found, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        found.append(data[at + 4 : at + 4 + length].decode())
        at += 4 + length
    return found


def decoded(datatype, shape, data):
    """A NumPy array, or nested lists where there is no NumPy."""
    if datatype == "BYTES":
        flat = texts(data)
        if numpy is None:
            return nested(flat, shape)
        array = numpy.empty(len(flat), dtype=object)
        array[:] = flat
        return array.reshape(shape)
    name, letter = FORMS[datatype]
    if numpy is None:
        count = len(data) // struct.calcsize(letter)
        return nested(list(struct.unpack("<%d%s" % (count, letter), data)), shape)
    if not data:
        return numpy.empty(shape, dtype=name)
    return numpy.frombuffer(data, dtype=name).reshape(shape)


def nested(flat, shape):
    if not shape:
        return flat[0]
    for axis in reversed(shape[1:]):
        flat = [flat[at : at + axis] for at in range(0, len(flat), axis)] if axis else [[] for _ in flat or [0]]
    return flat


def shape_of(value, name):
    if not isinstance(value, (list, tuple)):
        return []
    inner = [shape_of(item, name) for item in value]
    if any(shape != inner[0] for shape in inner):
        raise Misfit("output `%s` is ragged: its lists differ in length" % name)
    return [len(value)] + (inner[0] if inner else [])


def flatten(value):
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in flatten(item)]
    return [value]


def packed_texts(flat, name):
    out = bytearray()
    for text in flat:
        if isinstance(text, str):
            text = text.encode()
        if not isinstance(text, bytes):
            raise Misfit("output `%s` holds something else than texts" % name)
        out += struct.pack("<I", len(text)) + text
    return out


def encoded(spec, value):
    """The shape and the bytes of an output."""
    name, datatype = spec["name"], spec["datatype"]
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    if numpy is None:
        shape, flat = shape_of(value, name), flatten(value)
        if datatype == "BYTES":
            return shape, packed_texts(flat, name)
        try:
            return shape, struct.pack("<%d%s" % (len(flat), FORMS[datatype][1]), *flat)
        except struct.error:
            raise Misfit("output `%s` holds something else than %s" % (name, datatype)) from None
    if datatype == "BYTES":
        array = numpy.asarray(value, dtype=object)
        return list(array.shape), packed_texts(array.ravel().tolist(), name)
    array = array_of(value, name, datatype)
    return list(array.shape), memoryview(numpy.ascontiguousarray(array).tobytes())


def array_of(value, name, datatype):
    wanted = numpy.dtype(FORMS[datatype][0])
    if isinstance(value, (numpy.ndarray, numpy.generic)):
        if value.dtype != wanted:
            raise Misfit("output `%s` is an array of %s, and the signature says %s" % (name, value.dtype, datatype))
        return numpy.asarray(value, dtype=wanted)
    try:
        array = numpy.asarray(value)
    except ValueError:
        raise Misfit("output `%s` is ragged: its lists differ in length" % name) from None
    # Python's own numbers have no width: what fits is taken.
    fits = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[wanted.kind]
    cast = array.astype(wanted) if array.dtype.kind in fits or not array.size else None
    if cast is None or (wanted.kind in "iu" and (cast != array).any()):
        raise Misfit("output `%s` holds something else than %s" % (name, datatype))
    return cast


def answer(specs, given):
    """What the function gave, held against the signature."""
    if not isinstance(given, dict):
        if len(specs) != 1:
            raise Misfit("the function gave no dict, and the signature has %d outputs" % len(specs))
        given = {specs[0]["name"]: given}
    known = [spec["name"] for spec in specs]
    for name in given:
        if name not in known:
            raise Misfit("the function gave %.80r, which the signature has not" % (name,))
    heads, parts = [], []
    for spec in specs:
        if spec["name"] not in given:
            raise Misfit("output `%s` is missing" % spec["name"])
        shape, data = encoded(spec, given[spec["name"]])
        wanted = spec["shape"]
        if len(shape) != len(wanted) or any(want >= 0 and want != have for want, have in zip(wanted, shape)):
            raise Misfit("output `%s` has the shape %s, and the signature says %s" % (spec["name"], shape, wanted))
        head = {"name": spec["name"], "datatype": spec["datatype"], "shape": shape, "bytes": len(data)}
        if isinstance(given, Given):
            head["form"] = given.forms[spec["name"]]
        heads.append(head)
        parts.append(data)
    if sum(len(part) for part in parts) > MOST_BODY:
        raise Misfit("the outputs are larger than 1 GiB")
    return heads, parts


class Refused(Exception):
    """What a caller sent cannot be used. The text holds no data."""


class Given(dict):
    """Outputs by name, and by `forms` how MLflow's own server would write each of them."""

    forms = ()


def mlflow_model(folder, specs):
    from mlflow import pyfunc

    model = pyfunc.load_model(folder)
    signature = model.metadata.signature
    schema = signature.inputs if signature is not None else None
    columns = schema is None or not schema.is_tensor_spec()
    params = {spec.name: spec for spec in getattr(signature, "params", None) or []}
    kinds = {spec.name: getattr(spec.type, "name", "") for spec in schema.inputs} if schema and columns else {}

    def predict(inputs):
        further = {name: parameter(params[name], inputs.pop(name)) for name in list(inputs) if name in params and name not in kinds}
        if columns and (signature is not None or len(inputs) > 1):
            import pandas

            # As arrays: lists would lose the width of numbers, which MLflow holds against its own signature.
            table = {name: column(name, array.reshape(len(array)), kinds.get(name)) for name, array in inputs.items()}
            given = pandas.DataFrame(table)
        else:
            given = next(iter(inputs.values())) if len(inputs) == 1 else inputs
        return fitted(model.predict(given, params=further) if further else model.predict(given), specs)

    return predict


def column(name, array, kind):
    """A column as MLflow's signature wants it: dates and bytes come as texts, as in JSON."""
    try:
        if kind == "datetime":
            import pandas

            return pandas.to_datetime(pandas.Series(array.tolist()), format="ISO8601", utc=True).dt.tz_localize(None).to_numpy()
        if kind == "binary":
            array[:] = [base64.b64decode(text, validate=True) for text in array]
    except ValueError:
        raise Refused("input `%s` holds something else than %s" % (name, "dates as ISO 8601 has them" if kind == "datetime" else "Base64")) from None
    return array


def parameter(spec, array):
    values = array.ravel().tolist()
    if getattr(spec.dtype, "name", "") == "datetime":
        try:
            values = [numpy.datetime64(value) for value in values]
        except ValueError:
            raise Refused("parameter `%s` is no date as ISO 8601 has them" % spec.name) from None
    return values if spec.shape else values[0]


def fitted(given, specs):
    """Names, widths and axes as the package's signature has them: MLflow holds no answer against its signature, so these often differ."""
    one = specs[0]["name"] if len(specs) == 1 else None
    if hasattr(given, "columns"):
        names = [str(name) for name in given.columns]
        if one and len(names) > 1 and len(specs[0]["shape"]) == 2:
            named, forms = {one: given}, {one: None}
            return shaped(named, forms, specs)
        # One column is the one output, whatever either is called.
        named = {one if one and len(names) == 1 else name: given.iloc[:, at] for at, name in enumerate(names)}
        forms = {key: {"column": name} for key, name in zip(named, names)}
    elif hasattr(given, "to_numpy") and one:
        named, forms = {one: given}, {one: {"column": str(0 if given.name is None else given.name)}}
    elif isinstance(given, dict):
        named, forms = given, dict.fromkeys(given, "value")
    elif one:
        named, forms = {one: given}, {one: "list"}
    else:
        array = numpy.asarray(given)
        if array.ndim != 2 or array.shape[1] != len(specs):
            raise Misfit("the model gave an array of the shape %s, and the signature has %d outputs" % (list(array.shape), len(specs)))
        named = {spec["name"]: array[:, at] for at, spec in enumerate(specs)}
        forms = dict.fromkeys(named, "list")
    return shaped(named, forms, specs)


def shaped(named, forms, specs):
    known = {spec["name"]: spec for spec in specs}
    out = Given((name, fit(value, known[name]) if name in known else value) for name, value in named.items())
    out.forms = forms
    return out


def fit(value, spec):
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    try:
        array = numpy.asarray(value)
    except ValueError:
        return value
    if spec["datatype"] == "BYTES":
        array = as_texts(array)
    elif array.dtype != FORMS[spec["datatype"]][0]:
        array = as_numbers(array, numpy.dtype(FORMS[spec["datatype"]][0]), spec["name"])
    axes = len(spec["shape"])
    if axes == 1 and (array.ndim == 0 or array.shape[1:] == (1,)):
        array = array.reshape(-1)
    elif axes == 2 and array.ndim == 1 and spec["shape"][1] in (1, -1):
        array = array.reshape(-1, 1)
    return array


def as_texts(array):
    """Dates as ISO 8601 has them and bytes as Base64, as in MLflow's JSON."""
    if array.dtype.kind == "M":
        import pandas

        flat = [moment.isoformat() for moment in pandas.to_datetime(array.ravel())]
    else:
        flat = [base64.b64encode(item).decode() if isinstance(item, (bytes, bytearray)) else item for item in array.ravel().tolist()]
    out = numpy.empty(len(flat), dtype=object)
    out[:] = [item.isoformat() if hasattr(item, "isoformat") else item for item in flat]
    return out.reshape(array.shape)


def as_numbers(array, wanted, name):
    """Numbers of another width, if that loses nothing but digits of a fraction."""
    if array.dtype == object:
        # Columns that may lack values; what they hold are Python's own numbers.
        array = numpy.asarray(array.tolist())
    if array.dtype.kind in "biuf":
        with numpy.errstate(invalid="ignore"):
            cast = array.astype(wanted)
        if wanted.kind == "f" or (cast == array).all():
            return cast
    what = "output `%s` is %s, and the signature that the model was logged with says %s: log it with infer_signature(inputs, model.predict(inputs))"
    raise Misfit(what % (name, array.dtype, wanted))


def load(message):
    """The function, ready to be called with the inputs alone."""
    folder, entry = message["folder"], message["entry"]
    os.chdir(folder)
    sys.path.insert(0, folder)
    if entry.startswith("mlflow:"):
        return mlflow_model(os.path.join(folder, entry[len("mlflow:") :]), message["outputs"])
    module, _, path = entry.partition(":")
    function = importlib.import_module(module)
    for name in path.split("."):
        function = getattr(function, name)
    if not callable(function):
        raise TypeError("%s is no function" % entry)
    takes = inspect.signature(function).parameters
    further = {name: message[name] for name in ("flags", "parameters") if name in takes}
    return lambda inputs: function(inputs, **further)


def failure(error):
    traceback.print_exc()
    sys.stderr.flush()
    return {"kind": "failed", "what": "the function raised %s" % type(error).__name__}


def leave_with(sock):
    """Ends the process when the server does, whatever the function is busy with."""
    poller = select.poll()
    poller.register(sock, select.POLLHUP)
    poller.poll()
    os._exit(0)


def main():
    sock = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    # The server ends its workers itself, once every request is answered.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=leave_with, args=(sock,), daemon=True).start()
    message, _ = receive(sock)
    specs = message["outputs"]
    try:
        function = load(message)
    except BaseException as error:
        return send(sock, failure(error))
    versions = {"python": "%d.%d.%d" % sys.version_info[:3], "numpy": getattr(numpy, "__version__", None)}
    send(sock, {"kind": "ready", **versions})
    while True:
        _, inputs = receive(sock)
        try:
            heads, parts = answer(specs, function(inputs))
        except Misfit as error:
            send(sock, {"kind": "failed", "what": str(error)})
        except Refused as error:
            send(sock, {"kind": "refused", "what": str(error)})
        except BaseException as error:
            send(sock, failure(error))
        else:
            send(sock, {"kind": "answer", "tensors": heads}, parts)
        sys.stdout.flush()


main()
