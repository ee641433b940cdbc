// Usage: node predict.js ADDRESS MODEL. Prints what the server answers, as one JSON object.
"use strict";

const path = require("path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, model] = process.argv.slice(2);
const definition = loader.loadSync("serving.proto", {
  includeDirs: [path.join(__dirname, "protos")],
  keepCase: true,
  longs: String,
  enums: String,
  defaults: true,
  oneofs: true,
});
const { serving } = grpc.loadPackageDefinition(definition).tensorflow;
const signatures = definition["tensorflow.serving.SignatureDefMap"];
const credentials = grpc.credentials.createInsecure();
const prediction = new serving.PredictionService(address, credentials);
const models = new serving.ModelService(address, credentials);

// The answer, or the code and the text of the error.
function ask(client, method, request) {
  const deadline = new Date(Date.now() + 30000);
  return new Promise((resolve) => {
    client[method](request, { deadline }, (error, answer) => {
      resolve(error ? { code: grpc.status[error.code], details: error.details } : answer);
    });
  });
}

function predict(spec, tensor) {
  return ask(prediction, "Predict", { model_spec: spec, inputs: { x: tensor } });
}

async function main() {
  const shape = { dim: [{ size: 3 }] };
  const values = [1, 2, 5];
  const spec = { name: model };
  const content = Buffer.from(new Float32Array(values).buffer);
  const field = { dtype: "DT_FLOAT", tensor_shape: shape, float_val: values };
  const answers = {
    field: await predict(spec, field),
    content: await predict(
      { name: model, version: { value: 1 }, signature_name: "serving_default" },
      { dtype: "DT_FLOAT", tensor_shape: shape, tensor_content: content },
    ),
    absent: await predict({ name: "absent" }, field),
    status: await ask(models, "GetModelStatus", { model_spec: spec }),
  };
  const metadata = await ask(prediction, "GetModelMetadata", {
    model_spec: spec,
    metadata_field: ["signature_def"],
  });
  answers.metadata = {
    model_spec: metadata.model_spec,
    type_url: metadata.metadata.signature_def.type_url,
    signatures: signatures.deserialize(metadata.metadata.signature_def.value).signature_def,
  };
  console.log(JSON.stringify(answers));
  prediction.close();
  models.close();
}

main();
