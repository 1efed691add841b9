#!/usr/bin/env python3
"""Holds an exported model against ONNX's checker and runs it in ONNX Runtime.

  run_onnx.py MODEL FOLDER SHAPE...

For each SHAPE such as 1x3x32x32 the input is FOLDER/SHAPE.source, and FOLDER/SHAPE.image and FOLDER/SHAPE.heatmap are
written; all are raw little-endian float32. Prints one line about the model.
"""

import pathlib
import sys

import numpy
import onnx
import onnxruntime


def main():
    model, folder, shapes = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3:]
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for shape in shapes:
        source = numpy.fromfile(folder / f"{shape}.source", numpy.float32)
        source = source.reshape([int(extent) for extent in shape.split("x")])
        for name, value in zip(("image", "heatmap"), session.run(["image", "heatmap"], {"source": source})):
            value.tofile(folder / f"{shape}.{name}")
    meta = session.get_modelmeta()
    print(meta.producer_name, meta.graph_name, meta.version, meta.custom_metadata_map["direction"])


if __name__ == "__main__":
    main()
