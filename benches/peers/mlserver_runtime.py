"""MLServer's custom runtime with onnxruntime. MLServer imports it; the model's path is in model-settings.json."""

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1


class Onnx(MLModel):
    async def load(self) -> bool:
        self.session = onnxruntime.InferenceSession(
            self.settings.parameters.uri, options, providers=["CPUExecutionProvider"]
        )
        self.names = [output.name for output in self.session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        feeds = {tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs}
        values = self.session.run(self.names, feeds)
        outputs = [NumpyCodec.encode_output(name, value) for name, value in zip(self.names, values)]
        return InferenceResponse(model_name=self.name, outputs=outputs)
