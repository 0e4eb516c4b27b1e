"""Writes the small model files of tests/fixtures/kinds, each with the library that owns its format.

Run once by hand, never by a test: python make_model_files.py FOLDER [KIND...]
Made with safetensors 0.8, gguf 0.19, numpy 2.4, coremltools 9, joblib 1.6, torch 2.15 and tensorflow-cpu 2.21.
"""

import importlib.metadata
import pathlib
import pickle
import shutil
import sys


def safetensors(folder):
    import numpy as np
    from safetensors.numpy import save_file

    tensors = {"weight": np.arange(12, dtype=np.float32).reshape(3, 4), "bias": np.zeros(3, dtype=np.float16)}
    save_file(tensors, folder / "linear.safetensors", metadata={"format": "np"})


def gguf(folder):
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(folder / "tiny.gguf", "llama")
    writer.add_name("tiny")
    writer.add_context_length(32)
    writer.add_token_list(["<s>", "a", "b"])
    writer.add_tensor("token_embd.weight", np.zeros((3, 32), dtype=np.float32))
    writer.add_tensor("output.weight", np.zeros((3, 32), dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def coreml(folder):
    import coremltools as ct
    import numpy as np
    from coremltools.converters.mil import Builder as mb
    from coremltools.models import datatypes
    from coremltools.models.neural_network import NeuralNetworkBuilder

    builder = NeuralNetworkBuilder([("x", datatypes.Array(4))], [("y", datatypes.Array(2))])
    builder.add_inner_product("dense", np.ones((2, 4)), np.zeros(2), 4, 2, True, "x", "y")
    model = ct.models.MLModel(builder.spec)
    model.author, model.short_description = "Modelyard", "Two sums"
    model.save(str(folder / "dense.mlmodel"))

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 4))])
    def program(x):
        return mb.relu(x=x, name="y")

    target = folder / "relu.mlpackage"
    shutil.rmtree(target, ignore_errors=True)
    ct.convert(program, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS16).save(str(target))


def savedmodel(folder):
    import tensorflow as tf

    class Wine(tf.Module):
        def __init__(self):
            super().__init__()
            self.weight = tf.Variable(tf.ones([4, 3]))

        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, "features")])
        def score(self, features):
            return {"scores": features @ self.weight, "label": tf.argmax(features @ self.weight, axis=1)}

    wine = Wine()
    target = folder / "wine_tf"
    shutil.rmtree(target, ignore_errors=True)
    tf.saved_model.save(wine, str(target), signatures=wine.score)


def torch_files(folder):
    import torch

    model = torch.nn.Linear(2, 1)
    torch.manual_seed(0)
    torch.nn.init.ones_(model.weight)
    torch.save(model.state_dict(), folder / "state.pt")
    torch.jit.script(model).save(str(folder / "script.pt"))
    exported = torch.export.export(model, (torch.zeros(3, 2),))
    torch.export.save(exported, folder / "exported.pt2")


def pickles(folder):
    import os

    import joblib
    import numpy as np

    class Bad:
        def __reduce__(self):
            return os.system, ("true",)

    (folder / "bad.pkl").write_bytes(pickle.dumps(Bad(), protocol=4))
    joblib.dump({"weights": np.arange(4.0)}, folder / "plain.joblib")
    joblib.dump({"weights": np.arange(4.0)}, folder / "packed.joblib", compress=3)
    (folder / "old.pkl").write_bytes(pickle.dumps({"a": Bad()}, protocol=0))
    np.save(folder / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(folder / "numbers.npy", np.arange(3))


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    makers = {make.__name__: make for make in (safetensors, gguf, coreml, savedmodel, torch_files, pickles)}
    for name in sys.argv[2:] or makers:
        makers[name](folder)
    for name in ("safetensors", "gguf", "numpy", "coremltools", "joblib", "torch", "tensorflow-cpu"):
        try:
            print(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            pass


main()
